"""Every placement of a small problem, looked at."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np


@cache
def _placements(experts, ranks, room):
    """Which rank holds which expert, 0/1 [placements, ranks, experts], ranks in any one order."""
    sets = list(itertools.combinations(range(experts), room))
    member = np.zeros((len(sets), experts))
    for row, chosen in enumerate(sets):
        member[row, list(chosen)] = 1
    index = np.array(list(itertools.combinations_with_replacement(range(len(sets)), ranks)))
    placed = member[index]
    return placed[(placed.sum(axis=1) > 0).all(axis=1)]


def optimum(loads, ranks, slots):
    """Least possible load of the most loaded rank of one layer, loads [experts]."""
    placed = _placements(len(loads), ranks, slots // ranks)
    share = loads / placed.sum(axis=1)
    return (placed * share[:, None, :]).sum(axis=2).max(axis=1).min()
