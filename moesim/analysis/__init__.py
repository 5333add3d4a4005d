"""What routing traces say: statistics of loads, locality and coupling."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesim.analysis.stats import Statistics, statistics

__all__ = ["Statistics", "statistics"]
# What needs compiled kernels takes longer to import than most commands take to run.
_LAZY = {"Statistics": "stats", "statistics": "stats"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
