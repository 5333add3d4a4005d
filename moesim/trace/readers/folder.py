"""A folder of files of one format: the tokens of all requests, or the loads of all as steps.

Files are taken in the order of their names, numbers in them by value. Files that no reader knows (notes,
licences) are left out, and counted.
"""

from __future__ import annotations

import re
from dataclasses import replace

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
_SURE, _MAX_UNKNOWN = 0.5, 200


def _sniff(peek: Peek) -> float:
    return 0.1 if peek.is_folder and peek.names else 0.0


def _read(peek: Peek, hints: Hints) -> Routing:
    reader, names, notes = files_of(peek)
    if reader is None:
        held = ", ".join(peek.names[:4])
        raise TraceError(Fault(f"is a folder in no known trace format (it holds {held})"), peek.path)
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


def files_of(peek: Peek) -> tuple[Reader | None, list[str], tuple[str, ...]]:
    """The one format of a folder's files, the files of it in order, and what was left out.

    Raises
    ------
    TraceError
        If there are files of several formats.
    """
    from moesim.trace.readers import find_reader

    known: dict[str, list[str]] = {}
    readers: dict[str, Reader] = {}
    unknown, last = 0, None
    for name in sorted(peek.names, key=_by_number):
        try:
            child = peek.child(name)
            # To ask the last file's reader alone saves looking through thousands of files for every format.
            if last is None or last.sniff(child) < _SURE:
                last = find_reader(child)
        except TraceError:
            unknown += 1
            if unknown > _MAX_UNKNOWN and not known:
                break  # Somebody's home, not a trace.
            continue
        readers[last.name] = last
        known.setdefault(last.name, []).append(name)
    if len(known) > 1:
        held = "; ".join(f"{len(names)} of {name}" for name, names in known.items())
        raise TraceError(Fault(f"holds files of several formats: {held}", allowed="one format"), peek.path)
    notes = (f"{unknown} files of the folder are in no known format, and were left out",) if unknown else ()
    if not known:
        return None, [], notes
    ((name, names),) = known.items()
    return readers[name], names, notes


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdecimal() and len(p) < 20 else (-1, p) for p in _NUMBER.split(name)]


def _with(tokens: Tokens, origin: Origin) -> Tokens:
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
