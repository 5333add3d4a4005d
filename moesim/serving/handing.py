"""Two pools: what one has prefilled crosses to the other, over links that hand-overs share.

Every hand-over is a process of SimPy: it gets blocks of a decode lane, waits in line for them if there are
none, sends the cache, and lets go of the blocks of the prefill worker when the last byte is there. A failure
interrupts it: without its sender a request is prefilled anew, without its receiver the cache goes elsewhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from moesim.serving.cluster import Cluster, Down, Pool
from moesim.serving.failures import Failures
from moesim.serving.handover import HandOver, Wires
from moesim.serving.kernel.events import release, reserve, unreserve
from moesim.serving.kernel.fleet import FLYING
from moesim.serving.kernel.pair import FIRST, SECOND, advance, deliver
from moesim.serving.links import Links, Transfer
from moesim.serving.state import AHEAD, BINS, BINS_PER_E, DONE, GAP_LOW_S, HELD, LOST, WAITING

F8 = npt.NDArray[np.float64]

_SENDER, _RECEIVER = "sender", "receiver"


@dataclass(slots=True, eq=False)
class Crossing:
    """A request between the pools.

    Parameters
    ----------
    tokens
        Whose cache crosses.
    generated
        Output tokens given when it gets to its decode lane.
    ready
        Happens when the prompt has been read.
    turn
        Happens when it gets blocks, where it has to wait for them.
    process
        What moves it.
    lane
        Decode lane it goes to; -1 before one is chosen.
    placed
        Whether its blocks are reserved there.
    computed_s
        Until when its last part is computed.
    read_s, placed_s
        When the prompt had been read, and when it had blocks.
    sent
        What is on the links.
    begun
        Bytes of all parts so far.
    parts
        Bytes that wait for blocks, and until when they are computed.
    """

    tokens: int
    generated: int
    ready: simpy.Event
    turn: simpy.Event
    process: simpy.Process | None = None
    lane: int = -1
    placed: bool = False
    computed_s: float = 0.0
    read_s: float = 0.0
    placed_s: float = 0.0
    sent: list[Transfer] = field(default_factory=list)
    begun: float = 0.0
    parts: list[tuple[float, float]] = field(default_factory=list)


class Pools(Cluster):
    """A pool that prefills and a pool that decodes.

    Parameters
    ----------
    prefill, decode
        The pools; requests have the same numbers in both, and those of the second come only from the first.
    wires
        Links between their lanes.
    how
        Settings.
    failures, on, reload_s, stages
        As for a `Cluster`, replicas that prefill before those that decode.

    Attributes
    ----------
    handed_s, waited_s
        Seconds from the first token until the cache was there, and of those in line for blocks,
        ``[requests]``; NaN for requests that never crossed.
    arrived_s
        When it was, ``[requests]``.
    crossed
        Bytes sent for every request, again and again where a transfer broke off, ``[requests]``.
    """

    def __init__(
        self,
        prefill: Pool,
        decode: Pool,
        wires: Wires,
        how: HandOver | None = None,
        failures: Failures | None = None,
        on: Sequence[Sequence[int]] | None = None,
        reload_s: npt.ArrayLike = 0.0,
        stages: Sequence[int] | None = None,
    ) -> None:
        self.prefill, self.decode, self.wires = prefill, decode, wires
        self.how = how or HandOver()
        super().__init__(prefill, failures, on, reload_s, stages)
        n, lanes = len(self.sent_again), len(decode.state.lanes)
        self.links = Links(self.env, wires.capacity)
        self.crossing: dict[int, Crossing] = {}
        self.handed_s, self.waited_s, self.arrived_s = (np.full(n, np.nan) for _ in range(3))
        self.crossed = np.zeros(n)
        #: Output tokens given before the prefill that is under way, and whether the last came from a prefill.
        self.given = np.zeros(n, np.int32)
        self.over_early = np.zeros(n, np.bool_)
        self._output = prefill.state.asked["output"].copy()
        self._gives = int(self.how.first_token == "prefill")
        # A prefill worker that gives no token is done with a request when its cache is gone.
        prefill.state.asked["output"][:] = self._output + 1 - self._gives
        self._lines: list[deque[int]] = [deque() for _ in range(lanes)]
        self._queued = 0
        self._full = np.zeros(lanes, np.int64)
        self._coming = np.zeros(lanes, np.int64)
        self._back = self.env.event()
        self._seen_s = np.full(prefill.engines, -1.0)
        self._stopped = 0

    def _all(self, pool: Pool) -> list[Pool]:
        return [pool, self.decode]

    # The loops.

    def _advance(self, until: float) -> float:
        one, other = self.prefill, self.decode
        reached, self._stopped = advance(
            one.state, one.rules, one.prices, one.cursor,
            other.state, other.rules, other.prices, other.cursor,
            until, self.how.overlap, self._queued > 0 or one.rules.closed > 0,
        )  # fmt: skip
        return float(reached)

    def _settle(self) -> None:
        super()._settle()
        self._changed()

    def _acted(self) -> None:
        if self._stopped == FIRST:
            box, stage = self.prefill.state.outbox, self.prefill.state.progress["stage"]
            for r in box.first[: box.firsts[0]].tolist():
                if stage[r] == HELD:
                    self._prefilled(r)
            for r in box.finished[: box.finishes[0]].tolist():
                self._finished_early(r)
        elif self._stopped == SECOND:
            box = self.decode.state.outbox
            self._retry()
            if self.prefill.rules.closed:
                self.prefill.cursor[FLYING] -= box.finishes[0] + box.losts[0]
                self._left(self.prefill)
        self._changed()

    def _changed(self) -> None:
        if self.how.overlap:
            self._begun()

    def _over(self) -> bool:
        return not self.crossing and super()._over()

    def _ended(self) -> Down:
        down = super()._ended()
        self.decode.state.progress["stage"][self.over_early] = DONE
        return down

    # A request has been read.

    def _prefilled(self, r: int) -> None:
        one = self.crossing.get(r) or self._starts(r)
        size = self.wires.bytes_of(one.tokens)
        if size > one.begun or not one.begun:
            self._part(r, one, size - one.begun, self.env.now)
        if self._gives:
            self._gave(r)
        one.read_s = self.env.now
        one.ready.succeed()

    def _gave(self, r: int) -> None:
        """The prefill worker gave a token."""
        seen, now = self.decode.state.progress, self.env.now
        if np.isnan(seen["first_s"][r]):
            seen["first_s"][r] = now
        else:
            # The loops of this pool do not know of tokens that were given before.
            place = math.log(max((now - seen["last_s"][r]) / GAP_LOW_S, 1.0)) * BINS_PER_E
            self.prefill.state.tally.gaps[min(int(place), BINS - 1)] += 1
        seen["last_s"][r] = now
        self.given[r] += 1

    def _finished_early(self, r: int) -> None:
        """Its only token, or the last one that failures left."""
        self._gave(r)
        self.over_early[r] = True
        self.decode.state.progress["generated"][r] = self.given[r]

    def _starts(self, r: int) -> Crossing:
        given = int(self.given[r])
        one = self.crossing[r] = Crossing(
            int(self.prefill.state.asked["prompt"][r]) + given,
            given + self._gives,
            self.env.event(),
            self.env.event(),
        )
        one.process = self.env.process(self._cross(r, one))
        return one

    def _begun(self) -> None:
        """Look for steps that began: what they compute crosses while they do."""
        state, lanes = self.prefill.state, self.prefill.rules.lanes
        # Who was thrown out gives its place up, or it could wait for one that waits for that place.
        for r, one in list(self.crossing.items()):
            if state.progress["stage"][r] == WAITING:
                self._break_off(r, one, _SENDER)
        self._retry()
        progress, began_s, end_s = state.progress, state.replicas["began_s"], state.replicas["end_s"]
        for i in np.flatnonzero((began_s != self._seen_s) & (end_s < np.inf)).tolist():
            self._seen_s[i] = began_s[i]
            for lane in range(i * lanes, (i + 1) * lanes):
                for r in state.running[lane, : state.lanes["live"][lane]].tolist():
                    if progress["planned"][r] > 0 and state.asked["output"][r] > 1:
                        one = self.crossing.get(r) or self._starts(r)
                        there = self.wires.bytes_of(int(progress["done"][r] + progress["planned"][r]))
                        if there > one.begun:
                            self._part(r, one, there - one.begun, float(end_s[i]))

    # The hand-over.

    def _part(self, r: int, one: Crossing, size: float, computed_s: float) -> None:
        """So many more bytes, computed until a time."""
        one.begun, one.computed_s = one.begun + size, computed_s
        if one.placed:
            self._transfer(r, one, size, computed_s)
        else:
            one.parts.append((size, computed_s))

    def _transfer(self, r: int, one: Crossing, size: float, computed_s: float) -> None:
        links, wires, ahead = self.links, self.wires, computed_s - self.env.now
        path = wires.path(int(self.prefill.state.progress["lane"][r]), one.lane)
        # All layers but the last can have crossed when the last is computed.
        limit = (1.0 - 1.0 / wires.layers) * size / ahead if ahead > 0.0 else np.inf
        transfer = links.send(path, size, wires.latency_s, limit)
        one.sent.append(transfer)
        self.crossed[r] += size
        if ahead > 0.0:
            self.env.timeout(ahead).callbacks.append(lambda _: links.set_limit(transfer, np.inf))

    def _cross(self, r: int, one: Crossing) -> Generator[simpy.Event, Any, None]:
        whole = int(self.prefill.state.asked["prompt"][r] + self._output[r])
        if whole > self._blocks[1].max() * self.decode.rules.block:
            yield one.ready
            self._too_long(r)
            return
        while True:
            try:
                yield from self._room(r, one, whole)
                one.placed_s = self.env.now
                for size, computed_s in one.parts:
                    self._transfer(r, one, size, computed_s)
                one.parts.clear()
                yield one.ready
                for transfer in one.sent:
                    yield transfer.done
                break
            except simpy.Interrupt as cut:
                for transfer in one.sent:
                    self.crossed[r] -= self.links.cancel(transfer)
                if cut.cause == _SENDER:
                    return
                one.sent.clear()
                one.parts = [(one.begun, one.computed_s)]
        self._arrived(r, one)

    def _too_long(self, r: int) -> None:
        """No decode lane could ever hold it."""
        prefill = self.prefill
        del self.crossing[r]
        release(prefill.state, prefill.rules, r, self.env.now)
        self._wakes(0, int(prefill.state.progress["lane"][r]) // prefill.rules.lanes)
        prefill.cursor[FLYING] -= 1
        self._give_up(r)

    def _room(self, r: int, one: Crossing, whole: int) -> Generator[simpy.Event, Any, None]:
        """Choose a lane and get blocks there."""
        while (lane := self._least(whole)) < 0:
            yield self._back
        one.lane = lane
        self._coming[lane] += 1
        seen = self.decode.state.progress
        seen["generated"][r] = one.generated
        # What crosses; the next token gets its place with it.
        seen["target"][r] = int(self.prefill.state.asked["prompt"][r]) + one.generated - 1
        one.placed = not self._lines[lane] and self._reserve(r, lane)
        if not one.placed:
            one.turn = self.env.event()
            self._lines[lane].append(r)
            self._queued += 1
            yield one.turn

    def _least(self, tokens: int) -> int:
        """The lane with fewest requests that run, wait or are on their way; -1 where none can take it."""
        state, rules = self.decode.state, self.decode.rules
        lanes = state.lanes
        fits = lanes["capacity"] * rules.block >= tokens
        fits &= np.repeat(state.replicas["up"] > 0, rules.lanes)
        load = np.where(fits, lanes["live"] + lanes["waiting"] + self._coming, np.iinfo(np.int64).max)
        best = int(load.argmin())
        return best if fits[best] else -1

    def _reserve(self, r: int, lane: int) -> bool:
        state = self.decode.state
        got = reserve(state, self.decode.rules, r, lane, self.env.now)
        # Before blocks are given back there is no use in asking again.
        self._full[lane] = 0 if got else state.lanes["used"][lane]
        return bool(got)

    def _retry(self) -> None:
        """Give blocks to those who wait for them, first come first served."""
        if not self._queued:
            return
        used = self.decode.state.lanes["used"]
        for lane in np.flatnonzero(used < self._full).tolist():
            line = self._lines[lane]
            while line and self._reserve(line[0], lane):
                one = self.crossing[line.popleft()]
                self._queued -= 1
                one.placed = True
                one.turn.succeed()

    def _let_go(self, r: int, one: Crossing) -> None:
        """Neither blocks nor a place in line any more."""
        if one.lane < 0:
            return
        self._coming[one.lane] -= 1
        if one.placed:
            unreserve(self.decode.state, self.decode.rules, r, self.env.now)
            self._wakes(1, one.lane // self.decode.rules.lanes)
        else:
            self._lines[one.lane].remove(r)
            self._queued -= 1
        one.lane, one.placed = -1, False

    def _arrived(self, r: int, one: Crossing) -> None:
        """The last byte is there."""
        prefill, decode, now = self.prefill, self.decode, self.env.now
        del self.crossing[r]
        self._coming[one.lane] -= 1
        self.handed_s[r], self.waited_s[r] = now - one.read_s, max(one.placed_s - one.read_s, 0.0)
        self.arrived_s[r] = now
        sender = int(prefill.state.progress["lane"][r])
        there = deliver(
            prefill.state, prefill.rules, decode.state, decode.rules, decode.cursor, r, one.lane, now
        )
        self._wakes(0, sender // prefill.rules.lanes)
        if there:
            self._wakes(1, one.lane // decode.rules.lanes)
        elif prefill.rules.closed:
            prefill.cursor[FLYING] -= 1
            self._left(prefill)

    # Failures.

    def _up(self, replica: int) -> None:
        super()._up(replica)
        self._room_again()

    def _resize(self, replica: int, has: int, had: int) -> None:
        super()._resize(replica, has, had)
        self._full[:] = np.iinfo(np.int64).max
        self._retry()
        self._room_again()

    def _evict(self, index: int, engine: int) -> list[int]:
        self._cut(index, engine)
        again = super()._evict(index, engine)
        if index:
            self.given[again] = self.decode.state.progress["generated"][again]
            # In a closed loop they count where they came in.
            self.prefill.cursor[FLYING] -= len(again)
        return again

    def _cut(self, index: int, engine: int) -> None:
        """Break off what crosses from or to an engine."""
        lane_of, lanes = self.prefill.state.progress["lane"], self.pools[index].rules.lanes
        for r, one in list(self.crossing.items()):
            lane = one.lane if index else int(lane_of[r])
            if lane >= 0 and lane // lanes == engine:
                self._break_off(r, one, _RECEIVER if index else _SENDER)
        self._retry()

    def _break_off(self, r: int, one: Crossing, cause: str) -> None:
        self._let_go(r, one)
        if one.process is not None:
            one.process.interrupt(cause)
        if cause == _SENDER:
            del self.crossing[r]

    def _room_again(self) -> None:
        self._back.succeed()
        self._back = self.env.event()

    def _send(self, r: int) -> None:
        state, given = self.prefill.state, int(self.given[r])
        progress = state.progress
        progress["stage"][r], progress["generated"][r], progress["done"][r] = AHEAD, 0, 0
        progress["target"][r] = state.asked["prompt"][r] + given
        state.asked["output"][r] = self._output[r] - given + 1 - self._gives
        super()._send(r)

    def _give_up(self, r: int) -> None:
        self.decode.state.progress["stage"][r] = LOST
        super()._give_up(r)
