"""A folder of files of one format: the tokens of all requests, or the loads of all as steps.

Files are taken in the order of their names, numbers in them by value. Files that no reader knows (notes,
licences) are left out, and counted.
"""

from __future__ import annotations

import re

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin, load_counts
from moesim.trace.limits import size_fault
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens, joined
from moesim.trace.types import LoadCounts, Routing

_NUMBER = re.compile(r"(\d+)")


def _sniff(peek: Peek) -> float:
    return 0.1 if peek.is_folder and peek.names else 0.0


def _read(peek: Peek, hints: Hints) -> Routing:
    known, unknown = _known(peek)
    readers = {reader.name: reader for _, reader in known}
    if len(readers) > 1:
        held = "; ".join(f"{sum(r.name == name for _, r in known)} of {name}" for name in readers)
        raise TraceError(Fault(f"holds files of several formats: {held}", allowed="one format"), peek.path)
    if not known:
        held = ", ".join(peek.names[:4])
        raise TraceError(Fault(f"is a folder in no known trace format (it holds {held})"), peek.path)
    reader = next(iter(readers.values()))
    notes = (f"{unknown} files of the folder are in no known format, and were left out",) if unknown else ()
    names = [name for name, _ in known]
    origin = Origin(peek.path, warnings=notes, metadata={"format": reader.name, "files": str(len(names))})
    if reader.tokens is None:
        return _loads(peek, names, reader, hints, origin)
    parts: list[Tokens] = []
    held_bytes = 0
    for name in names:
        part = reader.tokens(peek.child(name), hints)
        held_bytes += 4 * part.ids.size
        fault = size_fault(held_bytes, "the whole folder")
        if fault:
            raise TraceError(fault, peek.path)
        parts.append(part)
    whole = joined(parts, peek.path, names)
    return _with(whole, origin).trace(hints)


def _known(peek: Peek) -> tuple[list[tuple[str, Reader]], int]:
    from moesim.trace.readers import find_reader

    known, unknown = [], 0
    for name in sorted(
        peek.names, key=lambda n: [(int(p), "") if p.isdecimal() else (-1, p) for p in _NUMBER.split(n)]
    ):
        try:
            known.append((name, find_reader(peek.child(name))))
        except TraceError:
            unknown += 1
    return known, unknown


def _with(tokens: Tokens, origin: Origin) -> Tokens:
    from dataclasses import replace

    inner = tokens.origin
    whole = replace(inner, warnings=(*inner.warnings, *origin.warnings), metadata=origin.metadata)
    return replace(tokens, origin=whole)


def _loads(peek: Peek, names: list[str], reader: Reader, hints: Hints, origin: Origin) -> Routing:
    parts = [reader.read(peek.child(name), hints) for name in names]
    loads = [part for part in parts if isinstance(part, LoadCounts)]
    if len(loads) < len(parts):
        what = f"holds several routing traces of the format {reader.name}, which are not joined"
        raise TraceError(Fault(what, allowed="one of its files"), peek.path)
    first = loads[0]
    faults = [
        Fault(f"has other layers or experts than {names[0]}", name)
        for name, part in zip(names, loads, strict=True)
        if (part.moe_layer_ids, part.num_experts) != (first.moe_layer_ids, first.num_experts)
    ]
    fault = size_fault(sum(part.counts.nbytes for part in loads), "the whole folder")
    if faults or fault:
        raise TraceError(faults[:5] or [fault or ""], peek.path)
    notes = tuple(dict.fromkeys(note for part in loads for note in part.warnings))
    whole = Origin(
        peek.path,
        model=first.model,
        num_experts=first.num_experts,
        layer_ids=first.moe_layer_ids,
        warnings=(*notes, *origin.warnings),
        metadata=origin.metadata,
    )
    return load_counts(np.concatenate([part.counts for part in loads]), whole, hints, first.top_k)


READER = Reader("folder", "a folder of files of one of these formats", _sniff, _read)
