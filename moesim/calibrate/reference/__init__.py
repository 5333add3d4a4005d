"""Calibration on the machine at hand, by runs of the reference layer."""
