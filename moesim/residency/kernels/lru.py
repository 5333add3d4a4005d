"""Least recently used."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled


@compiled
def lru_hits(
    experts: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    layers: int,
    num_experts: int,
    slots: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Hits of each layer, with a pool per layer, looked up one after the other from empty.

    Parameters
    ----------
    experts, starts
        As in `moesim.policy.Steps`.
    slots
        Of each layer, ``[layers]``.
    """
    hits = np.zeros(layers, np.int64)
    used = np.zeros((layers, num_experts), np.int64)
    held = np.zeros(layers, np.int64)
    for cell in range(len(starts) - 1):
        layer = cell % layers
        for i in range(starts[cell], starts[cell + 1]):
            expert = experts[i]
            if used[layer, expert]:
                hits[layer] += 1
            elif held[layer] < slots[layer]:
                held[layer] += 1
            elif slots[layer]:
                oldest, victim = i + 1, 0
                for e in range(num_experts):
                    if 0 < used[layer, e] < oldest:
                        oldest, victim = used[layer, e], e
                used[layer, victim] = 0
            if slots[layer]:
                used[layer, expert] = i + 1
    return hits
