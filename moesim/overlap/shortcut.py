"""ScMoE: the all-to-all runs beside the layers that a shortcut spans (arXiv:2404.05019, Eq. 11).

The routed experts take their input from the block before, so that dispatch and combine depend on nothing that
is computed in between. One decision remains: between which two computations the experts run. What is computed
before that place hides the dispatch, what comes after hides the combine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.engine.routing import Array


def exposed_seconds(
    window: Sequence[Array | float], dispatch: Array | float, combine: Array | float
) -> Array:
    """Seconds of all-to-all that nothing hides, at the best place for the experts.

    Parameters
    ----------
    window
        Computations that the shortcut spans, in their order, each ``[layers]``.
    dispatch, combine
        Seconds of the two exchanges, ``[layers]``.

    Returns
    -------
    ndarray
        ``[layers]``: over places ``k``, the least of
        ``max(0, dispatch - sum(window[:k])) + max(0, combine - sum(window[k:]))``.

    Notes
    -----
    The paper writes ``|sum - dispatch|`` for each side, which also counts computation that is left over; as
    that computation is part of the layer anyway, only what is left of the communication is added here.

    Examples
    --------
    >>> float(exposed_seconds([2.0, 3.0, 1.0], 4.0, 1.0))
    0.0
    >>> float(exposed_seconds([2.0, 3.0, 1.0], 4.0, 4.0)), float(exposed_seconds([], 4.0, 4.0))
    (2.0, 8.0)
    """
    dispatch, combine = np.asarray(dispatch, dtype=np.float64), np.asarray(combine, dtype=np.float64)
    parts = [np.asarray(part, dtype=np.float64) for part in window]
    places = []
    for k in range(len(parts) + 1):
        before, after = sum(parts[:k], np.zeros(())), sum(parts[k:], np.zeros(()))
        places.append(np.maximum(0.0, dispatch - before) + np.maximum(0.0, combine - after))
    return np.asarray(np.min(places, axis=0))


def overlapped_fraction(
    window: Sequence[Array | float], dispatch: Array | float, combine: Array | float
) -> Array:
    """Part of the all-to-all that is hidden, ``[layers]``.

    >>> float(overlapped_fraction([2.0, 3.0, 1.0], 4.0, 4.0))
    0.75
    """
    total = np.asarray(dispatch, dtype=np.float64) + combine
    return np.asarray(1.0 - exposed_seconds(window, dispatch, combine) / total)
