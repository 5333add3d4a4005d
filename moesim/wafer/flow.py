"""Dies that each read a list of weights in order, and share links and memories fairly while they do.

Who waits for whom decides how far dies drift apart, so that it is followed from one finished reading to the
next. Rates in between are max-min fair (Bertsekas and Gallager, Data Networks, 2nd edition, Sec. 6.5.2), as
if every link and memory served its readers in small turns.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.fabric import grid_loads

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@functools.cache
def routes(shape: tuple[int, int]) -> tuple[Ints, Ints, int]:
    """What a reading of one die from another uses: the memory it is read from and the links on the way.

    Returns
    -------
    tuple
        Where the resources of pair ``source * dies + reader`` start, ``[dies * dies + 1]``, the resources,
        and how many there are: first the memories of the dies, then links in the order of
        `moesim.fabric.grid_links`.
    """
    dies = shape[0] * shape[1]
    one = np.eye(dies * dies).reshape(-1, dies, dies)
    used = np.asarray(grid_loads(one, shape)) > 0
    starts, found = [0], []
    for pair in range(dies * dies):
        found += [pair // dies, *(dies + np.flatnonzero(used[pair])).tolist()]
        starts.append(len(found))
    return np.array(starts, np.int64), np.array(found, np.int64), dies + used.shape[1]


def in_order_seconds(
    shape: tuple[int, int], data: Floats, source: Ints, memory_bytes_per_s: Floats, link_bytes_per_s: float
) -> Floats:
    """When each die has read all it reads, one expert after the other.

    Parameters
    ----------
    shape
        Rows and columns of dies.
    data
        Bytes that each die reads of each expert, in the order of reading, ``[experts, dies]``.
    source
        From which die it reads them, ``[experts, dies]``.
    memory_bytes_per_s
        Of each die's memory, ``[dies]``.
    link_bytes_per_s
        Of each link.

    Returns
    -------
    ndarray
        ``[dies]``.

    Examples
    --------
    Two dies that read from the first one's memory: the link is the slower one.

    >>> both = np.zeros((1, 2), int)
    >>> in_order_seconds((1, 2), np.array([[6.0, 2.0]]), both, np.full(2, 4.0), 1.0)
    array([2., 2.])
    """
    starts, used, resources = routes(shape)
    capacity = np.full(resources, link_bytes_per_s)
    capacity[: len(memory_bytes_per_s)] = memory_bytes_per_s
    finish = np.zeros(data.shape[1])
    _follow(np.asarray(data, np.float64), np.asarray(source, np.int64), starts, used, capacity, finish)
    return finish


@compiled
def _follow(data: Floats, source: Ints, starts: Ints, used: Ints, capacity: Floats, finish: Floats) -> None:
    experts, dies = data.shape
    place = np.full(dies, -1, np.int64)
    left = np.zeros(dies)
    rate = np.zeros(dies)
    free = np.empty_like(capacity)
    users = np.empty(len(capacity), np.int64)
    now = 0.0
    while True:
        active = 0
        for d in range(dies):
            while left[d] <= 0.0 and place[d] < experts:
                place[d] += 1
                if place[d] < experts:
                    left[d] = data[place[d], d]
                else:
                    finish[d] = now
            active += place[d] < experts
        if active == 0:
            return
        # Fill all readings evenly; the first resource to run out fixes those that use it.
        free[:] = capacity
        users[:] = 0
        rate[:] = -1.0
        for d in range(dies):
            if place[d] < experts:
                pair = source[place[d], d] * dies + d
                for i in range(starts[pair], starts[pair + 1]):
                    users[used[i]] += 1
        open_ = active
        while open_ > 0:
            tight, least = -1, np.inf
            for r in range(len(capacity)):
                if users[r] > 0 and free[r] / users[r] < least:
                    tight, least = r, free[r] / users[r]
            for d in range(dies):
                if place[d] >= experts or rate[d] >= 0.0:
                    continue
                pair = source[place[d], d] * dies + d
                hit = False
                for i in range(starts[pair], starts[pair + 1]):
                    hit = hit or used[i] == tight
                if not hit:
                    continue
                rate[d] = least
                open_ -= 1
                for i in range(starts[pair], starts[pair + 1]):
                    free[used[i]] = max(free[used[i]] - least, 0.0)
                    users[used[i]] -= 1
        step = np.inf
        for d in range(dies):
            if place[d] < experts:
                step = min(step, left[d] / rate[d])
        now += step
        for d in range(dies):
            if place[d] < experts:
                # Readings that end together end at once, whatever the last digit.
                left[d] -= rate[d] * step
                if left[d] <= 1e-9 * data[place[d], d]:
                    left[d] = 0.0
