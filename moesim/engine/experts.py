"""Seconds of the routed experts of one step: dispatch, the slowest rank, combine.

Batches are drawn on a grid of batch sizes and interpolated between, so that many configurations share the
draws. The generator is seeded by the size alone: the order of questions does not change the answers, and two
placements are compared on the same batches.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from moesim.cost import (
    HIGH_THROUGHPUT,
    LOW_LATENCY,
    Choice,
    ExpertShape,
    SplitTimes,
    collective_seconds,
    exchange_of,
    exchange_seconds,
    hit_parts,
    hit_parts_limited,
    split_expert_times,
)
from moesim.engine.dispatch import Dispatched, Replicas, Traffic, direct, dispatch, two_level
from moesim.engine.routing import DECODE, TOKEN_BUDGET, Array, Draw, IntArray, LoadSource, RoutingSource
from moesim.hardware.types import Hardware
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.ops.primitives import ACTIVATION_BYTES

#: Layer batches drawn per grid point; fewer where a batch is large and its average is sharp by itself.
SAMPLES = 32
#: Sizes whose batches are kept between layouts of a model; each holds at most `TOKEN_BUDGET` choices.
KEPT = 48
#: Grid points per doubling of the batch.
PER_OCTAVE = 4

#: What `ExpertStep` tables; seconds and bytes are summed over the layers.
FIELDS = (
    "experts_s",
    "balanced_s",
    "compute_s",
    "memory_s",
    "floor_s",
    "dispatch_s",
    "combine_s",
    "mean_flops",
    "mean_bytes",
    "mean_hit_slots",
    "load_imbalance",
    "distinct_fraction",
    "up_tokens",
    "out_tokens",
    "near_share",
    "near_flops",
    "near_bytes",
)


@dataclass(slots=True, eq=False)
class ExpertStep:
    """Routed experts of one group of equal layers, on one layout and placement.

    Parameters
    ----------
    source
        Where batches come from. With one layer, it stands for all of them.
    plan
        Placement of the same number of layers as the source.
    repeat
        Layers that each layer of the source stands for.
    shape
        One expert on one rank.
    layout, hardware
        The ranks and the links between them.
    dispatch_bytes
        Bytes of one token vector on its way to the experts.
    phase
        ``DECODE`` uses the low-latency exchange, ``PREFILL`` the two-level one.
    seed
        Of the draws.
    backend
        Serving engine whose collectives to take, where they were measured.
    groups
        Node-limited routing that the source does not show by itself: groups of experts, and how many of them
        a token may choose from.
    choice
        Which measured kernels apply.
    replicas
        How tokens choose among the replicas of an expert.
    samples
        Layer batches drawn per grid point.
    """

    source: RoutingSource
    plan: ExpertMap
    repeat: float
    shape: ExpertShape
    layout: Parallelism
    hardware: Hardware
    dispatch_bytes: float
    phase: int = DECODE
    seed: int = 0
    backend: str = ""
    groups: tuple[int, int] = (1, 1)
    choice: Choice = field(default_factory=Choice)
    replicas: Replicas = field(default_factory=Replicas)
    samples: int = SAMPLES
    _grid: dict[int, Array] = field(default_factory=dict)

    def at(self, tokens: Array) -> dict[str, Array]:
        """Values of `FIELDS` for batches of `tokens` tokens of the whole deployment, each ``[batches]``."""
        wanted = np.maximum(np.asarray(tokens, dtype=np.float64), 0.0)
        step = np.floor(PER_OCTAVE * np.log2(np.maximum(wanted, 1.0)) + 1e-9).astype(np.int64)
        low, high = _size(step), _size(step + 1)
        # Rounded sizes may coincide or miss the batch by one at the small end of the grid.
        low = np.minimum(low, np.floor(np.maximum(wanted, 1.0)).astype(np.int64))
        high = np.maximum(high, low + 1)
        below = np.array([self._point(int(n)) for n in low])
        # A batch that is a grid point, or smaller than the first, needs no second one.
        between = wanted > low
        above = np.array([self._point(int(n)) for n in np.where(between, high, low)])
        weight = np.clip((wanted - low) / (high - low), 0.0, 1.0)[:, None]
        rows = np.where(wanted[:, None] > 0, below + weight * (above - below), 0.0)
        # Less than one token on average: that fraction of steps has one.
        rows *= np.minimum(wanted, 1.0)[:, None]
        return dict(zip(FIELDS, rows.T, strict=True))

    def _point(self, tokens: int) -> Array:
        known = self._grid.get(tokens)
        if known is None:
            known = self._grid[tokens] = self._replay(tokens)
        return known

    def _replay(self, tokens: int) -> Array:
        """Draw, dispatch and time batches of one size."""
        size = tokens * self.source.layers * self.source.top_k
        draws = max(1, min(self.samples // self.source.layers, TOKEN_BUDGET // size))
        # Loads are small enough to be kept for other layouts; a recording is not.
        source, total = self.source, np.zeros(len(FIELDS))
        if isinstance(source, LoadSource) and not self.plan.redundant:
            # Nor do batches without spares to choose from depend on the machine they are sent around in.
            for draw, sent in _kept_sent(source, tokens, self.phase, self.seed, draws, self.plan):
                total += self._values(draw, sent)
            return total / draws
        batches = (
            _kept_batches(source, tokens, self.phase, self.seed, draws)
            if isinstance(source, LoadSource)
            else _batches(source, tokens, self.phase, self.seed, draws)
        )
        # Replicas are chosen apart from experts: two rules are compared on the same batches.
        rng = np.random.default_rng([self.seed, self.phase, tokens, 1])
        for draw in batches:
            total += self.values_of(draw, rng)
        return total / draws

    def values_of(self, draw: Draw, rng: np.random.Generator) -> Array:
        """Dispatch and time one batch: the values of `FIELDS`, ``[fields]``.

        Parameters
        ----------
        draw
            The batch.
        rng
            Chooses replicas where the rule draws them.
        """
        return self._values(draw, dispatch(draw, self.plan, self.replicas, rng))

    def drawn(self, tokens: float) -> tuple[Array, Array]:
        """One batch of about so many tokens, of those whose mean `at` says: the first one drawn.

        Returns
        -------
        tuple of numpy.ndarray
            Seconds, and token-expert pairs, of every rank in every layer of the source, ``[layers, ranks]``.
        """
        size = max(1, round(tokens))
        (draw,) = _batches(self.source, size, self.phase, self.seed, 1)
        sent = dispatch(
            draw, self.plan, self.replicas, np.random.default_rng([self.seed, self.phase, size, 1])
        )
        return self._times(draw, sent).seconds, sent.slot_tokens.sum(axis=2)

    def _times(self, draw: Draw, sent: Dispatched) -> SplitTimes:
        return split_expert_times(
            sent.slot_tokens,
            self.shape,
            self.hardware.device,
            self.choice,
            shared=self.layout.ep > 1,
            # Without data parallelism every rank holds every token.
            held_pairs=float(draw.tokens * self.source.top_k) if self.layout.dp == 1 else None,
        )

    def _values(self, draw: Draw, sent: Dispatched) -> Array:
        times = self._times(draw, sent)
        slowest = times.seconds.argmax(axis=1)[:, None]
        worst = [
            np.take_along_axis(a, slowest, axis=1).sum()
            for a in (times.compute_s, times.memory_s, times.floor_s)
        ]
        hit = (sent.slot_tokens > 0).sum(axis=2)
        pairs = sent.slot_tokens.sum(axis=2)
        there, back, up, out = self._exchange(sent)
        data = hit * self.shape.weight_bytes + pairs * self.shape.bytes_per_pair
        layers = len(pairs)
        return self.repeat * np.array(
            [
                times.seconds.max(axis=1).sum(),
                times.seconds.mean(axis=1).sum(),
                *worst,
                there,
                back,
                pairs.mean(axis=1).sum() * self.shape.flops_per_pair,
                data.mean(axis=1).sum(),
                hit.mean(axis=1).sum(),
                (pairs.max(axis=1) / pairs.mean(axis=1)).sum() / (layers * self.repeat),
                (draw.counts > 0).mean() / self.repeat,
                up,
                out,
                np.take_along_axis(times.near, slowest, axis=1).mean() / self.repeat,
                *self._near_work(sent, hit, times.near_experts),
            ]
        )

    def _near_work(self, sent: Dispatched, hit: IntArray, near_experts: IntArray) -> tuple[float, float]:
        """FLOPs and bytes of the mean rank's experts beside the memory, those with the fewest tokens."""
        if not near_experts.any():
            return 0.0, 0.0
        rising = np.sort(sent.slot_tokens, axis=2)
        first = (rising.shape[2] - hit)[:, :, None]
        place = np.arange(rising.shape[2])
        pairs = np.where((place >= first) & (place < first + near_experts[:, :, None]), rising, 0.0).sum(
            axis=2
        )
        data = near_experts * self.shape.weight_bytes + pairs * self.shape.bytes_per_pair
        return pairs.mean(axis=1).sum() * self.shape.flops_per_pair, data.mean(axis=1).sum()

    def _exchange(self, sent: Dispatched) -> tuple[float, float, float, float]:
        """Seconds of dispatch and of combine, and token vectors the mean rank sends over either link."""
        layout, hidden, layers = self.layout, self.shape.hidden, len(sent.slot_tokens)
        back_bytes = hidden * ACTIVATION_BYTES
        if layout.dp == 1:
            # Every rank has every token: nothing to dispatch, partial sums are reduced.
            data = np.array(sent.tokens * back_bytes)
            combine = collective_seconds(
                "all_reduce", layout.stage, layout.stage, data, self.hardware, self.backend
            )
            return 0.0, layers * float(combine), 0.0, 0.0
        gathered = np.array(sent.tokens * self.dispatch_bytes)
        reduced = np.array(sent.tokens * back_bytes)
        if layout.ep == 1 or self.gathers:
            there = collective_seconds("all_gather", layout.stage, layout.stage, gathered, self.hardware)
            back = collective_seconds("reduce_scatter", layout.stage, layout.stage, reduced, self.hardware)
            return layers * float(there), layers * float(back), 0.0, 0.0
        traffic = self._traffic(sent)
        domain = max(1, self.hardware.domain // layout.moe_tp)
        each = 1.0 / layout.moe_tp
        seconds = [
            exchange_seconds(
                traffic.up * width * each,
                traffic.out * width * each,
                self.hardware,
                mode=self._mode,
                way=way,
                tokens=sent.tokens / layout.ep,
                domain=domain,
                backend=self.backend,
            ).sum()
            for way, width in (("dispatch", self.dispatch_bytes), ("combine", back_bytes))
        ]
        shards, tp = layout.moe_tp, layout.tp
        part = 1.0 / layout.ep
        there = seconds[0] + layers * float(
            collective_seconds("all_gather", shards, shards, gathered * part, self.hardware)
        )
        back = (
            seconds[1]
            + layers
            * float(collective_seconds("reduce_scatter", shards, shards, reduced * part, self.hardware))
            + layers * float(collective_seconds("all_gather", tp, tp, reduced / layout.dp, self.hardware))
        )
        off = 1.0 - np.eye(self.plan.ranks)
        return there, back, (traffic.up * off).sum() / self.plan.ranks, traffic.out.sum() / self.plan.ranks

    @property
    def gathers(self) -> bool:
        """Whether every rank gets all tokens and partial sums come back.

        vLLM's ``allgather_reducescatter`` does so, its default where no library of exchanges is installed.
        """
        return self.backend == "vllm" and exchange_of(self.hardware, self._mode, self.backend) is None

    def _traffic(self, sent: Dispatched) -> Traffic:
        domain = max(1, self.hardware.domain // self.layout.moe_tp)
        inside = domain >= self.plan.ranks
        found = exchange_of(self.hardware, self._mode, self.backend)
        once = inside and found is not None and found.once
        if not once and (self.phase == DECODE or not (inside or self.plan.ranks % domain == 0)):
            return direct(sent, domain)
        return self._limited(_kept_traffic(sent, self.plan, domain), domain)

    def _limited(self, traffic: Traffic, domain: int) -> Traffic:
        """Fewer ranks and domains per token, as node-limited routing has it where load is even."""
        if self.groups[0] <= 1:
            return traffic
        parts = (self.plan.ranks, max(1, self.plan.ranks // domain))
        rank, node = (
            hit_parts_limited(n, self.source.num_experts, self.source.top_k, *self.groups)
            / hit_parts(n, self.source.num_experts, self.source.top_k)
            for n in parts
        )
        return Traffic(traffic.up * rank, traffic.out * node)

    @property
    def _mode(self) -> str:
        return LOW_LATENCY if self.phase == DECODE else HIGH_THROUGHPUT


def _batches(source: RoutingSource, tokens: int, phase: int, seed: int, draws: int) -> tuple[Draw, ...]:
    """Batches of one size, the same whatever was asked before."""
    rng = np.random.default_rng([seed, phase, tokens])
    return tuple(source.draw(tokens, phase, rng) for _ in range(draws))


@functools.lru_cache(maxsize=KEPT)
def _kept_batches(source: LoadSource, tokens: int, phase: int, seed: int, draws: int) -> tuple[Draw, ...]:
    return _batches(source, tokens, phase, seed, draws)


@functools.lru_cache(maxsize=KEPT)
def _kept_sent(
    source: LoadSource, tokens: int, phase: int, seed: int, draws: int, plan: ExpertMap
) -> tuple[tuple[Draw, Dispatched], ...]:
    return tuple((draw, dispatch(draw, plan)) for draw in _kept_batches(source, tokens, phase, seed, draws))


@functools.lru_cache(maxsize=2 * KEPT)
def _kept_traffic(sent: Dispatched, plan: ExpertMap, domain: int) -> Traffic:
    return two_level(sent, plan, domain)


def _size(step: IntArray) -> IntArray:
    return np.asarray(np.round(2.0 ** (step / PER_OCTAVE)).astype(np.int64))
