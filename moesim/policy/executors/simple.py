"""Rules that look at one expert at a time: load every miss, a fixed mask, the cheaper of two."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

Seconds = npt.NDArray[np.float64]


@compiled
def resident_first(where: npt.NDArray[np.int8], order: npt.NDArray[np.int64]) -> None:
    """Fill `order`: what the GPU has at hand, then the rest, each as it was asked for.

    Loads run while the GPU computes what it has, so no other place for the resident ones ends earlier.
    """
    place = 0
    for i in range(len(where)):
        if where[i] == 0:
            order[place] = i
            place += 1
    for i in range(len(where)):
        if where[i] != 0:
            order[place] = i
            place += 1


@compiled
def load_all(resident: npt.NDArray[np.bool_], where: npt.NDArray[np.int8]) -> None:
    """Everything on the GPU; every miss is loaded."""
    for i in range(len(resident)):
        where[i] = 0 if resident[i] else 1


@compiled
def masked(resident: npt.NDArray[np.bool_], where: npt.NDArray[np.int8], wait: bool) -> None:
    """What is resident on the GPU, the rest on the CPU; nothing moves (ktransformers, llama.cpp).

    With `wait`, misses that `where` marks 4 on entry stay deferred.
    """
    for i in range(len(resident)):
        if resident[i]:
            where[i] = 0
        elif not (wait and where[i] == 4):
            where[i] = 2


@compiled
def cheapest(
    resident: npt.NDArray[np.bool_],
    gpu_s: Seconds,
    cpu_s: Seconds,
    load_s: Seconds,
    where: npt.NDArray[np.int8],
) -> None:
    """Each miss on the CPU iff that takes less than its load and its GPU time (Fiddler's released code).

    The code tries all assignments and keeps the least sum of seconds, which is each expert's minimum.
    """
    for i in range(len(resident)):
        if resident[i]:
            where[i] = 0
        else:
            where[i] = 2 if cpu_s[i] < load_s[i] + gpu_s[i] else 1
