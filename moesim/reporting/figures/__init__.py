"""Figures: one function per metric, each from plain values."""

from moesim.reporting.figures.accuracy import error_cdf, predicted_against_measured, signed_errors
from moesim.reporting.figures.caches import hit_ratio_curves
from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.latency import latency_cdf, serving_over_time
from moesim.reporting.figures.plans import (
    Effect,
    LoadPoint,
    PlanPoint,
    load_curve,
    pareto_front,
    sensitivity_tornado,
)
from moesim.reporting.figures.published import ScoreRow, ratio_histogram, scoreboard
from moesim.reporting.figures.quantiles import Quantiles
from moesim.reporting.figures.routing import expert_affinity, token_reuse
from moesim.reporting.figures.theme import DARK, PRINT, THEMES, Theme

__all__ = [
    "DARK",
    "PRINT",
    "THEMES",
    "Effect",
    "Figure",
    "LoadPoint",
    "PlanPoint",
    "Quantiles",
    "ScoreRow",
    "Theme",
    "error_cdf",
    "expert_affinity",
    "hit_ratio_curves",
    "latency_cdf",
    "load_curve",
    "pareto_front",
    "predicted_against_measured",
    "ratio_histogram",
    "scoreboard",
    "sensitivity_tornado",
    "serving_over_time",
    "signed_errors",
    "token_reuse",
]
