"""Rules that compare sums of seconds over prefixes of a sorted list."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.policy.executors.sorting import ascending, heaviest_first

Seconds = npt.NDArray[np.float64]
#: Misses up to which every division between CPU and GPU is tried.
_EXHAUSTIVE = 10


@compiled
def hottest(
    tokens: npt.NDArray[np.int32],
    resident: npt.NDArray[np.bool_],
    alpha: float,
    link_bytes_per_s: float,
    near_bytes_per_s: float,
    where: npt.NDArray[np.int8],
) -> None:
    """The hottest H misses are loaded, the rest is computed near the data (MoNDE).

    H = alpha * B_link / (B_near + B_link) * misses, rounded: the share at which the link moves H experts
    while the near unit reads the others.
    """
    n = len(tokens)
    misses = 0
    for i in range(n):
        if not resident[i]:
            misses += 1
    share = alpha * link_bytes_per_s / (near_bytes_per_s + link_bytes_per_s)
    to_load = min(misses, int(share * misses + 0.5))
    ranked = np.empty(n, np.int64)
    heaviest_first(tokens, ranked)
    for hot in ranked:
        if resident[hot]:
            where[hot] = 0
        elif to_load > 0:
            where[hot] = 1
            to_load -= 1
        else:
            where[hot] = 3


@compiled
def coldest_prefix(
    tokens: npt.NDArray[np.int32],
    resident: npt.NDArray[np.bool_],
    gpu_s: Seconds,
    load_s: Seconds,
    near_s: Seconds,
    where: npt.NDArray[np.int8],
) -> None:
    """Experts of fewest tokens go to the near unit while that shortens the longer of both sums (Duplex).

    All start on the GPU; they are moved one at a time, fewest tokens first, and the number of moves with the
    least max(sum GPU, sum near unit) is kept, the fewest among equals.
    """
    n = len(tokens)
    ranked = np.empty(n, np.int64)
    heaviest_first(tokens, ranked)
    gpu = 0.0
    for i in range(n):
        gpu += gpu_s[i] + (0.0 if resident[i] else load_s[i])
    least, moved, near = gpu, 0, 0.0
    for m in range(1, n + 1):
        i = ranked[n - m]
        gpu -= gpu_s[i] + (0.0 if resident[i] else load_s[i])
        near += near_s[i]
        if max(gpu, near) < least:
            least, moved = max(gpu, near), m
    for place in range(n):
        i = ranked[place]
        if place >= n - moved:
            where[i] = 3
        else:
            where[i] = 0 if resident[i] else 1


@compiled
def least_longer_sum(
    resident: npt.NDArray[np.bool_],
    gpu_s: Seconds,
    cpu_s: Seconds,
    load_s: Seconds,
    where: npt.NDArray[np.int8],
) -> None:
    """The misses divided so that the longer of both sums of seconds is least (Fiddler's paper).

    Every division is tried for up to ten misses. For more, misses go to the GPU by falling ratio of CPU time
    to load and GPU time, and the best number of them is kept; that is the best division where loads and GPU
    times are equal.
    """
    n = len(resident)
    missed = np.empty(n, np.int64)
    misses = 0
    always, cpu_all = 0.0, 0.0
    for i in range(n):
        if resident[i]:
            where[i] = 0
            always += gpu_s[i]
        else:
            missed[misses] = i
            misses += 1
            cpu_all += cpu_s[i]
    least = np.inf
    if misses <= _EXHAUSTIVE:
        best = 0
        for choice in range(1 << misses):
            gpu, cpu = always, 0.0
            for m in range(misses):
                i = missed[m]
                if choice >> m & 1:
                    gpu += load_s[i] + gpu_s[i]
                else:
                    cpu += cpu_s[i]
            if max(gpu, cpu) < least:
                least, best = max(gpu, cpu), choice
        for m in range(misses):
            where[missed[m]] = 1 if best >> m & 1 else 2
        return
    keys = np.empty(misses, np.float64)
    for m in range(misses):
        i = missed[m]
        # 1 / (1 + ratio), which stays a number where loads and GPU times are zero
        total = load_s[i] + gpu_s[i] + cpu_s[i]
        keys[m] = (load_s[i] + gpu_s[i]) / total if total > 0 else 0.5
    ranked = np.empty(misses, np.int64)
    ascending(keys, ranked)
    gpu, cpu, loaded = always, cpu_all, 0
    least = max(gpu, cpu)
    for m in range(misses):
        i = missed[ranked[m]]
        gpu += load_s[i] + gpu_s[i]
        cpu -= cpu_s[i]
        if max(gpu, cpu) < least:
            least, loaded = max(gpu, cpu), m + 1
    for m in range(misses):
        where[missed[ranked[m]]] = 1 if m < loaded else 2
