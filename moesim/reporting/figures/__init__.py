"""Figures: one function per metric, each from plain values."""

from moesim.engine.roofline import Roof, RooflinePoint
from moesim.reporting.figures.accuracy import predicted_against_measured
from moesim.reporting.figures.caches import hit_ratio_curves, hits_by_layer
from moesim.reporting.figures.errors import error_cdf, signed_errors
from moesim.reporting.figures.experts import expert_load_map
from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.gain import PLACED, break_even, gain_by_batch
from moesim.reporting.figures.latency import latency_cdf
from moesim.reporting.figures.load import imbalance_by_layer, rank_loads
from moesim.reporting.figures.plans import PlanPoint, pareto_front
from moesim.reporting.figures.published import ScoreRow, ratio_histogram, scoreboard
from moesim.reporting.figures.quantiles import Quantiles
from moesim.reporting.figures.roofline import roofline
from moesim.reporting.figures.routing import expert_affinity, token_reuse
from moesim.reporting.figures.sensitivity import Effect, sensitivity_tornado
from moesim.reporting.figures.serving import serving_over_time
from moesim.reporting.figures.theme import DARK, PAGE, PRINT, THEMES, Theme, css
from moesim.reporting.figures.throughput import LoadPoint, load_curve
from moesim.reporting.figures.time import bounds_and_intervals, time_breakdown
from moesim.reporting.figures.timeline import Slice, timeline

__all__ = [
    "DARK",
    "PAGE",
    "PLACED",
    "PRINT",
    "THEMES",
    "Effect",
    "Figure",
    "LoadPoint",
    "PlanPoint",
    "Quantiles",
    "Roof",
    "RooflinePoint",
    "ScoreRow",
    "Slice",
    "Theme",
    "bounds_and_intervals",
    "break_even",
    "css",
    "error_cdf",
    "expert_affinity",
    "expert_load_map",
    "gain_by_batch",
    "hit_ratio_curves",
    "hits_by_layer",
    "imbalance_by_layer",
    "latency_cdf",
    "load_curve",
    "pareto_front",
    "predicted_against_measured",
    "rank_loads",
    "ratio_histogram",
    "roofline",
    "scoreboard",
    "sensitivity_tornado",
    "serving_over_time",
    "signed_errors",
    "time_breakdown",
    "timeline",
    "token_reuse",
]
