"""Predictions against runs of the reference layer on the machine at hand."""
