"""Slots dealt to layers so that what each layer loses adds up to the least."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault

Array = npt.NDArray[np.float64]


def expected_misses(experts: int, single: Array, accuracy: Array) -> Array:
    """AdapMoE's f_l(s): experts that a token is expected to wait for with s of them resident.

    With ``a`` the part of tokens that take one expert and ``b`` the part of experts that the next layer's
    gate predicts in time, for a top-2 model of E experts and residents that are as good as random::

        f(s) = a (1 - s/E) (1 - b)
             + (1 - a) [2 p2 (1 - b) + p2 b + p1 (1 - b)]
        p2 = (E - s)(E - 1 - s) / (E (E - 1)),  p1 = 2 (E - s) s / (E (E - 1))

    Two missing experts of which the prediction brings one leave one to wait for. As ``src/dp.py`` of
    PKU-SEC-Lab/AdapMoE (commit 297c349), where E is 8.

    Parameters
    ----------
    experts
        E.
    single, accuracy
        ``a`` and ``b`` of each layer, ``[layers]``.

    Returns
    -------
    ndarray
        ``[layers, experts + 1]``.

    Examples
    --------
    >>> expected_misses(8, np.array([0.0]), np.array([0.0]))[0, [0, 8]].tolist()
    [2.0, 0.0]
    """
    s = np.arange(experts + 1.0)[None, :]
    a, b = np.asarray(single, float)[:, None], np.asarray(accuracy, float)[:, None]
    pairs = max(experts * (experts - 1), 1)
    both = np.maximum((experts - s) * (experts - 1 - s), 0) / pairs
    one = 2 * (experts - s) * s / pairs
    alone = (1 - s / experts) * (1 - b)
    return np.asarray(a * alone + (1 - a) * (2 * both * (1 - b) + both * b + one * (1 - b)))


def allocate(curves: Array, slots: int, least: int = 1) -> npt.NDArray[np.int64]:
    """Slots of each layer with the least sum of losses, by dynamic programming.

    Parameters
    ----------
    curves
        Loss of each layer by its slots, ``[layers, experts + 1]``; any shape of curve.
    slots
        Slots in all; more than there are experts are left over.
    least
        Slots of each layer at the least.

    Returns
    -------
    ndarray
        int64 ``[layers]``; they add up to `slots` or to all experts. Of equal sums the one that gives later
        layers fewer.

    Raises
    ------
    ConfigError
        If there are not `least` slots for every layer.

    Examples
    --------
    >>> allocate(np.array([[9.0, 1, 0], [9, 8, 0]]), 3).tolist()
    [1, 2]
    """
    layers, slots = _checked(curves, slots, least)
    return _dealt(np.ascontiguousarray(curves, np.float64), slots, least) if layers else np.zeros(0, np.int64)


def greedy(curves: Array, slots: int, least: int = 1) -> npt.NDArray[np.int64]:
    """Slots of each layer, one at a time where the next helps most.

    As good as `allocate` where every curve is convex, and faster: O(slots log slots).

    Parameters
    ----------
    curves, slots, least
        As for `allocate`.

    Returns
    -------
    ndarray
        int64 ``[layers]``.

    Examples
    --------
    >>> greedy(np.array([[9.0, 1, 0], [9, 5, 3]]), 3).tolist()
    [1, 2]
    """
    layers, slots = _checked(curves, slots, least)
    # What each further slot of a layer saves; a later one never counts for more than those before it.
    gains = np.minimum.accumulate(-np.diff(np.asarray(curves, np.float64), axis=1)[:, least:], axis=1)
    order = np.argsort(-gains.T, axis=None, kind="stable")[: slots - least * layers]
    return np.asarray(least + np.bincount(order % layers, minlength=layers), np.int64)


def _checked(curves: Array, slots: int, least: int) -> tuple[int, int]:
    """Layers, and the slots that can be used."""
    layers, most = curves.shape[0], curves.shape[1] - 1
    faults = []
    if not 0 <= least <= most:
        faults.append(Fault("is no number of slots of a layer", "least", least, f"0 to {most}"))
    if slots < least * layers:
        faults.append(Fault("are too few", "slots", slots, f"at least {least * layers}"))
    if not np.isfinite(curves).all():
        faults.append(Fault("holds what is no number", "curves"))
    if faults:
        raise ConfigError(faults)
    return layers, min(slots, layers * most)


@compiled
def _dealt(curves: Array, slots: int, least: int) -> npt.NDArray[np.int64]:
    """The exact allocation; `slots` is between `least` and all experts of all layers."""
    layers, most = curves.shape[0], curves.shape[1] - 1
    before = np.full(slots + 1, np.inf)
    before[0] = 0.0
    taken = np.zeros((layers, slots + 1), np.int64)
    for layer in range(layers):
        now = np.full(slots + 1, np.inf)
        for total in range(least * (layer + 1), min(slots, most * (layer + 1)) + 1):
            best, own = np.inf, least
            for s in range(least, min(most, total) + 1):
                loss = before[total - s] + curves[layer, s]
                if loss < best:
                    best, own = loss, s
            now[total] = best
            taken[layer, total] = own
        before = now
    found = np.zeros(layers, np.int64)
    left = slots
    for layer in range(layers - 1, -1, -1):
        found[layer] = taken[layer, left]
        left -= found[layer]
    return found
