"""A second opinion on the timed kernel: processes that wait for events, one event at a time.

GPU, host link, write-back and CPU are processes on one heap of events. Nothing is computed ahead: the link
takes its next copy when it gets free, demands first; the GPU waits for what it needs.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

from tests.offload.cases import Case


class Event:
    def __init__(self) -> None:
        self.time, self.waiting = None, []


class Loop:
    def __init__(self) -> None:
        self.now, self.heap, self.order = 0.0, [], itertools.count()

    def start(self, process) -> None:
        self._resume(process)

    def fire(self, event: Event) -> None:
        if event.time is None:
            event.time = self.now
            for process in event.waiting:
                heapq.heappush(self.heap, (self.now, next(self.order), process))
            event.waiting = []

    def _resume(self, process) -> None:
        for wish in process:
            if isinstance(wish, Event):
                if wish.time is None:
                    wish.waiting.append(process)
                    return
            elif wish > self.now:
                heapq.heappush(self.heap, (wish, next(self.order), process))
                return

    def run(self) -> None:
        while self.heap:
            self.now, _, process = heapq.heappop(self.heap)
            self._resume(process)


@dataclass
class Copy:
    x: int
    arrived: Event
    victims: list = field(default_factory=list)
    kept: bool = True
    stopped: bool = False
    slot: Event | None = None
    ran: Event | None = None
    wake: Event | None = None


class Events:
    """One case; `run` gives the ends of steps and what was counted."""

    def __init__(self, case: Case) -> None:
        self.case, self.loop = case, Loop()
        self.level, self.key, self.tie, self.guard = {}, {}, {}, {}
        self.count = dict.fromkeys(("hits", "loads", "prefetched", "useful", "wasted", "aborted"), 0)
        self.uses = {}
        for s, step in enumerate(case.asked):
            for layer, cell in enumerate(step):
                for at, e in enumerate(cell):
                    self.uses.setdefault(layer * case.num_experts + e, []).append((s, layer, at))
        self.arrived, self.ran, self.fetched = {}, {}, set()
        self.clock = itertools.count(1)
        self.demands, self.queue, self.queue_event = deque(), deque(), Event()
        self.spares = [self._done() for _ in range(case.spares)]
        self.cell, self.flying, self.ends = 0, None, []
        self.writes, self.write_event, self.stop = deque(), Event(), False
        self.cpu_jobs, self.cpu_event = deque(), Event()
        for x in case.initial:
            self._put(x)
            self.arrived[x] = self._done()

    def _done(self) -> Event:
        event = Event()
        event.time = 0.0
        return event

    # Pools, in plain words.
    def _pool(self, x: int) -> int:
        return 0 if self.case.pooled else x // self.case.num_experts

    def _put(self, x: int, demanded: bool = False) -> None:
        now = next(self.clock)
        self.level[x] = True
        self.tie[x] = now
        if self.case.rule == "fifo" or (self.case.rule == "lru" and not demanded):
            self.key[x] = now
        elif self.case.rule == "lifo":
            self.key[x] = -now
        elif self.case.rule == "lfu":
            self.key[x] = 0

    def _use(self, x: int) -> None:
        now = next(self.clock)
        if self.case.rule == "lru":
            self.key[x] = now
        elif self.case.rule == "lfu":
            self.key[x] += 1
            self.tie[x] = now

    def _next_use(self, x: int, at: tuple) -> tuple:
        later = [u for u in self.uses.get(x, []) if u > at]
        return later[0] if later else (10**9, 0, 0)

    def _room(self, x: int, cell: int, at: tuple, urgent: bool):
        """Victims for x, or None if it cannot be had."""
        pool, gone = self._pool(x), []
        size = self.case.slots[pool]
        if size < 1:
            return None
        while sum(self._pool(y) == pool for y in self.level) + 1 > size:
            if self.case.rule == "static":
                return None
            there = [y for y in self.level if self._pool(y) == pool]
            free = [y for y in there if self.guard.get(y, -1) < cell]
            if not free and urgent:
                free = [y for y in there if self.guard.get(y, -1) != cell]
            if not free:
                return None
            if self.case.rule == "belady":
                out = max(free, key=lambda y: self._next_use(y, at))
            else:
                out = min(free, key=lambda y: (self.key[y], self.tie[y]))
            del self.level[out]
            if out in self.fetched:
                self.fetched.discard(out)
                self.count["wasted"] += 1
            gone.append(out)
        return gone

    def _purge(self, cell: int) -> None:
        """Guesses at the head of the queue that ask for nothing any more go, though the link is busy."""
        while self.queue:
            target, e = self.queue[0]
            x = target % self.case.layers * self.case.num_experts + e
            if target >= cell and x not in self.level:
                return
            if target >= cell:
                self.guard[x] = max(self.guard.get(x, -1), target)
            self.queue.popleft()

    # Processes.
    def link(self):
        case = self.case
        while not self.stop:
            copy = None
            if self.demands:
                copy = self.demands.popleft()
            else:
                while self.queue and copy is None:
                    target, e = self.queue.popleft()
                    x = target % case.layers * case.num_experts + e
                    cell = self.cell + 1  # what begins now is there for the next cell
                    if target < cell:
                        continue
                    if x in self.level:
                        self.guard[x] = max(self.guard.get(x, -1), target)
                        continue
                    at = (self.cell // case.layers, self.cell % case.layers, 10**9)
                    victims = self._room(x, cell, at, False)
                    if victims is None:
                        if len(case.slots) == 1:
                            self.queue.clear()
                        continue
                    self._put(x)
                    self.arrived[x] = Event()
                    self.fetched.add(x)
                    self.guard[x] = max(self.guard.get(x, -1), target)
                    self.count["prefetched"] += 1
                    copy = Copy(x, self.arrived[x], [(v, self.arrived[v], self.ran.get(v)) for v in victims])
                    self.ran[x] = None
                    self.flying = copy
            if copy is None:
                self.queue_event = Event()
                yield self.queue_event
                continue
            if copy.victims or not copy.kept:
                held = self.spares.pop(self._first_spare())
                free = Event()
                self.spares.append(free)
                copy.slot = free
                if copy.victims:
                    self.writes.append((copy.victims, free))
                    self.loop.fire(self.write_event)
                if held.time is None:
                    copy.wake = Event()
                    self.loop.start(self._relay(held, copy))
                    yield copy.wake
                    if copy.stopped:
                        continue
            copy.wake = Event()
            self.loop.start(self._alarm(copy.wake, self.loop.now + case.latency + case.load))
            yield copy.wake
            if not copy.stopped:
                self.loop.fire(copy.arrived)

    def _relay(self, held: Event, copy: Copy):
        yield held
        self.loop.fire(copy.wake)

    def _alarm(self, wake: Event, until: float):
        yield until
        self.loop.fire(wake)

    def _first_spare(self) -> int:
        known = [i for i, s in enumerate(self.spares) if s.time is not None]
        return min(known, key=lambda i: self.spares[i].time) if known else 0

    def writer(self):
        while not self.stop:
            if not self.writes:
                self.write_event = Event()
                yield self.write_event
                continue
            victims, free = self.writes.popleft()
            for _, arrived, ran in victims:
                yield arrived
                if ran is not None:
                    yield ran
                if self.case.write_back:
                    yield self.loop.now + self.case.out
            self.loop.fire(free)

    def cpu(self):
        while not self.stop:
            if not self.cpu_jobs:
                self.cpu_event = Event()
                yield self.cpu_event
                continue
            earliest, seconds, done = self.cpu_jobs.popleft()
            yield earliest
            yield self.loop.now + seconds
            self.loop.fire(done)

    def gpu(self):
        case = self.case
        for s, step in enumerate(case.asked):
            for layer, cell in enumerate(step):
                before = case.before[layer % len(case.before)]
                yield self.loop.now + before
                gate, number = self.loop.now, s * case.layers + layer
                self.cell = number
                base = layer * case.num_experts
                self._purge(number)
                if case.batch or case.executor != "gpu":
                    for e in cell:
                        self.guard[base + e] = max(self.guard.get(base + e, -1), number)
                runs, misses = [], []
                for at, e in enumerate(cell):
                    x = base + e
                    if x in self.level:
                        self.count["hits"] += 1
                        if x in self.fetched:
                            self.fetched.discard(x)
                            self.count["useful"] += 1
                        ran = self.ran[x] = Event()
                        runs.append((x, self.arrived[x], ran))
                        self._use(x)
                    else:
                        if case.rule == "lru":
                            self._use(x)
                        flying = self.flying
                        if (
                            case.preemptible
                            and flying is not None
                            and flying.x in self.level
                            and flying.arrived.time is None
                            and flying.x not in [base + o for o in cell]
                        ):
                            flying.stopped = True
                            del self.level[flying.x]
                            self.fetched.discard(flying.x)
                            self.count["aborted"] += 1
                            self.loop.fire(flying.arrived)
                            self.loop.fire(flying.wake)
                            self.flying = None
                        if not case.batch and case.executor == "gpu":
                            self._demand(x, number, (s, layer, at), misses)
                        else:
                            misses.append((x, at))
                cpu_done = []
                if case.executor == "mask":
                    for _, _ in misses:
                        done = Event()
                        cpu_done.append(done)
                        self.cpu_jobs.append((gate + case.hop, case.cpu, done))
                    self.loop.fire(self.cpu_event)
                    misses = []
                elif case.batch:
                    wanted, misses = misses, []
                    for x, at in wanted:
                        self._demand(x, number, (s, layer, at), misses)
                if case.guessed and case.guessed[s][layer]:
                    self.queue = deque(case.guessed[s][layer])
                self.loop.fire(self.queue_event)
                yield self.loop.now + case.beside
                for _, arrived, ran in runs:
                    yield arrived
                    yield self.loop.now + case.gpu
                    self.loop.fire(ran)
                for copy in misses:
                    yield copy.arrived
                    yield self.loop.now + case.gpu
                    self.loop.fire(copy.ran)
                    if not copy.kept:
                        self.loop.fire(copy.slot)
                for done in cpu_done:
                    yield done
                    yield done.time + case.hop
            yield self.loop.now + case.tail
            self.ends.append(self.loop.now)
        self.stop = True

    def _demand(self, x: int, number: int, at: tuple, copies: list) -> None:
        self.count["loads"] += 1
        victims = self._room(x, number, at, True)
        copy = Copy(x, Event(), [(v, self.arrived[v], self.ran.get(v)) for v in victims or []])
        copy.ran = Event()
        copy.kept = victims is not None
        if copy.kept:
            self._put(x, demanded=True)
            self.arrived[x], self.ran[x] = copy.arrived, copy.ran
            if self.case.rule != "lru":
                self._use(x)
        self.demands.append(copy)
        copies.append(copy)

    def run(self):
        for process in (self.link(), self.writer(), self.cpu(), self.gpu()):
            self.loop.start(process)
        self.loop.run()
        return self.ends, self.count
