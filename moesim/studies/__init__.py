"""Grids of configurations, evaluated once each, on one machine or many, and kept.

What is below is loaded when first used: a process that evaluates does not need what runs a study.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesim.studies.door import load_study
    from moesim.studies.grid import Grid
    from moesim.studies.run import Done, query_study, results_folder, run_study
    from moesim.studies.table import query

__all__ = ["Done", "Grid", "load_study", "query", "query_study", "results_folder", "run_study"]

_HOME = {
    "Done": "run",
    "Grid": "grid",
    "load_study": "door",
    "query": "table",
    "query_study": "run",
    "results_folder": "run",
    "run_study": "run",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"moesim.studies.{_HOME[name]}"), name)
