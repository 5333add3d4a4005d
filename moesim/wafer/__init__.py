"""Wafers of dies: where experts lie, what they move over the mesh, and forecasts that keep them near."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesim.wafer.decode import FORECASTS, POLICIES, Outcome, replay, step_counts, streams
    from moesim.wafer.forecast import Forecast, copy_slots, learn
    from moesim.wafer.layer import LayerCost, Work, layer_cost
    from moesim.wafer.machine import Wafer, spread
    from moesim.wafer.tasks import allocated, at_home, dealt, shared

# numba takes longer to import than most commands take to run.
_LAZY = {
    "FORECASTS": "decode",
    "Forecast": "forecast",
    "LayerCost": "layer",
    "Outcome": "decode",
    "POLICIES": "decode",
    "Wafer": "machine",
    "Work": "layer",
    "allocated": "tasks",
    "at_home": "tasks",
    "copy_slots": "forecast",
    "dealt": "tasks",
    "layer_cost": "layer",
    "learn": "forecast",
    "replay": "decode",
    "shared": "tasks",
    "spread": "machine",
    "step_counts": "decode",
    "streams": "decode",
}
__all__ = [
    "FORECASTS",
    "POLICIES",
    "Forecast",
    "LayerCost",
    "Outcome",
    "Wafer",
    "Work",
    "allocated",
    "at_home",
    "copy_slots",
    "dealt",
    "layer_cost",
    "learn",
    "replay",
    "shared",
    "spread",
    "step_counts",
    "streams",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
