"""The best assignment of a cell by trying all of them, and a fast rule that comes close."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.policy.executors.clocks import three_clock
from moesim.policy.executors.makespan import makespan
from moesim.policy.executors.simple import cheapest
from moesim.policy.executors.sorting import johnson

Seconds = npt.NDArray[np.float64]
#: Most assignments that are tried.
_MOST = 1 << 24


@compiled
def optimum(
    resident: npt.NDArray[np.bool_],
    gpu_s: Seconds,
    cpu_s: Seconds,
    load_s: Seconds,
    near_s: Seconds,
    free: Seconds,
    cpu_start_s: float,
    where: npt.NDArray[np.int8],
    order: npt.NDArray[np.int64],
) -> None:
    """Fill `where` and `order` with the shortest makespan of all assignments and orders.

    GPU or CPU for each access, and the near-data unit where it takes a finite time. In Johnson's order no
    other order of loads and GPU work ends earlier, and on one resource alone the order does not matter, so
    one order per assignment is enough. Of equal assignments the first in counting order is kept.

    Raises
    ------
    ValueError
        If there are more than 2^24 assignments: this is a yardstick for small cells.
    """
    n = len(resident)
    johnson(resident, gpu_s, load_s, order)
    choices = 2
    for i in range(n):
        if near_s[i] < np.inf:
            choices = 3
    total = 1
    for _ in range(n):
        total *= choices
        if total > _MOST:
            raise ValueError("too many accesses in a cell for the exhaustive optimum")
    trial = np.empty(n, np.int8)
    least = np.inf
    for code in range(total):
        rest = code
        for i in range(n):
            digit = rest % choices
            rest //= choices
            if digit == 0:
                trial[i] = 0 if resident[i] else 1
            else:
                trial[i] = digit + 1
        end = makespan(trial, order, gpu_s, cpu_s, load_s, near_s, free, cpu_start_s)
        if end < least or code == 0:
            least = end
            where[:] = trial


@compiled
def balanced(
    tokens: npt.NDArray[np.int32],
    resident: npt.NDArray[np.bool_],
    gpu_s: Seconds,
    cpu_s: Seconds,
    load_s: Seconds,
    near_s: Seconds,
    free: Seconds,
    cpu_start_s: float,
    where: npt.NDArray[np.int8],
    order: npt.NDArray[np.int64],
) -> None:
    """Fill `where` and `order` from the better of two rules, improved by single changes and exchanges.

    It starts from the three clocks or from each expert's minimum, in Johnson's order. Then every access is
    tried on the other of GPU and CPU, and every pair the other way round, and what shortens the makespan is
    kept, until nothing does or four passes are over.
    """
    n = len(resident)
    three_clock(tokens, resident, gpu_s, cpu_s, load_s, free, cpu_start_s, where, order)
    johnson(resident, gpu_s, load_s, order)
    least = makespan(where, order, gpu_s, cpu_s, load_s, near_s, free, cpu_start_s)
    other = np.empty(n, np.int8)
    cheapest(resident, gpu_s, cpu_s, load_s, other)
    end = makespan(other, order, gpu_s, cpu_s, load_s, near_s, free, cpu_start_s)
    if end < least:
        least = end
        where[:] = other
    for _ in range(4):
        before = least
        for i in range(n):
            was = where[i]
            where[i] = _turned(was, resident[i])
            end = _earlier(least, where, order, gpu_s, cpu_s, load_s, near_s, free, cpu_start_s)
            if end < least:
                least = end
                continue
            for j in range(i):
                # Where i has gone j must be, to go where i was.
                if (where[j] == 2) != (where[i] == 2):
                    continue
                then = where[j]
                where[j] = _turned(then, resident[j])
                end = _earlier(least, where, order, gpu_s, cpu_s, load_s, near_s, free, cpu_start_s)
                if end < least:
                    least = end
                    break
                where[j] = then
            else:
                where[i] = was
        if not least < before:
            return


@compiled
def _earlier(
    least: float,
    where: npt.NDArray[np.int8],
    order: npt.NDArray[np.int64],
    gpu_s: Seconds,
    cpu_s: Seconds,
    load_s: Seconds,
    near_s: Seconds,
    free: Seconds,
    cpu_start_s: float,
) -> float:
    """The makespan where it is below `least`; else infinity, as soon as that is seen."""
    gpu, cpu, link, near = free[0], free[1] + cpu_start_s, free[2], free[3]
    end = 0.0
    for i in order:
        if where[i] == 2:
            cpu += cpu_s[i]
            end = max(end, cpu)
        elif where[i] == 3:
            near += near_s[i]
            end = max(end, near)
        else:
            if where[i] == 1:
                link += load_s[i]
                gpu = max(gpu, link)
            gpu += gpu_s[i]
            end = max(end, gpu)
        if end >= least:
            return np.inf
    return end


@compiled
def _turned(where: int, resident: bool) -> int:
    """GPU for what is on the CPU, and CPU for what is on the GPU."""
    if where != 2:
        return 2
    return 0 if resident else 1
