"""Schedules of a MoE layer: what runs beside what, in how many chunks."""

from moesim.overlap.closed_forms import PATHS, closed_form, path_seconds
from moesim.overlap.fsmoe import CORRECTED, PRINTED, Bed, Layers, grid, layer_of, operation_seconds, stretched
from moesim.overlap.layer import LayerSeconds, backward
from moesim.overlap.schedules import DEGREES, SCHEDULES, Chosen, layer_seconds, schedule_seconds
from moesim.overlap.shortcut import exposed_seconds, overlapped_fraction

__all__ = [
    "CORRECTED",
    "DEGREES",
    "PATHS",
    "PRINTED",
    "SCHEDULES",
    "Bed",
    "Chosen",
    "LayerSeconds",
    "Layers",
    "backward",
    "closed_form",
    "exposed_seconds",
    "grid",
    "layer_of",
    "layer_seconds",
    "operation_seconds",
    "overlapped_fraction",
    "path_seconds",
    "schedule_seconds",
    "stretched",
]
