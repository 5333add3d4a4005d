"""Grids of configurations, evaluated once each, on one machine or many, and kept."""
