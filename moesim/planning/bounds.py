"""What no schedule can reach, so that nobody needs to look: memory, latency and throughput at bare peaks.

Every limit counts operations and bytes at the peaks of the hardware, with nothing on the links, ranks that
share experts equally and no queue. It holds for the very requests that the simulator replays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape, bandwidth_together, peak_together
from moesim.engine.deployment import Deployment
from moesim.ops import Batch, step_work
from moesim.planning.crowd import F8
from moesim.planning.streams import Stream
from moesim.planning.types import Slo
from moesim.prediction import Engine

#: Prompt lengths at which limits are computed; a prompt counts like the next shorter of them.
LENGTHS = 24
#: Shares of the requests that are due when their work is counted.
_PARTS = (0.25, 0.5, 0.75, 0.9, 1.0)


class Part(NamedTuple):
    """A stretch: how many of its requests are judged, and by several times which have to be done."""

    judged: int
    windows: tuple[tuple[npt.NDArray[np.int64], float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The judged requests of all stretches, ``[requests]``.

    Parameters
    ----------
    output
        Tokens.
    longest
        Tokens of the longest of all requests with its output.
    reads, read_place
        Some numbers of prompt tokens to read, and for each request the place of the largest it reaches.
    held, held_place
        The same of prompt tokens in the cache.
    parts
        The stretches.
    """

    output: F8
    longest: float
    reads: F8
    read_place: npt.NDArray[np.int64]
    held: F8
    held_place: npt.NDArray[np.int64]
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, streams: Sequence[Stream], slo: Slo) -> Asked:
        """What a promise asks for on some stretches."""
        judged = [np.flatnonzero(s.judged) for s in streams]
        output = [s.requests.output_tokens[j].astype(float) for s, j in zip(streams, judged, strict=True)]
        prompt = [s.requests.input_tokens[j].astype(float) for s, j in zip(streams, judged, strict=True)]
        fresh = [s.fresh[j] for s, j in zip(streams, judged, strict=True)]
        parts, start = [], 0
        for stream, chosen, tokens in zip(streams, judged, output, strict=True):
            arrival = stream.requests.arrival_s[chosen]
            due = arrival + _stay_s(tokens, slo)
            windows = []
            for until in np.quantile(due, _PARTS) if np.isfinite(due).all() else ():
                early = np.flatnonzero(due <= until)
                windows.append((start + early, float(until - arrival[0])))
            parts.append(Part(len(chosen), tuple(windows)))
            start += len(chosen)
        longest = max(
            int((s.requests.input_tokens.astype(np.int64) + s.requests.output_tokens).max()) for s in streams
        )
        reads, held = _grid(np.concatenate(fresh)), _grid(np.concatenate(prompt))
        return cls(np.concatenate(output), float(longest), *reads, *held, tuple(parts))


def _stay_s(output: F8, slo: Slo) -> F8:
    """How long a request may be in the system; infinite without limits that say so."""
    stay = np.full(len(output), np.inf)
    if "e2el_s" in slo.limits:
        stay = np.minimum(stay, slo.limits["e2el_s"])
    if {"ttft_s", "tpot_s"} <= slo.limits.keys():
        later = np.maximum(output - 1.0, 0.0) * slo.limits["tpot_s"]
        stay = np.minimum(stay, slo.limits["ttft_s"] + later)
    return stay


def _grid(tokens: F8) -> tuple[F8, npt.NDArray[np.int64]]:
    """Some lengths, and for every request the place of the longest of them that it reaches."""
    grid = np.unique(np.quantile(tokens, np.linspace(0.0, 1.0, LENGTHS), method="lower"))
    return grid, np.searchsorted(grid, tokens, side="right") - 1


@dataclass(frozen=True, slots=True, eq=False)
class Peak:
    """Least seconds of batches, ``[batches]``: of the busiest rank's operations, and of its share of experts.

    Parameters
    ----------
    dense_flops_s, expert_flops_s
        At the peak of the processor.
    dense_weights_s, cache_s, expert_bytes_s
        At the bandwidth of the memory; activations are not counted.
    """

    dense_flops_s: F8
    expert_flops_s: F8
    dense_weights_s: F8
    cache_s: F8
    expert_bytes_s: F8

    @property
    def seconds(self) -> F8:
        """Of one step."""
        return np.maximum(
            self.dense_flops_s + self.expert_flops_s,
            self.dense_weights_s + self.cache_s + self.expert_bytes_s,
        )


@dataclass(frozen=True, slots=True)
class Floor:
    """What a shape cannot beat.

    Parameters
    ----------
    short_bytes
        Memory that is missing on the fullest device; 0 or less if all fits.
    share
        Requests that can meet the promise at most.
    best
        Latencies that so many requests as were promised reach at best, by limit.
    replicas
        That it takes at least.
    """

    short_bytes: float
    share: float
    best: dict[str, float]
    replicas: int


