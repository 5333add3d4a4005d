"""Links that transfers share: each gets its max-min fair part, and parts change as others come and go.

A link is a capacity in bytes per second: what the network cards of a sender can send, what those of a
receiver can take, what a spine carries. A transfer passes over several links at once. Rates are max-min fair,
where flows under congestion control settle: none can get more without taking from one that has no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simpy

from moesim.compiled import compiled

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]

#: Links that a transfer passes over at most.
MOST_LINKS = 4


@compiled
def fair_rates(paths: I4, limits: F8, capacity: F8) -> F8:
    """Max-min fair rates: all transfers are given more alike, until a link is full or one has all it can use.

    Parameters
    ----------
    paths
        Links of every transfer, -1 where it has fewer, ``[transfers, MOST_LINKS]``.
    limits
        Bytes per second that each can use, ``[transfers]``.
    capacity
        Bytes per second, ``[links]``.

    Returns
    -------
    ndarray
        Bytes per second, ``[transfers]``.
    """
    n, links = len(paths), len(capacity)
    rates, settled = np.zeros(n), np.zeros(n, np.bool_)
    left, sharing = capacity.copy(), np.zeros(links, np.int64)
    for i in range(n):
        for link in paths[i]:
            if link >= 0:
                sharing[link] += 1
    open_ = n
    part = np.empty(links)
    while open_ > 0:
        level = np.inf
        for link in range(links):
            part[link] = max(left[link], 0.0) / sharing[link] if sharing[link] > 0 else np.inf
            level = min(level, part[link])
        for i in range(n):
            if not settled[i]:
                level = min(level, limits[i])
        for i in range(n):
            if settled[i]:
                continue
            stops = limits[i] <= level
            for link in paths[i]:
                stops = stops or (link >= 0 and part[link] <= level)
            if stops:
                settled[i], rates[i] = True, level
                open_ -= 1
                for link in paths[i]:
                    if link >= 0:
                        left[link] -= level
                        sharing[link] -= 1
    return rates


@dataclass(slots=True, eq=False)
class Transfer:
    """Bytes on their way.

    Parameters
    ----------
    path
        The links, by number.
    size
        Bytes.
    done
        Happens when the last byte is there.
    left
        Bytes that had to cross at `since_s`; none does before that.
    rate
        Bytes per second from then on.
    due_s
        When it will be done at that rate.
    limit
        Bytes per second that it can use.
    """

    path: tuple[int, ...]
    size: float
    done: simpy.Event
    left: float
    since_s: float
    rate: float = 0.0
    due_s: float = np.inf
    limit: float = np.inf


class Links:
    """Links of a cluster with what is on them, as events of SimPy.

    Parameters
    ----------
    env
        Whose clock it is.
    capacity
        Bytes per second, ``[links]``.

    Attributes
    ----------
    carried
        Bytes that each link has carried, ``[links]``.

    Examples
    --------
    Two transfers over one link of 10 B/s; the second comes a second later.

    >>> env = simpy.Environment()
    >>> links = Links(env, [10.0])
    >>> ends = {}
    >>> def send(name, size, wait):
    ...     yield env.timeout(wait)
    ...     yield links.send((0,), size).done
    ...     ends[name] = env.now
    >>> _ = env.process(send("first", 20.0, 0.0)), env.process(send("second", 10.0, 1.0))
    >>> env.run()
    >>> ends
    {'first': 3.0, 'second': 3.0}
    """

    def __init__(self, env: simpy.Environment, capacity: Sequence[float] | F8) -> None:
        self.env = env
        self.capacity = np.asarray(capacity, np.float64)
        self.carried = np.zeros(len(self.capacity))
        self.active: list[Transfer] = []
        self._paths = np.full((16, MOST_LINKS), -1, np.int32)
        self._limits = np.full(16, np.inf)
        self._armed_s = np.inf

    def send(
        self, path: Sequence[int], size: float, latency_s: float = 0.0, limit: float = np.inf
    ) -> Transfer:
        """Begin a transfer over `path`, no faster than `limit`.

        It has its part of the links from now on, and uses it after `latency_s`.
        """
        one = Transfer(
            tuple(path), float(size), self.env.event(), float(size), self.env.now + latency_s, limit=limit
        )
        i = len(self.active)
        if i == len(self._paths):
            self._paths = np.concatenate([self._paths, np.full_like(self._paths, -1)])
            self._limits = np.concatenate([self._limits, np.full_like(self._limits, np.inf)])
        self._paths[i] = -1
        self._paths[i, : len(one.path)] = one.path
        self._limits[i] = limit
        self.active.append(one)
        self._share()
        return one

    def cancel(self, one: Transfer) -> float:
        """Break a transfer off, `done` never happens; the bytes that have not crossed."""
        if one in self.active:
            self._leave(one, self.env.now)
            self._share()
        return one.left

    def set_limit(self, one: Transfer, limit: float) -> None:
        """From now on a transfer can use another rate."""
        if one in self.active:
            one.limit = self._limits[self.active.index(one)] = limit
            self._share()

    def _leave(self, one: Transfer, now: float) -> None:
        self._move(one, now)
        i, last = self.active.index(one), len(self.active) - 1
        # The last one takes its place.
        self.active[i] = self.active[last]
        self._paths[i], self._limits[i] = self._paths[last], self._limits[last]
        self.active.pop()

    def _move(self, one: Transfer, now: float) -> None:
        """Count what has crossed since its rate was set."""
        crossed = min(one.rate * max(now - one.since_s, 0.0), one.left) if now < one.due_s else one.left
        for link in one.path:
            self.carried[link] += crossed
        one.left -= crossed
        one.since_s = max(one.since_s, now)

    def _share(self) -> None:
        """New rates for all; who keeps its rate keeps its end, to the bit."""
        n, now = len(self.active), self.env.now
        if n:
            rates = fair_rates(self._paths[:n], self._limits[:n], self.capacity).tolist()
            for one, rate in zip(self.active, rates, strict=True):
                if rate != one.rate or one.due_s == np.inf:
                    self._move(one, now)
                    one.rate = rate
                    one.due_s = one.since_s
                    if one.left > 0.0:
                        one.due_s += one.left / rate if rate > 0.0 else np.inf
            self._arm()

    def _arm(self) -> None:
        """Look again when the first is done; an alarm that is earlier looks in vain and sets the next."""
        first = min(one.due_s for one in self.active)
        if first < self._armed_s:
            self._armed_s = first
            alarm = self.env.timeout(max(first - self.env.now, 0.0), first)
            alarm.callbacks.append(self._look)

    def _look(self, alarm: simpy.Event) -> None:
        if alarm.value != self._armed_s:
            return  # another one was set before it
        self._armed_s = np.inf
        over = [one for one in self.active if one.due_s <= alarm.value]
        for one in over:
            self._leave(one, max(one.due_s, self.env.now))
        if over:
            self._share()
            for one in over:
                one.done.succeed(one)
        elif self.active:
            self._arm()
