"""The same requests served by a loop in Python with an object per request, as Vidur's replica schedulers are.

    python benchmarks/serving/bench_per_step_loop.py [--requests 20000] [--replicas 8]

The loop here is our own: events in a heap (arrival, schedule, end of a batch), a scheduler per replica with a
queue, a dictionary of blocks, and a batch object per step that names its requests and their tokens. It reads
the same table of step times and follows the same rules: running requests first, prompts in chunks within the
budget. That both give the same times, request by request, is checked before any ratio is printed. Published
simulators are timed beside them if they are installed.
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import itertools
import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import moesim as ms
from moesim.requests import RequestTrace, load_requests, resample_sessions
from moesim.serving.kernel.price import Prices, seconds_of
from moesim.serving.settings import Fleet, Scheduler
from moesim.serving.simulate import Ready, prepare
from moesim.serving.state import (
    CONTEXT,
    LOADS,
    PAIRS,
    PREFILL,
    PROMPTS,
    QUERIES,
    SEQUENCES,
    STORED,
)

PEERS = ("vidur", "aisimulate", "llmservingsim", "frontier")


@dataclass(slots=True, eq=False)
class Request:
    """A request and how far it is."""

    number: int
    arrived_at: float
    prefill_tokens: int
    decode_tokens: int
    processed: int = 0
    generated: int = 0
    first_token_at: float | None = None
    completed_at: float | None = None

    @property
    def prefilled(self) -> bool:
        return self.processed >= self.prefill_tokens

    def on_batch_end(self, now: float, tokens: int) -> None:
        self.processed += tokens
        if self.processed < self.prefill_tokens:
            return
        self.generated += 1
        if self.first_token_at is None:
            self.first_token_at = now
        if self.generated == self.decode_tokens:
            self.completed_at = now


@dataclass(slots=True, eq=False)
class Batch:
    """A step: its requests, and how many tokens of each."""

    requests: list[Request]
    tokens: list[int]


@dataclass(slots=True, eq=False)
class StepTimePredictor:
    """Step times from the table; `seconds` is what asking it took."""

    prices: Prices
    seconds: float = 0.0
    load: Any = field(default_factory=lambda: np.zeros((1, LOADS)))

    def of(self, batch: Batch) -> float:
        began = time.process_time()
        prompts = prefill = pairs = stored = sequences = context = 0
        for request, tokens in zip(batch.requests, batch.tokens, strict=True):
            if request.prefilled:
                sequences += 1
                context += request.processed + 1
            else:
                prompts += 1
                prefill += tokens
                pairs += tokens * (request.processed + tokens / 2.0)
                stored += request.processed + tokens
        row = self.load[0]
        row[PROMPTS], row[PREFILL], row[PAIRS], row[STORED] = prompts, prefill, pairs, stored
        row[SEQUENCES], row[QUERIES], row[CONTEXT] = sequences, sequences, context
        found = seconds_of(self.prices, self.load, 0)
        self.seconds += time.process_time() - began
        return found


class ReplicaScheduler:
    """Forms the batches of a replica."""

    def __init__(self, ready: Ready) -> None:
        self.budget, self.most = ready.rules.budget, ready.rules.most
        self.block, self.blocks = ready.rules.block, ready.blocks
        self.queue: deque[Request] = deque()
        self.running: list[Request] = []
        self.allocated: dict[int, int] = {}
        self.used = 0
        self.busy = False

    def allocate(self, request: Request, tokens: int) -> bool:
        needed = -(-(request.processed + tokens) // self.block)
        more = needed - self.allocated.get(request.number, 0)
        if more > 0:
            if self.used + more > self.blocks:
                return False
            self.used += more
            self.allocated[request.number] = needed
        return True

    def free(self, request: Request) -> None:
        self.used -= self.allocated.pop(request.number)

    def next_batch(self) -> Batch | None:
        requests: list[Request] = []
        counts: list[int] = []
        left = self.budget
        for request in self.running:
            tokens = 1 if request.prefilled else min(request.prefill_tokens - request.processed, left)
            if left == 0:
                break
            if not self.allocate(request, tokens):
                raise MemoryError("this loop does not pre-empt: give the case more memory")
            requests.append(request)
            counts.append(tokens)
            left -= tokens
        while self.queue and left > 0 and len(self.running) < self.most:
            request = self.queue[0]
            tokens = min(request.prefill_tokens, left)
            if not self.allocate(request, tokens):
                break
            self.queue.popleft()
            self.running.append(request)
            requests.append(request)
            counts.append(tokens)
            left -= tokens
        return Batch(requests, counts) if requests else None

    def on_batch_end(self, now: float, batch: Batch) -> None:
        for request, tokens in zip(batch.requests, batch.tokens, strict=True):
            request.on_batch_end(now, tokens)
            if request.completed_at is not None:
                self.free(request)
        self.running = [request for request in self.running if request.completed_at is None]


ARRIVAL, BATCH_END = range(2)


def per_step_loop(requests: RequestTrace, ready: Ready) -> tuple[list[Request], int, float]:
    """Serve requests; every request, steps, and CPU seconds of step times."""
    replicas = [ReplicaScheduler(ready) for _ in range(ready.about.engines)]
    predictor = StepTimePredictor(ready.prices)
    counter = itertools.count()
    served = [
        Request(i, at, read, written)
        for i, (at, read, written) in enumerate(
            zip(
                requests.arrival_s.tolist(),
                requests.input_tokens.tolist(),
                requests.output_tokens.tolist(),
                strict=True,
            )
        )
    ]
    events: list[tuple[float, int, int, Any]] = []
    for request in served:
        heapq.heappush(events, (request.arrived_at, ARRIVAL, next(counter), request))
    turn, steps = itertools.cycle(range(len(replicas))), 0

    def schedule(now: float, replica: int) -> None:
        nonlocal steps
        scheduler = replicas[replica]
        if scheduler.busy:
            return
        batch = scheduler.next_batch()
        if batch is None:
            return
        scheduler.busy = True
        steps += 1
        heapq.heappush(events, (now + predictor.of(batch), BATCH_END, next(counter), (replica, batch)))

    while events:
        now, kind, _, what = heapq.heappop(events)
        if kind == ARRIVAL:
            replica = next(turn)
            replicas[replica].queue.append(what)
        else:
            replica, batch = what
            replicas[replica].busy = False
            replicas[replica].on_batch_end(now, batch)
        schedule(now, replica)
    return served, steps, predictor.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--rate", type=float, default=40.0)
    given = parser.parse_args()
    shared = Path(os.environ.get("MOESIM_SHARED", Path(__file__).parents[3] / "shared" / "data"))
    trace = load_requests(shared / "arrivals/azure-2023/AzureLLMInferenceTrace_conv.csv")
    requests = resample_sessions(trace, given.requests, seed=1, rate_per_s=given.rate)
    ready = prepare(
        ms.load_model("qwen3-30b-a3b"),
        ms.load_hardware("h100-sxm-8"),
        ms.Parallelism(),
        requests,
        scheduler=Scheduler(prefix_cache=False),
        fleet=Fleet(given.replicas, "round-robin"),
    )
    ready.serve(requests.head(100))  # load compiled code
    began = time.process_time()
    outcome = ready.serve(requests)
    ours = time.process_time() - began
    began = time.process_time()
    served, steps, priced = per_step_loop(requests, ready)
    theirs = time.process_time() - began
    first = np.array([request.first_token_at for request in served], np.float64)
    last = np.array([request.completed_at for request in served], np.float64)
    progress = outcome.state.progress
    np.testing.assert_allclose(first, progress.first_s, rtol=0, atol=1e-6)
    np.testing.assert_allclose(last, progress.last_s, rtol=0, atol=1e-6)
    tokens = int(requests.output_tokens.sum(dtype=np.int64))
    print(
        f"{given.requests:,} requests of Azure's trace, {given.replicas} replicas, {steps:,} steps, ", end=""
    )
    print(f"{tokens:,} output tokens; every first and last token at the same time in both (1 us)")
    print(f"loops of moesim:            {ours:8.2f} s CPU")
    print(f"a loop with objects:        {theirs:8.2f} s CPU, of which {priced:.2f} s for step times")
    print(f"ratio: {theirs / ours:.0f}, without step times {(theirs - priced) / ours:.0f}")
    for peer in PEERS:
        if importlib.util.find_spec(peer) is None:
            print(f"{peer}: not installed, not timed")
        else:
            print(f"{peer}: installed, but no adapter is written for it")


if __name__ == "__main__":
    main()
