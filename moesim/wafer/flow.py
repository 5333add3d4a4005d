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


def merged(data: Floats, source: Ints) -> tuple[Floats, Ints]:
    """The same readings with those that a die does one after the other from one memory as one.

    Parameters
    ----------
    data, source
        As of `in_order_seconds`.

    Returns
    -------
    tuple
        Of the same meaning, with as many rows as the longest list has readings.

    Examples
    --------
    >>> merged(np.array([[1.0], [2.0], [0.0], [4.0]]), np.array([[0], [0], [1], [1]]))
    (array([[3.],
           [4.]]), array([[0],
           [1]]))
    """
    lists = []
    for die in range(data.shape[1]):
        some = data[:, die] > 0
        size, origin = data[some, die], source[some, die]
        first = np.flatnonzero(np.diff(origin, prepend=-1))
        lists.append((np.add.reduceat(size, first) if len(first) else size, origin[first]))
    rows = max(len(size) for size, _ in lists)
    all_data, all_source = np.zeros((rows, len(lists))), np.zeros((rows, len(lists)), np.int64)
    for die, (size, origin) in enumerate(lists):
        all_data[: len(size), die], all_source[: len(origin), die] = size, origin
    return all_data, all_source


def fastest_in_order(
    shape: tuple[int, int], data: Floats, source: Ints, memory_bytes_per_s: float, link_bytes_per_s: float
) -> float:
    """Seconds until the last die has read all, where links and memories may also idle.

    Fair sharing has anomalies: links so fast that only memories are shared bring all dies into step, at one
    memory after the other, and take longer than slower ones that let the dies drift apart. A faster machine
    can do all that a slower one does, so that the least over links and memories of a half, a quarter and so
    on is taken, as far as what they must carry leaves a chance: then twice of either is never slower.

    Parameters
    ----------
    shape, data, source
        As of `in_order_seconds`.
    memory_bytes_per_s, link_bytes_per_s
        Of each memory and of each link.
    """
    data, source = merged(data, source)
    if not data.size:
        return 0.0
    dies = data.shape[1]
    traffic = np.zeros((dies, dies))
    np.add.at(traffic, (source, np.broadcast_to(np.arange(dies), source.shape)), data)
    link_s = float(np.max(grid_loads(traffic * (1.0 - np.eye(dies)), shape), initial=0.0)) / link_bytes_per_s
    memory_s = float(traffic.sum(axis=1).max()) / memory_bytes_per_s
    best, memory = np.inf, 1.0
    while memory * memory_s < best:
        link = 1.0
        while max(link * link_s, memory * memory_s) < best:
            rates = np.full(dies, memory_bytes_per_s / memory)
            found = in_order_seconds(shape, data, source, rates, link_bytes_per_s / link).max()
            best = min(best, float(found))
            if link_s == 0.0:
                break
            link *= 2.0
        memory *= 2.0
    return best


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
