"""Routing traces: which experts each token chose, or how often each was chosen."""

from moesim.trace.load import load_trace
from moesim.trace.shape import Shape, ShapeLike
from moesim.trace.types import DECODE, PREFILL, LoadCounts, Routing, RoutingTrace

__all__ = [
    "DECODE",
    "PREFILL",
    "LoadCounts",
    "Routing",
    "RoutingTrace",
    "Shape",
    "ShapeLike",
    "load_trace",
]
