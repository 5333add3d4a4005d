"""From a folder of requests to one canonical Parquet file, a file at a time: folders may exceed memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.peek import Peek
from moesim.trace.readers import find_reader
from moesim.trace.readers.base import Reader
from moesim.trace.readers.folder import READER as FOLDER
from moesim.trace.readers.folder import files_of
from moesim.trace.schema import ROUTING, Header
from moesim.trace.shape import Found, Hints, Shape, fit
from moesim.trace.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Streamed:
    """What was written.

    Parameters
    ----------
    header
        The header of the file.
    warnings
        What was assumed, and what was dropped on the way.
    """

    header: Header
    warnings: tuple[str, ...]


def stream_folder(
    path: str | os.PathLike[str], output: str | os.PathLike[str], hints: Hints
) -> Streamed | None:
    """Convert a folder of files of tokens to canonical Parquet; each file is read twice, and alone in memory.

    Parameters
    ----------
    path
        The folder.
    output
        The Parquet file; it appears whole or not at all.
    hints
        What the caller knows.

    Returns
    -------
    Streamed or None
        None if it is no folder of such files, and nothing was done.

    Raises
    ------
    TraceError
        If a file is damaged, or differs from the first in layers or top-k.
    """
    from moesim.trace.writer import TraceWriter

    peek = Peek(path)
    if not peek.is_folder or find_reader(peek) is not FOLDER:
        return None
    reader, names, notes = files_of(peek)
    if reader is None or reader.tokens is None:
        return None
    survey = _Survey(peek)
    for name in names:
        survey.add(name, _tokens(reader, peek, name, hints))
    shape, origin_notes, weights, token_ids = survey.decide(hints)
    header = Header(
        kind=ROUTING,
        num_experts=shape.num_experts,
        moe_layer_ids=shape.moe_layer_ids,
        top_k=shape.top_k,
        model=survey.model,
        warnings=(*origin_notes, *notes),
        metadata={"format": reader.name, "files": str(len(names))},
    )
    own, later, next_request = Hints(shape=shape), dict[str, None](), 0
    with TraceWriter(output, header, weights=weights, token_ids=token_ids) as writer:
        for name in names:
            trace = _tokens(reader, peek, name, own).trace(own)
            writer.append(
                trace.topk_ids,
                trace.request + np.int64(next_request),
                trace.position,
                trace.phase,
                trace.topk_weights if weights else None,
                trace.token_id if token_ids else None,
            )
            next_request += int(trace.request.max()) + 1
            later |= {f"{name}: {note}": None for note in trace.warnings if note.startswith("dropped")}
    dropped = list(later)
    more = (f"{len(dropped) - 5} more files with dropped tokens",) if len(dropped) > 5 else ()
    return Streamed(header, (*header.warnings, *dropped[:5], *more))


def _tokens(reader: Reader, peek: Peek, name: str, hints: Hints) -> Tokens:
    if reader.tokens is None:
        raise TraceError(Fault(f"files of the format {reader.name} are not joined"), peek.path)
    return reader.tokens(peek.child(name), hints)


class _Survey:
    """What all files show together."""

    def __init__(self, peek: Peek) -> None:
        self._peek = peek
        self._first: Tokens | None = None
        self._name = ""
        self._highest = np.zeros(0, np.int64)
        self._experts: set[int | None] = set()
        self._notes: dict[str, None] = {}
        self._weights = self._token_ids = True
        self.model = ""

    def add(self, name: str, part: Tokens) -> None:
        """Look at the tokens of a file."""
        if self._first is None:
            self._first = replace(part, ids=part.ids[:0], weights=None, token_id=None)
            self._name, self._highest = name, np.full(part.ids.shape[1:2], -1, np.int64)
        first = self._first
        if part.ids.ndim != 3 or part.ids.shape[1:] != first.ids.shape[1:] or not part.ids.size:
            own, other = list(part.ids.shape), list(first.ids.shape[1:])
            what = f"is [tokens, layers, top_k] = {own}, {self._name} is [..., {other[0]}, {other[1]}]"
            raise TraceError(Fault(what, name), self._peek.path)
        if part.origin.layer_ids != first.origin.layer_ids:
            raise TraceError(Fault(f"has other layers than {self._name}", name), self._peek.path)
        np.maximum(self._highest, part.ids.max(axis=0).max(axis=1), out=self._highest)
        self._experts.add(part.origin.num_experts)
        self._notes |= dict.fromkeys(part.origin.warnings)
        self._weights = self._weights and part.weights is not None
        self._token_ids = self._token_ids and part.token_id is not None

    def decide(self, hints: Hints) -> tuple[Shape, tuple[str, ...], bool, bool]:
        """Layers and experts, notes, and whether all have weights and token ids."""
        if self._first is None:
            raise TraceError(Fault("holds no file of tokens"), self._peek.path)
        rows, top_k = self._first.ids.shape[1:]
        layers = self._first.origin.layer_ids
        found = Found(
            rows=rows,
            max_id=int(self._highest.max()),
            top_k=top_k,
            num_experts=next(iter(self._experts)) if len(self._experts) == 1 else None,
            layer_ids=layers,
            blank=frozenset(np.flatnonzero(self._highest <= 0).tolist()),
            drop_blank=self._first.drop_blank,
        )
        decided = fit(found, hints, self._peek.path)
        self.model = decided.model
        depth = rows if layers is None else decided.layer_ids[-1] + 1
        if layers is None and len(decided.layer_ids) == rows:
            depth = decided.layer_ids[-1] + 1
        shape = Shape(decided.model, depth, decided.layer_ids, decided.num_experts, top_k)
        return shape, (*self._notes, *decided.warnings), self._weights, self._token_ids
