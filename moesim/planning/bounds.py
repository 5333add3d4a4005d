"""What no schedule can reach, so that nobody needs to look: memory, latency and throughput at bare peaks.

Every limit counts operations and bytes at the peaks of the hardware, with nothing on the links, ranks that
share experts equally and no queue. It holds for the very requests that the simulator replays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.cost import ExpertShape, peak_of
from moesim.engine.deployment import Deployment
from moesim.ops import Batch, step_work
from moesim.planning.crowd import F8
from moesim.planning.streams import Stream
from moesim.planning.types import Slo
from moesim.prediction import Engine

#: Prompt lengths at which limits are computed; a prompt counts like the next shorter of them.
LENGTHS = 24
#: Times until which work is counted.
DEADLINES = 12


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Requests of the streams and what a promise gives each of them.

    Parameters
    ----------
    prompt, fresh, output
        Tokens, ``[requests]``.
    arrival_s, judged, stream
        When, whether it counts, and in which stretch.
    """

    prompt: F8
    fresh: F8
    output: F8
    arrival_s: F8
    judged: np.ndarray
    stream: np.ndarray

    @classmethod
    def of(cls, streams: tuple[Stream, ...]) -> Asked:
        """All stretches, one behind the other."""
        return cls(
            np.concatenate([s.requests.input_tokens for s in streams]).astype(float),
            np.concatenate([s.fresh for s in streams]),
            np.concatenate([s.requests.output_tokens for s in streams]).astype(float),
            np.concatenate([s.requests.arrival_s for s in streams]),
            np.concatenate([s.judged for s in streams]),
            np.repeat(np.arange(len(streams)), [len(s.judged) for s in streams]),
        )

    @property
    def longest(self) -> float:
        """Tokens of the longest request with its output."""
        return float((self.prompt + self.output).max())


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
    processor = device.processor
    bandwidth = processor.bandwidth_bytes_per_s[device.memory.name]
    work = step_work(deployment.model, layout, batch, deployment.precision, deployment.kinds)
    table = work.table
    peaks = np.array([[peak_of(processor, op.kind, op.dtype)] for op, _ in table.ops])
    flops = table.column("flops")
    active = (flops + table.column("activation_bytes") + table.column("cache_bytes")) > 0
    weights = np.where(active, table.column("weight_bytes"), 0.0)
    experts, read = np.zeros(batch.size), np.zeros(batch.size)
    for group in work.experts:
        shape = ExpertShape(group.hidden, group.shard, group.moe.matrices, group.dtype)
        pairs = group.tokens * group.moe.top_k / layout.ep
        layers = len(group.layers)
        experts = experts + layers * pairs * shape.flops_per_pair / peak_of(processor, "gemm", group.dtype)
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
    read, place = _grid(asked.fresh)
    prompts = peak(deployment, Batch.of(prompts=1.0, chunk=read, past=0.0, ranks=1.0))
    held, held_place = _grid(asked.prompt)
    tokens = peak(deployment, Batch.of(sequences=1.0, context=held, ranks=1.0))
    first = prompts.seconds[place]
    later = tokens.seconds[held_place] / (1.0 + drafts)
    whole = first + np.maximum(asked.output - 1.0, 0.0) * later
    judged = asked.judged
    met = np.ones(int(judged.sum()), bool)
    best = {}
    times = {"ttft_s": first, "tpot_s": np.where(asked.output > 1, later, 0.0), "e2el_s": whole}
    for name, limit in slo.limits.items():
        values = times[name][judged]
        met &= values <= limit
        best[name] = float(np.quantile(values, slo.attainment, method="lower"))
    # Lanes and stages work at the same time; ranks of a stage share the experts.
    many, steps = layout.dp * layout.pp, np.maximum(asked.output - 1.0, 0.0)
    compute = (prompts.dense_flops_s[place] + steps * tokens.dense_flops_s[held_place]) / many
    compute += (prompts.expert_flops_s[place] + steps * tokens.expert_flops_s[held_place]) / layout.pp
    most = min(engine.max_sequences, engine.chunk_tokens)
    memory = tokens.cache_s[held_place] + tokens.dense_weights_s[held_place] / most
    memory = steps / (1.0 + drafts) * memory / many
    return Floor(short, float(met.mean()), best, _replicas(np.maximum(compute, 0.0), memory, asked, slo))


def _grid(tokens: F8) -> tuple[F8, np.ndarray]:
    """Some lengths, and for every request the place of the longest of them that it reaches."""
    grid = np.unique(np.quantile(tokens, np.linspace(0.0, 1.0, LENGTHS), method="lower"))
    return grid, np.searchsorted(grid, tokens, side="right") - 1


def _replicas(compute: F8, memory: F8, asked: Asked, slo: Slo) -> int:
    """Replicas without which too much of what has to be done by some time is not.

    So many of all judged requests have to be done in time as were promised. Those with a deadline before T
    arrived after the first judged one, and are worked on between the two.
    """
    steps = np.maximum(asked.output - 1.0, 0.0)
    stay = np.full(len(steps), np.inf)
    if "e2el_s" in slo.limits:
        stay = np.minimum(stay, slo.limits["e2el_s"])
    if {"ttft_s", "tpot_s"} <= slo.limits.keys():
        stay = np.minimum(stay, slo.limits["ttft_s"] + steps * slo.limits["tpot_s"])
    if not np.isfinite(stay).all():
        return 1
    # The promise is kept on average: the stretch that suits it best has at least the average share.
    needed = np.inf
    for i in range(int(asked.stream.max()) + 1):
        mine = asked.judged & (asked.stream == i)
        begin = asked.arrival_s[mine].min()
        due = asked.arrival_s[mine] + stay[mine]
        least = 0.0
        for until in np.quantile(due, np.linspace(1.0 / DEADLINES, 1.0, DEADLINES)):
            early = due <= until
            missed = int((1.0 - slo.attainment) * mine.sum())
            for work in (compute[mine][early], memory[mine][early]):
                kept = np.sort(work)[: max(len(work) - missed, 0)]
                least = max(least, float(kept.sum()) / float(until - begin))
        needed = min(needed, least)
    return max(int(np.ceil(needed * (1.0 - 1e-9))), 1)
