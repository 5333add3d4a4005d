"""Schedules of a MoE layer: what runs beside what, in how many chunks."""

from moesim.overlap.closed_forms import PATHS, closed_form, path_seconds
from moesim.overlap.colocate import Colocation, learn, local_rate
from moesim.overlap.fsmoe import CORRECTED, PRINTED, Bed, Layers, grid, layer_of, operation_seconds, stretched
from moesim.overlap.layer import LayerSeconds, backward
from moesim.overlap.locality import busiest_sent, capacity, capacity_bounds, grouped_exchange
from moesim.overlap.pair import WINDOWS, PairSeconds, exchange_of_share
from moesim.overlap.parallelism import Switch
from moesim.overlap.schedules import DEGREES, SCHEDULES, Chosen, layer_seconds, schedule_seconds
from moesim.overlap.shadow import ShadowLayer, smart_bound, smart_seconds, topology_limit
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
    "Colocation",
    "LayerSeconds",
    "Layers",
    "PairSeconds",
    "ShadowLayer",
    "Switch",
    "backward",
    "busiest_sent",
    "capacity",
    "capacity_bounds",
    "closed_form",
    "exchange_of_share",
    "exposed_seconds",
    "grid",
    "grouped_exchange",
    "layer_of",
    "layer_seconds",
    "learn",
    "local_rate",
    "operation_seconds",
    "overlapped_fraction",
    "path_seconds",
    "schedule_seconds",
    "smart_bound",
    "smart_seconds",
    "stretched",
    "topology_limit",
]
