"""A single ``.npy`` array of expert ids or of load counts.

Whole numbers ``[tokens, layers, top_k]`` are expert ids, as vLLM's `routed_experts` are when saved. Real
numbers ``[steps, layers, experts]``, or any numbers ``[layers, experts]``, are load counts: EPLB's weights,
or the matrices of MoE-Infinity, one per sequence, whose places that were never used are zero. Real numbers
of which some are negative are a router's scores.
"""

from __future__ import annotations

from moesim.errors import Fault, TraceError
from moesim.trace.arrays import read_npy
from moesim.trace.assemble import Origin, load_counts, routing_trace
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.readers.router_logits import is_scores, layer_in, of_scores
from moesim.trace.shape import Hints
from moesim.trace.types import Routing


def _sniff(peek: Peek) -> float:
    return 1.0 if peek.head.startswith(b"\x93NUMPY") else 0.0


def _read(peek: Peek, hints: Hints) -> Routing:
    try:
        with peek.open() as stream:
            array = read_npy(stream, peek.size, "the array")
    except TraceError as error:
        raise TraceError(error.faults, peek.path) from None
    origin = Origin(peek.path)
    if is_scores(array):
        return of_scores([array], layer_in(peek.path.name), peek, hints).trace(hints)
    if array.ndim == 3 and array.dtype.kind in "iu":
        return routing_trace(array, origin, hints, drop_blank=True)
    if array.ndim == 2 or (array.ndim == 3 and array.dtype.kind == "f"):
        return load_counts(array, origin, hints)
    allowed = "ids [tokens, layers, top_k] or load counts [layers, experts]"
    raise TraceError(Fault(f"is {array.dtype} {list(array.shape)}", "the array", allowed=allowed), peek.path)


READER = Reader("npy", ".npy of expert ids or load counts", _sniff, _read)