def short_bytes(deployment: Deployment, engine: Engine, longest: float) -> float:
    """Memory that is missing on the fullest device for weights, workspace and the longest request."""
    room = deployment.memory(engine.chunk_tokens, engine.memory_utilisation).cache_budget_bytes
    return float(deployment.cache_bytes(np.array([longest]))[0]) - room


def peak(deployment: Deployment, batch: Batch) -> Peak:
    """Least seconds of steps, all drafts aside."""
    device, layout = deployment.hardware.device, deployment.layout
    bandwidth = bandwidth_together(device)
    work = step_work(deployment.model, layout, batch, deployment.precision, deployment.kinds)
    table = work.table
    peaks = np.array([[peak_together(device, op.kind, op.dtype)] for op, _ in table.ops])
    flops = table.column("flops")
    active = (flops + table.column("activation_bytes") + table.column("cache_bytes")) > 0
    weights = np.where(active, table.column("weight_bytes"), 0.0)
    experts, read = np.zeros(batch.size), np.zeros(batch.size)
    for group in work.experts:
        shape = ExpertShape(group.hidden, group.shard, group.moe.matrices, group.dtype)
        pairs = group.tokens * group.moe.top_k / layout.ep
        layers = len(group.layers)
        experts = experts + layers * pairs * shape.flops_per_pair / peak_together(device, "gemm", group.dtype)
        # Whatever the batch, at least the experts of one token are read.
        hit = np.minimum(group.tokens, 1.0) * group.moe.top_k / layout.ep
        read = read + layers * hit * shape.weight_bytes / bandwidth
    return Peak(
        (table.counts * flops / peaks).sum(axis=0),
        experts,
        (table.counts * weights).sum(axis=0) / bandwidth,
        (table.counts * table.column("cache_bytes")).sum(axis=0) / bandwidth,
        read,
    )


def floor_of(deployment: Deployment, engine: Engine, asked: Asked, slo: Slo) -> Floor:
    """What a shape cannot beat, on the requests that are replayed.

    Parameters
    ----------
    deployment
        The shape.
    engine
        With its batch limits.
    """
    short = short_bytes(deployment, engine, asked.longest)
    if short > 0:
        return Floor(short, 0.0, {}, 0)
    layout, drafts = deployment.layout, engine.speculation.tokens
    prompts = peak(deployment, Batch.of(prompts=1.0, chunk=asked.reads, past=0.0, ranks=1.0))
    tokens = peak(deployment, Batch.of(sequences=1.0, context=asked.held, ranks=1.0))
    steps = np.maximum(asked.output - 1.0, 0.0)
    read, held = asked.read_place, asked.held_place
    first, later = prompts.seconds[read], tokens.seconds[held] / (1.0 + drafts)
    times = {"ttft_s": first, "tpot_s": np.where(steps > 0, later, 0.0), "e2el_s": first + steps * later}
    met, best = np.ones(len(steps), bool), {}
    at = min(int(slo.attainment * (len(steps) - 1)), len(steps) - 1)
    for name, limit in slo.limits.items():
        met &= times[name] <= limit
        best[name] = float(np.partition(times[name], at)[at])
    # Lanes and stages work at the same time; ranks of a stage share the experts.
    many = layout.dp * layout.pp
    compute = (prompts.dense_flops_s / many + prompts.expert_flops_s / layout.pp)[read]
    compute += steps * (tokens.dense_flops_s / many + tokens.expert_flops_s / layout.pp)[held]
    most = min(engine.max_sequences, engine.chunk_tokens)
    memory = steps * ((tokens.cache_s + tokens.dense_weights_s / most) / (many * (1.0 + drafts)))[held]
    return Floor(short, float(met.mean()), best, _replicas(compute, memory, asked, slo.attainment))


def _replicas(compute: F8, memory: F8, asked: Asked, attainment: float) -> int:
    """Replicas without which too much of what has to be done by some time is not.

    So many of all judged requests have to be done in time as were promised. Those with a deadline before T
    arrived after the first judged one, and are worked on between the two. The promise is kept on average: the
    stretch that suits it best has at least the average share.
    """
    needed = np.inf
    for part in asked.parts:
        least = 0.0
        missed = int((1.0 - attainment) * part.judged)
        for early, seconds in part.windows:
            if len(early) <= missed:
                continue
            for work in (compute[early], memory[early]):
                # Without those that take longest.
                kept = work.sum() - np.partition(work, -missed)[-missed:].sum() if missed else work.sum()
                least = max(least, float(kept) / seconds)
        needed = min(needed, least)
    return max(int(np.ceil(needed * (1.0 - 1e-9))), 1)
