"""HybriMoE: three clocks, as its paper says, and the list that its released code walks.

Published rule: every expert is computed by GPU or CPU; the link moves experts to the GPU meanwhile. The GPU
takes the cached expert of most tokens, the CPU the uncached one of fewest (then cached ones of few), the link
the uncached one of most; whichever of the three would end first is done, until no expert is left.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.policy.executors.sorting import heaviest_first

Seconds = npt.NDArray[np.float64]
_UNCACHED, _QUEUED, _DONE = 0, 1, 2


@compiled
def three_clock(
    tokens: npt.NDArray[np.int32],
    resident: npt.NDArray[np.bool_],
    gpu_s: Seconds,
    cpu_s: Seconds,
    load_s: Seconds,
    free: Seconds,
    cpu_start_s: float,
    where: npt.NDArray[np.int8],
    order: npt.NDArray[np.int64],
) -> None:
    """Fill `where` and `order` by always advancing what ends first (HybriMoE's paper).

    The GPU never waits for a load while something else is there for it; a moved expert joins its queue when
    it has arrived. An expert that was to be moved and that the CPU takes after all is not moved.
    """
    n = len(tokens)
    ranked = np.empty(n, np.int64)
    heaviest_first(tokens, ranked)
    state = np.empty(n, np.int8)
    ready = np.empty(n, np.float64)
    for access in range(n):
        state[access] = _QUEUED if resident[access] else _UNCACHED
        ready[access] = 0.0
    gpu, cpu, link = free[0], free[1] + cpu_start_s, free[2]
    place = 0
    while place < n:
        # One pass from the heaviest down finds what each of the three would take.
        on_gpu, late, to_move, light, light_queued = -1, -1, -1, -1, -1
        for rank in range(n):
            i = int(ranked[rank])
            if state[i] == _QUEUED:
                if ready[i] <= gpu:
                    if on_gpu < 0:
                        on_gpu = i
                elif late < 0 or ready[i] < ready[late]:
                    late = i
                light_queued = i
            elif state[i] == _UNCACHED:
                if to_move < 0:
                    to_move = i
                light = i
        if on_gpu < 0:
            on_gpu = late
        on_cpu = light if light >= 0 else light_queued
        gpu_end = max(gpu, ready[on_gpu]) + gpu_s[on_gpu] if on_gpu >= 0 else np.inf
        cpu_end = cpu + cpu_s[on_cpu] if on_cpu >= 0 else np.inf
        link_end = link + load_s[to_move] if to_move >= 0 else np.inf
        if on_gpu >= 0 and gpu_end <= cpu_end and gpu_end <= link_end:
            gpu = gpu_end
            where[on_gpu] = 0 if resident[on_gpu] else 1
            state[on_gpu] = _DONE
            order[place] = on_gpu
            place += 1
        elif cpu_end <= link_end and cpu_end < np.inf:
            cpu = cpu_end
            where[on_cpu] = 2
            state[on_cpu] = _DONE
            order[place] = on_cpu
            place += 1
        else:
            link = link_end
            state[to_move] = _QUEUED
            ready[to_move] = link_end


@compiled
def listed(
    tokens: npt.NDArray[np.int32],
    resident: npt.NDArray[np.bool_],
    gpu_s: Seconds,
    cpu_s: Seconds,
    load_s: Seconds,
    cpu_start_s: float,
    where: npt.NDArray[np.int8],
    order: npt.NDArray[np.int64],
) -> None:
    """Fill `where` and `order` as the released code does for one token.

    One list: cached experts, then uncached ones, each from most tokens down. Its head would go to the GPU and
    its tail to the CPU; whichever would end first is taken off. A head that is not cached delays the GPU
    until it is moved. The clocks start at zero, whatever is still under way.
    """
    n = len(tokens)
    ranked = np.empty(n, np.int64)
    heaviest_first(tokens, ranked)
    queue = np.empty(n, np.int64)
    tail = 0
    for cached in (True, False):
        for i in ranked:
            if resident[i] == cached:
                queue[tail] = i
                tail += 1
    head = 0
    gpu, cpu, link = 0.0, cpu_start_s, 0.0
    place = 0
    while head < tail:
        first, last = queue[head], queue[tail - 1]
        arrives = 0.0 if resident[first] else link + load_s[first]
        gpu_end = max(gpu, arrives) + gpu_s[first]
        cpu_end = cpu + cpu_s[last]
        if gpu_end <= cpu_end:
            gpu = gpu_end
            if not resident[first]:
                link = arrives
            where[first] = 0 if resident[first] else 1
            order[place] = first
            head += 1
        else:
            cpu = cpu_end
            where[last] = 2
            order[place] = last
            tail -= 1
        place += 1
