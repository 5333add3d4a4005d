"""What routing traces say: statistics of loads, locality and coupling."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesim.analysis.buffers import ORDERS, Displacement, displacement
    from moesim.analysis.check import check_file, check_trace
    from moesim.analysis.check_types import Finding, Report
    from moesim.analysis.compare import Comparison, compare_phases, compare_traces
    from moesim.analysis.grouped import by_request
    from moesim.analysis.insights import Insight, Insights, insights_of
    from moesim.analysis.stats import Statistics, statistics

__all__ = [
    "ORDERS",
    "Comparison",
    "Displacement",
    "Finding",
    "Insight",
    "Insights",
    "Report",
    "Statistics",
    "by_request",
    "check_file",
    "check_trace",
    "compare_phases",
    "compare_traces",
    "displacement",
    "insights_of",
    "statistics",
]
# What needs compiled kernels takes longer to import than most commands take to run.
_LAZY = {
    "ORDERS": "buffers",
    "Comparison": "compare",
    "Displacement": "buffers",
    "Finding": "check_types",
    "Insight": "insights",
    "Insights": "insights",
    "Report": "check_types",
    "Statistics": "stats",
    "by_request": "grouped",
    "check_file": "check",
    "check_trace": "check",
    "compare_phases": "compare",
    "compare_traces": "compare",
    "insights_of": "insights",
    "displacement": "buffers",
    "statistics": "stats",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
