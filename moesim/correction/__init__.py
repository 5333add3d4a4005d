"""What measured runs say beyond physics, and how far off an answer may be."""

from moesim.correction.calibration import METRICS, NOVELTY, Calibration, Corrected, Family
from moesim.correction.features import CATEGORIES, VALUES, Identity, known_as
from moesim.correction.process import Component, Process
from moesim.correction.shipped import calibration_of, shipped

__all__ = [
    "CATEGORIES",
    "METRICS",
    "NOVELTY",
    "VALUES",
    "Calibration",
    "Component",
    "Corrected",
    "Family",
    "Identity",
    "Process",
    "calibration_of",
    "known_as",
    "shipped",
]
