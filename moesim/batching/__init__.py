"""Batching: requests of a routing trace, interleaved into the steps an engine would run."""

from typing import TYPE_CHECKING

from moesim.batching.types import MIXED, POLICIES, PREFILL_FIRST, Batcher, StepLoad, Steps, StepTime

if TYPE_CHECKING:
    from moesim.batching.assign import Sequences, nearest_sequences, recorded_requests
    from moesim.batching.batch import batch_requests, step_counts
    from moesim.batching.clock import EngineClock
    from moesim.batching.parquet import read_steps, write_steps
    from moesim.batching.scheduler import Schedule, schedule
    from moesim.batching.source import StepSource

# What needs numba or pyarrow takes longer to import than most commands take to run.
_LAZY = {
    "EngineClock": "clock",
    "Schedule": "scheduler",
    "Sequences": "assign",
    "StepSource": "source",
    "batch_requests": "batch",
    "nearest_sequences": "assign",
    "read_steps": "parquet",
    "recorded_requests": "assign",
    "schedule": "scheduler",
    "step_counts": "batch",
    "write_steps": "parquet",
}

__all__ = [
    "MIXED",
    "POLICIES",
    "PREFILL_FIRST",
    "Batcher",
    "EngineClock",
    "Schedule",
    "Sequences",
    "StepLoad",
    "StepSource",
    "StepTime",
    "Steps",
    "batch_requests",
    "nearest_sequences",
    "read_steps",
    "recorded_requests",
    "schedule",
    "step_counts",
    "write_steps",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
