"""A small cluster where every step of every engine is a process of SimPy: slow, plain, and made anew."""

from __future__ import annotations

import simpy


class Request:
    def __init__(self, number, arrival, prompt, output):
        self.number, self.arrival, self.prompt, self.output = number, arrival, prompt, output
        self.done, self.generated = 0, 0
        self.first = self.last = None

    @property
    def target(self):
        return self.prompt + self.generated


class Engine:
    """Continuous batching: running requests first, then the queue, within a budget of tokens."""

    def __init__(self, env, step_s, budget, most, hears):
        self.env, self.step_s, self.budget, self.most, self.hears = env, step_s, budget, most, hears
        self.queue, self.running, self.up = [], [], True
        self.bell = env.event()
        self.process = env.process(self.work())

    @property
    def load(self):
        return len(self.queue) + len(self.running)

    def put(self, request):
        self.queue.append(request)
        self.ring()

    def ring(self):
        if not self.bell.triggered:
            self.bell.succeed()

    def fail(self):
        """Everything there, in order of admission."""
        left = self.running + self.queue
        self.running, self.queue, self.up = [], [], False
        for request in left:
            request.done = 0
        self.process.interrupt()
        return left

    def form(self):
        left, planned = self.budget, []
        for request in self.running:
            many = min(request.target - request.done, left)
            if many:
                planned.append((request, many))
                left -= many
        while left and self.queue and len(self.running) < self.most:
            request = self.queue.pop(0)
            self.running.append(request)
            many = min(request.target - request.done, left)
            planned.append((request, many))
            left -= many
        return planned

    def work(self):
        while True:
            try:
                planned = self.form() if self.up else []
                if not planned:
                    self.bell = self.env.event()
                    yield self.bell
                    continue
                yield self.env.timeout(self.step_s)
                for request, many in planned:
                    request.done += many
                    if request.done == request.target:
                        request.generated += 1
                        request.first = self.env.now if request.first is None else request.first
                        request.last = self.env.now
                        if self.hears(self, request):
                            self.running.remove(request)
            except simpy.Interrupt:
                pass


def aggregated(requests, engines, step_s, budget, most, outages=()):
    """Engines in turn; requests of one that fails are sent to those that work, in turn."""
    env, turn = simpy.Environment(), [0]
    fleet = [
        Engine(env, step_s, budget, most, lambda _, request: request.generated == request.output)
        for _ in range(engines)
    ]
    parked = []

    def send(request):
        for i in range(engines):
            engine = fleet[(turn[0] + i) % engines]
            if engine.up:
                turn[0] += 1
                engine.put(request)
                return
        # Whoever finds nobody took a turn all the same.
        turn[0] += 1
        parked.append(request)

    def arrive():
        for request in requests:
            yield env.timeout(request.arrival - env.now)
            send(request)

    def fail(at, which, seconds):
        yield env.timeout(at)
        for request in fleet[which].fail():
            send(request)
        yield env.timeout(seconds)
        fleet[which].up = True
        waiting, parked[:] = list(parked), []
        for request in waiting:
            send(request)
        fleet[which].ring()

    env.process(arrive())
    for outage in outages:
        env.process(fail(*outage))
    env.run()
    return requests


def handed(requests, decoders, steps_s, budget, most, per_token_s, latency_s):
    """One engine that prefills, some that decode; caches share the link of the first."""
    env, coming = simpy.Environment(), [0] * decoders
    sharing = []

    def hears_first(_, request):
        if request.generated < request.output:
            env.process(cross(request))
        return True

    prefill = Engine(env, steps_s[0], budget, most, hears_first)
    fleet = [
        Engine(env, steps_s[1], budget, most, lambda _, request: request.generated == request.output)
        for _ in range(decoders)
    ]

    def cross(request):
        loads = [engine.load + n for engine, n in zip(fleet, coming, strict=True)]
        which = loads.index(min(loads))
        coming[which] += 1
        # Processor sharing of the one sender, in tokens; all are woken where the number of sharers changes.
        left, begins = float(request.prompt), env.now + latency_s
        me = [env.event()]
        sharing.append(me)
        wake_all(sharing)
        while left > 0:
            since, part = env.now, len(sharing)
            me[0] = env.event()
            lasts = max(begins - env.now, 0.0) + left * per_token_s * part
            yield env.timeout(lasts) | me[0]
            if env.now - since >= lasts * (1 - 1e-12):
                break
            if per_token_s:
                left -= max(env.now - max(since, begins), 0.0) / (per_token_s * part)
        sharing.remove(me)
        wake_all(sharing)
        coming[which] -= 1
        fleet[which].put(request)

    def arrive():
        for request in requests:
            yield env.timeout(request.arrival - env.now)
            prefill.put(request)

    env.process(arrive())
    env.run()
    return requests


def wake_all(sharing):
    for me in sharing:
        if not me[0].triggered:
            me[0].succeed()
