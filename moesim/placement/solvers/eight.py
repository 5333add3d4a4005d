"""The optimum of clusters and ranks at once, for models with so few experts that layers can be seen whole.

A layer has ``experts! / (room!)^ranks`` placements without replicas: 70 for 8 experts on 2 ranks, 2520 on 4.
What stays on a rank from one layer to the next is a sum over ranks of what their experts send each other, so
the best chain of placements is a longest path, found layer by layer. Placements above a cap on imbalance are
left out first. What is found is optimal among all plans without replicas under that cap.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.placement.solvers.chain import chain_lap
from moesim.placement.solvers.greedy import FloatArray, IntArray

#: More placements of a layer than this are not looked at.
MOST_STATES = 10_000


def states(experts: int, ranks: int) -> IntArray:
    """Every placement of one layer without replicas.

    Parameters
    ----------
    experts, ranks
        `ranks` divides `experts`.

    Returns
    -------
    ndarray
        Rank of each expert, int64 ``[states, experts]``.

    Raises
    ------
    ConfigError
        If the ranks do not divide the experts, or there are more than `MOST_STATES`.

    Examples
    --------
    >>> len(states(8, 2)), len(states(8, 4))
    (70, 2520)
    """
    if experts % ranks:
        raise ConfigError(Fault(f"must divide the {experts} experts", "ranks", ranks))
    room = experts // ranks
    number = math.factorial(experts) // math.factorial(room) ** ranks
    if number > MOST_STATES:
        fault = Fault(f"{experts} experts have {number} placements on {ranks} ranks", "experts", experts)
        raise ConfigError(fault)
    found = np.full((1, experts), -1, dtype=np.int64)
    for rank in range(ranks - 1):
        grown = []
        for chosen in itertools.combinations(range(experts), room):
            free = (found[:, list(chosen)] == -1).all(axis=1)
            more = found[free].copy()
            more[:, list(chosen)] = rank
            grown.append(more)
        found = np.concatenate(grown)
    return np.where(found == -1, ranks - 1, found)


def joint_optimum(pairs: FloatArray, loads: FloatArray, ranks: int, cap: FloatArray | float) -> IntArray:
    """Plan of least traffic between layers among all whose imbalance stays under a cap.

    Parameters
    ----------
    pairs
        Transitions, float64 ``[layers - 1, experts, experts]``.
    loads
        float64 ``[layers, experts]``.
    ranks
        Expert-parallel ranks; divides the experts.
    cap
        Largest over mean rank load allowed, per layer or for all.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, experts]``.

    Raises
    ------
    ConfigError
        If no placement of a layer is under its cap, or there are too many to look at.

    Examples
    --------
    >>> pairs = np.array([[[1.0, 1, 5, 5], [1, 1, 5, 5], [5, 5, 1, 1], [5, 5, 1, 1]]])
    >>> joint_optimum(pairs, np.ones((2, 4)), ranks=2, cap=1.0).tolist()
    [[0, 1, 2, 3], [2, 3, 0, 1]]
    """
    layers, experts = loads.shape
    caps = np.broadcast_to(np.asarray(cap, dtype=np.float64), (layers,))
    mean = loads.sum(axis=1) / ranks
    if experts == ranks:
        _reachable(loads.max(axis=1), mean, caps)
        return chain_lap(pairs, np.tile(np.arange(experts), (layers, 1)), ranks)
    every = states(experts, ranks)
    member = (every[:, :, None] == np.arange(ranks)).astype(np.float64)
    largest = np.einsum("le,ser->lsr", loads, member).max(axis=2)
    _reachable(largest.min(axis=1), mean, caps)
    fits = largest <= mean[:, None] * caps[:, None] * (1 + 1e-12)
    # What ranks are called does not matter, so the first layer's have one order.
    first = (every[:, None, :] == np.arange(ranks)[:, None]).argmax(axis=2)
    ordered = (np.diff(first, axis=1) > 0).all(axis=1)
    chosen = np.flatnonzero(fits[0] & ordered)
    best = np.zeros(len(chosen))
    trail = [(chosen, np.zeros_like(chosen))]
    for layer in range(1, layers):
        after = np.flatnonzero(fits[layer])
        # [from, rank, expert] of what each expert of the next layer would receive from the rank's own.
        sent = np.einsum("ser,ef->srf", member[chosen], pairs[layer - 1])
        stay = sent.reshape(len(chosen), -1) @ member[after].transpose(0, 2, 1).reshape(len(after), -1).T
        stay += best[:, None]
        came = stay.argmax(axis=0)
        best = stay[came, np.arange(len(after))]
        trail.append((after, came))
        chosen = after
    at = int(best.argmax())
    rows = []
    for after, came in reversed(trail):
        rows.append(np.argsort(every[after[at]], kind="stable"))
        at = int(came[at])
    return np.stack(rows[::-1])


def _reachable(least: FloatArray, mean: FloatArray, caps: FloatArray) -> None:
    """Raise for layers of which no placement is under the cap."""
    over = np.flatnonzero(least > mean * caps * (1 + 1e-12))
    if len(over):
        layer = int(over[0])
        need = f"{least[layer] / mean[layer]:.4f} or more"
        more = f", and of {len(over) - 1} more" if len(over) > 1 else ""
        raise ConfigError(
            Fault(f"no placement of layer {layer}{more} is so even", "cap", float(caps[layer]), need)
        )
