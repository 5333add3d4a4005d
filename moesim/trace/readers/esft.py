"""ESFT's expert text: ``expert_weights_<decoder layer>.txt``, one file or a folder of them.

A line is a request: the expert ids of its tokens one after the other, a blank field, then as many weights,
all between tabs. How many ids belong to one token is not written down.
"""

from __future__ import annotations

import math
import re
from array import array

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin
from moesim.trace.json_text import shown
from moesim.trace.limits import size_fault
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.schema import MAX_EXPERTS, MAX_LAYERS
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
from moesim.trace.types import PREFILL

_FILE = re.compile(r"(?:.*/)?expert_weights_(\d{1,4})\.txt(?:\.gz)?")
_LINE = re.compile(rb"\d{1,5}(\t\d{1,5}){7}")
_MAX_TOP_K = 64
Ids = npt.NDArray[np.int32]


def _sniff(peek: Peek) -> float:
    if peek.is_folder:
        return 0.9 if any(_FILE.fullmatch(name) for name in peek.names) else 0.0
    return 0.6 if _LINE.match(peek.text_head) else 0.0


def _tokens(peek: Peek, hints: Hints) -> Tokens:
    if not peek.is_folder:
        named = _FILE.fullmatch(peek.path.name)
        files = [(int(named[1]) if named else 0, peek)]
    else:
        found = [(match, name) for name in peek.names if (match := _FILE.fullmatch(name))]
        files = sorted(((int(match[1]), peek.child(name)) for match, name in found), key=lambda f: f[0])
    layers = [layer for layer, _ in files]
    twice = sorted({layer for layer in layers if layers.count(layer) > 1})
    if twice or layers[-1] >= MAX_LAYERS:
        what = f"has several files of layers {twice[:5]}" if twice else "has a file of no possible layer"
        raise TraceError(Fault(what, allowed="one task, a file per layer"), peek.path)
    fault = size_fault(2 * peek.size, "the folder")
    if fault:
        raise TraceError(fault, peek.path)
    read = [_file(file) for _, file in files]
    lengths = read[0][2]
    faults = [
        Fault("has other requests, or of other lengths, than the first", str(file.path.name))
        for (_, file), (_, _, own) in zip(files, read, strict=True)
        if own != lengths
    ]
    if faults:
        raise TraceError(shown(faults), peek.path)
    top_k, notes = _top_k([ids for ids, _, _ in read], lengths, hints, peek)
    ids = np.stack([i.reshape(-1, top_k) for i, _, _ in read], axis=1)
    weights = np.stack([w.reshape(-1, top_k) for _, w, _ in read], axis=1)
    request = np.repeat(np.arange(len(lengths)), np.array(lengths) // top_k)
    known = peek.is_folder or _FILE.fullmatch(peek.path.name) is not None
    origin = Origin(peek.path, layer_ids=tuple(layers) if known else None, warnings=notes)
    phase = np.full(len(ids), PREFILL, np.int8)
    return Tokens(ids, origin, request=request, phase=phase, weights=weights)


def _file(peek: Peek) -> tuple[Ids, npt.NDArray[np.float32], tuple[int, ...]]:
    """Ids, weights, and ids per line."""
    ids, weights, lengths = array("i"), array("f"), []
    for number, line in peek.lines():
        where = f"line {number}"
        left, blank, right = line.rstrip(b"\r\n\t ").partition(b"\t\t")
        try:
            own = [int(field) for field in left.split(b"\t")]
            gates = [float(field) for field in right.split(b"\t")]
        except ValueError:
            raise TraceError(Fault("is no line of expert ids and weights", where), peek.path) from None
        good = blank and len(own) == len(gates) and min(own) >= 0 and max(own) < MAX_EXPERTS
        if not good or not all(abs(w) < 65504 for w in gates):
            what = f"has {len(own)} ids and {len(gates)} weights, or some out of range"
            raise TraceError(Fault(what, where), peek.path)
        ids.extend(own)
        weights.extend(gates)
        lengths.append(len(own))
    if not lengths:
        raise TraceError(Fault("holds no request"), peek.path)
    return np.frombuffer(ids, np.int32), np.frombuffer(weights, np.float32), tuple(lengths)


def _top_k(
    layers: list[Ids], lengths: tuple[int, ...], hints: Hints, peek: Peek
) -> tuple[int, tuple[str, ...]]:
    """Ids per token: what the caller says, else the most that divide every line into distinct experts."""
    common, known = math.gcd(*lengths), hints.known_top_k
    if known is not None:
        if common % known:
            fault = Fault(
                f"has lines that are no multiple of top-k {known}", allowed=f"a divisor of {common}"
            )
            raise TraceError(fault, peek.path)
        return known, ()
    for k in range(min(common, _MAX_TOP_K), 0, -1):
        if common % k == 0 and all(_distinct(ids.reshape(-1, k)) for ids in layers):
            return k, (f"top-k is not written down: taken as {k}, the most ids that never repeat",)
    return 1, ()


def _distinct(rows: Ids) -> bool:
    ordered = np.sort(rows, axis=1)
    return not bool((ordered[:, 1:] == ordered[:, :-1]).any())


READER = token_reader("esft", "ESFT's expert text, one file or a folder", _sniff, _tokens)
