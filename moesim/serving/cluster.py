"""A fleet whose nodes fail: the compiled loops between two events of SimPy, SimPy for what happens to nodes.

Steps and tokens never pass through SimPy. The fleet runs until the next event that SimPy knows of, and what
that event does to it (a replica stops, its requests go elsewhere) happens between two calls of its loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simpy

from moesim.serving.failures import Failures, Nodes
from moesim.serving.kernel.events import _send as send_one
from moesim.serving.kernel.events import evict_all
from moesim.serving.kernel.fleet import CURSOR, NEXT, SENT, next_event_s, run, send_arrived, wake
from moesim.serving.kernel.price import Prices
from moesim.serving.state import BUSY_S, DONE, I8, LOST, Rules, State

F8 = npt.NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Pool:
    """Replicas alike, as the compiled loops know them."""

    state: State
    rules: Rules
    prices: Prices
    cursor: I8 = field(default_factory=lambda: np.zeros(CURSOR, np.int64))

    @property
    def engines(self) -> int:
        """How many."""
        return len(self.state.replicas)

    @property
    def any_up(self) -> bool:
        """Whether any works."""
        return bool(self.state.replicas["up"].any())

    @property
    def next_s(self) -> float:
        """When something happens next."""
        return float(next_event_s(self.state, self.cursor))

    @property
    def all_sent(self) -> bool:
        """Whether every request with a time has been sent."""
        cursor, asked = self.cursor, self.state.asked
        return bool(
            cursor[SENT] == cursor[NEXT]
            and (cursor[NEXT] == len(asked) or asked["arrival_s"][cursor[NEXT]] == np.inf)
        )


class Outage(NamedTuple):
    """A time for which a replica does not work: failure, repair, and loading of weights."""

    replica: int
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Down:
    """What failures did.

    Parameters
    ----------
    end_s
        When the last request was done.
    down_s
        Seconds until then that each replica did not work, ``[replicas]``.
    failures
        Nodes that each replica lost, ``[replicas]``.
    sent_again
        How often each request was, ``[requests]``.
    outages
        Each time that a replica did not work, in order of its beginning.
    resized
        When a replica went on with another number of its nodes: seconds, replica, nodes it had from then on.
    """

    end_s: float
    down_s: F8
    failures: npt.NDArray[np.int64]
    sent_again: npt.NDArray[np.int32]
    outages: tuple[Outage, ...] = ()
    resized: tuple[tuple[float, int, int], ...] = ()

    @property
    def availability(self) -> float:
        """Part of the time that replicas worked."""
        return 1.0 - float(self.down_s.mean()) / self.end_s if self.end_s > 0.0 else 1.0


class Cluster:
    """One pool, its nodes and their failures.

    Parameters
    ----------
    pool
        The replicas.
    failures
        Of their nodes; None for none.
    on
        Replicas on each node, as `moesim.serving.failures.replicas_on` says; one each by default.
    reload_s
        Seconds to load weights, of every replica or ``[replicas]``.
    stages
        Engines of each replica: the stages of a pipeline step on their own. One by default.
    """

    def __init__(
        self,
        pool: Pool,
        failures: Failures | None = None,
        on: Sequence[Sequence[int]] | None = None,
        reload_s: npt.ArrayLike = 0.0,
        stages: Sequence[int] | None = None,
    ) -> None:
        self.env = simpy.Environment()
        self.pools = self._all(pool)
        self.failures = failures or Failures()
        places = [(index, engine) for index, one in enumerate(self.pools) for engine in range(one.engines)]
        ends = np.cumsum(stages if stages is not None else [1] * len(places))
        self._engines = [places[a:b] for a, b in pairwise([0, *ends.tolist()])]
        replicas = len(ends)
        self.nodes = Nodes(
            self.env,
            self.failures,
            on if on is not None else [(r,) for r in range(replicas)],
            np.broadcast_to(np.asarray(reload_s, np.float64), (replicas,)),
            self._down,
            self._up,
            self._resize,
        )
        n = len(pool.state.asked)
        self.sent_again = np.zeros(n, np.int32)
        self._failing = self.failures.mtbf_s is not None or bool(self.failures.listed)
        self._stranded: list[int] = []
        self._outages: list[Outage] = []
        self._resized: list[tuple[float, int, int]] = []
        #: Engines that were idle and may have something to do now.
        self._woken: set[tuple[int, int]] = set()
        self._evicted = np.zeros(n, np.int32)
        self._blocks = [one.state.lanes["capacity"].copy() for one in self.pools]

    def _all(self, pool: Pool) -> list[Pool]:
        return [pool]

    def run(self) -> Down:
        """Serve until every request is done, or given up."""
        env, now = self.env, 0.0
        while True:
            due = env.peek()
            if due > now or due == np.inf:
                if due == np.inf and self._hopeless():
                    break
                self._settle()
                reached = self._advance(due)
                if reached < due:
                    if reached > now:
                        env.run(until=reached)
                    now = max(now, reached)
                    self._acted()
                    continue
                if due == np.inf or (self._failing and self._over()):
                    break
                now = due
            env.step()
            self._changed()
        return self._ended()

    def _settle(self) -> None:
        """Begin steps of idle engines: all that happened at this time is there together."""
        woken = sorted(self._woken)
        self._woken.clear()
        for index, engine in woken:
            pool = self.pools[index]
            wake(pool.state, pool.rules, pool.prices, pool.cursor, engine, self.env.now)

    def _wakes(self, index: int, engine: int) -> None:
        """Something happened to an engine that it does not know of if it is idle."""
        if self.pools[index].state.replicas["end_s"][engine] == np.inf:
            self._woken.add((index, engine))

    def _ended(self) -> Down:
        """What is nowhere now is not served any more; the sum of what failures did."""
        stage = self.pools[-1].state.progress["stage"]
        stage[stage != DONE] = LOST
        last = [np.nanmax(one.state.progress["last_s"], initial=0.0) for one in self.pools]
        end = float(max(last))
        outages = [o._replace(to_s=min(o.to_s, end)) for o in self._outages if o.from_s < end]
        return Down(
            end, np.minimum(self.nodes.until(end), end), self.nodes.failed, self.sent_again, tuple(outages),
            tuple(one for one in self._resized if one[0] <= end),
        )  # fmt: skip

    def _advance(self, until: float) -> float:
        pool = self.pools[0]
        return float(run(pool.state, pool.rules, pool.prices, pool.cursor, until, False))

    def _acted(self) -> None:
        """A pool stopped for something it did."""

    def _changed(self) -> None:
        """An event of SimPy has passed."""

    def _hopeless(self) -> bool:
        """Whether nobody works who could end a request, and nobody is repaired."""
        return not self.pools[-1].any_up

    def _over(self) -> bool:
        """Whether nothing is left to do, though nodes may fail for ever."""
        return not self._stranded and all(one.next_s == np.inf and one.all_sent for one in self.pools)

    def _evict(self, index: int, engine: int) -> list[int]:
        """Take everything from an engine, in order of its admission."""
        pool = self.pools[index]
        ends_s = pool.state.replicas["end_s"][engine]
        if ends_s < np.inf:
            pool.state.tally.sums[engine, BUSY_S] -= ends_s - self.env.now
        many = evict_all(pool.state, pool.rules, pool.cursor, engine, self._evicted, self.env.now)
        return [int(r) for r in self._evicted[:many]]

    def _down(self, replica: int) -> None:
        self._outages.append(Outage(replica, self.env.now, np.inf))
        again = []
        for index, engine in self._engines[replica]:
            self.pools[index].state.replicas["up"][engine] = 0
        for index, engine in self._engines[replica]:
            again += self._evict(index, engine)
        for r in again:
            self._again(r)

    def _again(self, r: int) -> None:
        """Send a request once more, or give it up."""
        self.sent_again[r] += 1
        if self.failures.retries is not None and self.sent_again[r] > self.failures.retries:
            self._give_up(r)
        else:
            self._send(r)

    def _give_up(self, r: int) -> None:
        pool = self.pools[0]
        pool.state.progress["stage"][r] = LOST
        self._left(pool)

    def _left(self, pool: Pool) -> None:
        """Send what waits at the client: one request less is in flight, or there is an engine again."""
        if pool.any_up and not self._stranded and pool.cursor[SENT] < pool.cursor[NEXT]:
            send_arrived(pool.state, pool.rules, pool.prices, pool.cursor, self.env.now)

    def _send(self, r: int) -> None:
        pool = self.pools[0]
        lane = send_one(pool.state, pool.rules, pool.cursor, r, -1, self.env.now)
        if lane >= 0:
            self._wakes(0, lane // pool.rules.lanes)
        else:
            self._stranded.append(r)

    def _up(self, replica: int) -> None:
        last = max(i for i, one in enumerate(self._outages) if one.replica == replica)
        self._outages[last] = self._outages[last]._replace(to_s=self.env.now)
        for index, engine in self._engines[replica]:
            self.pools[index].state.replicas["up"][engine] = 1
            self._wakes(index, engine)
        pool = self.pools[0]
        if pool.any_up:
            waiting, self._stranded = self._stranded, []
            for r in waiting:
                self._send(r)
            self._left(pool)

    def _resize(self, replica: int, has: int, had: int) -> None:
        """Go on with so many of its nodes: slower, with less cache; what ran there is computed anew."""
        shrink, again = self.failures.shrink, list[int]()
        if shrink is None:
            return
        self._resized.append((self.env.now, replica, has))
        for index, engine in self._engines[replica]:
            pool = self.pools[index]
            lanes, engines = pool.rules.lanes, pool.state.replicas
            speeds, stalls = engines["speed"], engines["stall_s"]
            speed = shrink.slowdown ** (had - has)
            if speeds[engine] == speed:
                continue
            if speed > speeds[engine]:
                again += self._evict(index, engine)
            speeds[engine] = speed
            stalls[engine] += shrink.stall_s
            rows = slice(engine * lanes, (engine + 1) * lanes)
            pool.state.lanes["capacity"][rows] = self._blocks[index][rows] * has // had
            self._wakes(index, engine)
        for r in again:
            self._again(r)


def simulate_failing(
    state: State,
    rules: Rules,
    prices: Prices,
    failures: Failures | None = None,
    *,
    nodes: Sequence[Sequence[int]] | None = None,
    reload_s: npt.ArrayLike = 0.0,
    stages: Sequence[int] | None = None,
) -> Down:
    """Run a fleet whose nodes fail until every request is done or given up; `state` holds the outcome.

    Parameters
    ----------
    state, rules, prices
        The fleet, as `moesim.serving.kernel.fleet.run` takes it.
    failures
        When and how; without any, the same as that function.
    nodes
        Replicas on each node; each has one of its own by default.
    reload_s
        Seconds until a repaired replica has its weights.
    stages
        Engines of each replica; one by default.
    """
    return Cluster(Pool(state, rules, prices), failures, nodes, reload_s, stages).run()
