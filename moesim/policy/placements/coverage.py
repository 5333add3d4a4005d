"""Hits of a fixed placement of popular experts, from load counts alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def popular_coverage(
    fitted: npt.NDArray[np.float64], evaluated: npt.NDArray[np.float64], share: float
) -> float:
    """Part of all accesses that find their expert among the most popular of another load.

    Every layer counts as much as every other one. The expert that fits only in part counts in part, so that
    counts of a few layers can stand for all layers of a model.

    Parameters
    ----------
    fitted
        Load counts that popularity is taken from, ``[layers, experts]``.
    evaluated
        Load counts of what is served, of the same shape.
    share
        Part of all experts that is resident, 0 to 1.

    Returns
    -------
    float
        The hit ratio.

    Examples
    --------
    Even loads hit with the resident share; so do random placements of any load, on average.

    >>> even = np.ones((2, 4))
    >>> popular_coverage(even, even, 0.3)
    0.3
    >>> popular_coverage(np.array([[3.0, 1, 0, 0]]), np.array([[2.0, 1, 1, 0]]), 0.25)
    0.5
    """
    seen = np.asarray(fitted, float) / np.sum(fitted, axis=1, keepdims=True)
    load = np.asarray(evaluated, float) / np.sum(evaluated, axis=1, keepdims=True) / len(evaluated)
    ordered = load.ravel()[np.argsort(-seen, axis=None, kind="stable")]
    inside = np.clip(share * ordered.size - np.arange(ordered.size), 0.0, 1.0)
    return float(ordered @ inside)
