"""Routing traces: which experts each token chose, or how often each was chosen.

`load_trace` reads any known format. `TraceReader` and `TraceWriter` stream the canonical Parquet.
"""

from typing import TYPE_CHECKING

from moesim.trace.convert import write_trace
from moesim.trace.load import load_trace
from moesim.trace.schema import Header
from moesim.trace.shape import Shape, ShapeLike
from moesim.trace.types import DECODE, PREFILL, LoadCounts, Routing, RoutingTrace, count_ids

if TYPE_CHECKING:
    from moesim.trace.reader import TokenBatch, TraceReader
    from moesim.trace.summary import Summary, summarise
    from moesim.trace.writer import TraceWriter

__all__ = [
    "DECODE",
    "PREFILL",
    "Header",
    "LoadCounts",
    "Routing",
    "RoutingTrace",
    "Shape",
    "ShapeLike",
    "Summary",
    "TokenBatch",
    "TraceReader",
    "TraceWriter",
    "count_ids",
    "load_trace",
    "summarise",
    "write_trace",
]
# What needs pyarrow takes longer to import than most commands take to run.
_LAZY = {
    "Summary": "summary",
    "TokenBatch": "reader",
    "TraceReader": "reader",
    "TraceWriter": "writer",
    "summarise": "summary",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
