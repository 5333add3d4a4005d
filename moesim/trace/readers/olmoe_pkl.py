"""OLMoE's expert counts: a pickled list with one ``Counter {expert: selections}`` per analysed layer.

The analysis behind these files looks at decoder layers 0, 7 and 15. Their sister files with pairs of experts
across layers hold no loads.
"""

from __future__ import annotations

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin, load_counts
from moesim.trace.limits import MAX_PICKLE_BYTES, size_fault
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.schema import MAX_EXPERTS
from moesim.trace.shape import Hints
from moesim.trace.types import LoadCounts

LAYERS = (0, 7, 15)


def _sniff(peek: Peek) -> float:
    # Every pickle of protocol 2 to 5 begins so; what else it may be is for `_read` to refuse.
    return 0.2 if peek.head[:1] == b"\x80" and peek.head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") else 0.0


def _read(peek: Peek, hints: Hints) -> LoadCounts:
    from moesim.trace.pickle_data import read_pickle

    fault = size_fault(peek.size, "the pickle", MAX_PICKLE_BYTES)
    if fault:
        raise TraceError(fault, peek.path)
    with peek.open() as stream:
        layers = read_pickle(stream.read(), peek.path)
    if not isinstance(layers, list) or not layers or not all(isinstance(c, dict) and c for c in layers):
        raise TraceError(Fault("is no list of expert counts, one per layer"), peek.path)
    if any(isinstance(key, tuple) for counter in layers for key in counter):
        raise TraceError(Fault("counts pairs of experts across layers, not loads"), peek.path)
    faults = [
        Fault("is no count of an expert", f"[{i}][{key!r}]", value, f"0 to {MAX_EXPERTS - 1}: at least 0")
        for i, counter in enumerate(layers)
        for key, value in counter.items()
        if not _is_whole(key) or key >= MAX_EXPERTS or not _is_whole(value)
    ]
    if faults:
        raise TraceError(faults[:5], peek.path)
    experts = max(max(counter) for counter in layers) + 1
    known = hints.shape.num_experts if hints.shape else hints.num_experts
    guess = () if known else (f"number of experts unknown: taken as {experts}, the largest id plus one",)
    counts = np.zeros((len(layers), max(experts, known or 0)), np.int64)
    for i, counter in enumerate(layers):
        counts[i, list(counter)] = list(counter.values())
    origin = Origin(peek.path, layer_ids=LAYERS if len(layers) == len(LAYERS) else None, warnings=guess)
    return load_counts(counts, origin, hints)


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


READER = Reader("olmoe-pkl", "OLMoE .pkl of expert counts", _sniff, _read)
