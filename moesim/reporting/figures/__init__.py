"""Figures: one function per metric, each from plain values."""

from moesim.engine.roofline import Roof, RooflinePoint
from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.gain import PLACED, break_even, gain_by_batch
from moesim.reporting.figures.load import expert_load_map, imbalance_by_layer, rank_loads
from moesim.reporting.figures.roofline import roofline
from moesim.reporting.figures.theme import DARK, PAGE, PRINT, THEMES, Theme, css
from moesim.reporting.figures.time import bounds_and_intervals, time_breakdown

__all__ = [
    "DARK",
    "PAGE",
    "PLACED",
    "PRINT",
    "THEMES",
    "Figure",
    "Roof",
    "RooflinePoint",
    "Theme",
    "bounds_and_intervals",
    "break_even",
    "css",
    "expert_load_map",
    "gain_by_batch",
    "imbalance_by_layer",
    "rank_loads",
    "roofline",
    "time_breakdown",
]
