"""Placement as integer programmes, with the bounds their solvers prove."""
