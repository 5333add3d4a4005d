"""Calibration on the machine at hand, by runs of the reference layer."""

from moesim.calibrate.reference.written import Anchor, anchors, default_path, inconclusive, measured

__all__ = ["Anchor", "anchors", "default_path", "inconclusive", "measured"]
