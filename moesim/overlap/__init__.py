"""Schedules of a MoE layer: what runs beside what, in how many chunks."""

from moesim.overlap.closed_forms import PATHS, closed_form, path_seconds
from moesim.overlap.fsmoe import CORRECTED, PRINTED, Bed, Layers, grid, layer_of, operation_seconds, stretched
from moesim.overlap.layer import LayerSeconds, backward
from moesim.overlap.pair import WINDOWS, PairSeconds, exchange_of_share
from moesim.overlap.schedules import DEGREES, SCHEDULES, Chosen, layer_seconds, schedule_seconds
from moesim.overlap.shortcut import exposed_seconds, overlapped_fraction

__all__ = [
    "CORRECTED",
    "DEGREES",
    "PATHS",
    "PRINTED",
    "SCHEDULES",
    "WINDOWS",
    "Bed",
    "Chosen",
    "LayerSeconds",
    "Layers",
    "PairSeconds",
    "backward",
    "closed_form",
    "exchange_of_share",
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
