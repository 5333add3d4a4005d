"""Seconds of one decode step, and of one pass over prompts, under many policies at once.

Each layer (Figure 6 of arXiv 2503.09716): dense weights over the link; query, key and value projections on
the GPU; attention split between the CPU, which reads the cache where it is, and the GPU, to which the cache
is copied piece by piece; the output projection when both are done; then experts one after another, each
behind the copy of its weights. Copies run ahead as far as buffers allow: the dense buffer holds one layer,
the cache buffer two pieces, the expert buffer as many experts as the policy reserves. While one buffer is
full the link serves the other (the engine's copying thread looks at its queues in turn), so cache and weights
are two lanes; no work may start before the link could have moved all that was asked of it up to there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.throughput.gen_box import StreamBox
from moesim.throughput.gen_dag import Array, Dag, Predecessor
from moesim.throughput.gen_work import LayerWork, ModelWork

#: Pieces in which the GPU's share of the cache is copied and worked on, and groups of experts in a layer.
PIECES, GROUPS = 4, 8


@dataclass(frozen=True, slots=True, eq=False)
class Policies:
    """Policies side by side, arrays ``[policies]``.

    Parameters
    ----------
    batch
        Sequences of a step, the same for all.
    attention_batch, expert_batch
        Sequences of a piece of attention on the GPU, and tokens of an expert multiplied at once.
    cpu_share
        Of the sequences, whose attention the CPU computes.
    expert_slots
        Experts that the GPU's prefetch buffer holds.
    resident_share
        Of the streamed weights that stay on the GPU.
    """

    batch: int
    attention_batch: Array
    expert_batch: Array
    cpu_share: Array
    expert_slots: Array
    resident_share: Array

    @property
    def count(self) -> int:
        """Policies."""
        return len(self.cpu_share)


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """Seconds of a step and of each resource in it, ``[policies]``."""

    seconds: Array
    busy: dict[str, Array]


def met(shares: Array, top_k: int, tokens: float) -> Array:
    """Probability that each expert is met by at least one of `tokens` tokens, ``[experts]``.

    Parameters
    ----------
    shares
        Of token-expert pairs, ``[experts]``, adding up to one.
    top_k, tokens
        Experts of a token, and tokens, which choose independently.

    Examples
    --------
    >>> met(np.full(8, 1 / 8), 2, 2).sum().round(2)
    np.float64(3.5)
    """
    return np.asarray(1.0 - (1.0 - np.minimum(top_k * shares, 1.0)) ** tokens)


def layer_shares(work: ModelWork, shares: Array | None) -> list[Array]:
    """Shares of each layer's experts, empty for a dense layer; even where none are given.

    Parameters
    ----------
    work
        The model.
    shares
        ``[layers with experts, experts]``, rows adding up to one.
    """
    rows = iter(range(len(work.layers)))
    return [
        np.empty(0)
        if not layer.experts
        else np.full(layer.experts, 1.0 / layer.experts)
        if shares is None
        else shares[next(rows)]
        for layer in work.layers
    ]


def decode_step(
    work: ModelWork,
    box: StreamBox,
    policies: Policies,
    context: float,
    copied: float,
    shares: Array | None = None,
) -> StepTimes:
    """One token for every sequence of the batch.

    Parameters
    ----------
    work, box, policies
        What, on what, and how.
    context
        Cached tokens that attention reads, per sequence.
    copied
        Cached tokens that cross the link for a sequence whose attention is on the GPU.
    shares
        Of the tokens that go to each expert, ``[layers with experts, experts]``; even if not given.
    """
    loads = layer_shares(work, shares)
    pairs = zip(work.layers, loads, strict=True)
    hit = [float(met(load, layer.top_k, policies.batch).mean()) for layer, load in pairs if layer.experts]
    found = []
    # All in order ahead of the router or, where some stay unused, those that are used behind it.
    for on_demand in (False, True) if min(hit) < 0.999 else (False,):
        dag = Dag(policies.count, capacity=len(work.layers) * (3 * PIECES + 3 * GROUPS + 8))
        state = _State(dag, policies, on_demand)
        for layer, load in zip(work.layers, loads, strict=True):
            _decode_layer(state, layer, work, box, context, copied, load)
        found.append(StepTimes(dag.makespan(), dag.busy))
    return found[0] if len(found) == 1 else _faster(*found)


def _faster(one: StepTimes, two: StepTimes) -> StepTimes:
    """The faster of two ways, policy by policy."""
    first = one.seconds <= two.seconds
    busy = {name: np.where(first, one.busy[name], two.busy[name]) for name in one.busy}
    return StepTimes(np.where(first, one.seconds, two.seconds), busy)


class _State:
    """What the next layer waits for, while a graph grows."""

    def __init__(self, dag: Dag, policies: Policies, on_demand: bool = False) -> None:
        self.dag = dag
        self.on_demand = on_demand
        self.policies = policies
        self.free = 1.0 - policies.resident_share
        self.dense_done = -1
        self.pieces: list[int] = []
        self.groups: list[int] = []

    def copy(self, lane: str, seconds: Array, after: list[Predecessor]) -> list[Predecessor]:
        """A copy on one lane of the link: what its user waits for."""
        return [self.dag.add(lane, seconds, after), self.dag.add("link", seconds)]

    def load_dense(self, layer: LayerWork, box: StreamBox) -> list[Predecessor]:
        return self.copy("weights", layer.dense_bytes * self.free / box.link_bytes_per_s, [self.dense_done])

    def experts(
        self,
        layer: LayerWork,
        box: StreamBox,
        tokens: float,
        ready: int,
        shares: Array,
    ) -> None:
        """Experts of a layer, in groups: copies ahead of products, products one after another.

        All are copied in order, or on demand those that are used.
        """
        if not layer.experts:
            return
        hit = met(shares, layer.top_k, tokens)
        groups = min(GROUPS, layer.experts)
        size = layer.experts / groups
        slots = np.maximum((self.policies.expert_slots / size).astype(np.int64), 1)
        # Which experts are used is known only behind the router.
        on_demand = [ready] if self.on_demand else []
        for part in np.array_split(np.arange(layer.experts), groups):
            before = len(self.groups) - slots
            done = np.array(self.groups, dtype=np.int64)
            behind = np.where(before >= 0, done[np.maximum(before, 0)], -1) if len(done) else -1
            count = float(hit[part].sum()) if self.on_demand else len(part)
            data = count * layer.expert_bytes
            load = self.copy("weights", data * self.free / box.link_bytes_per_s, [behind, *on_demand])
            seconds = np.zeros(self.policies.count)
            for share, equal in zip(*np.unique(shares[part], return_counts=True), strict=True):
                seconds += equal * self._expert(layer, box, tokens, float(share))
            seconds = np.maximum(seconds, box.weights_s(data)) + self._expand(layer, box, data)
            self.groups.append(self.dag.add("gpu", seconds, [*load, ready]))

    def _expert(self, layer: LayerWork, box: StreamBox, tokens: float, share: float) -> Array:
        """Products of one expert, as often as one is met."""
        often = float(met(np.array([share]), layer.top_k, tokens)[0])
        if often == 0.0:
            return np.zeros(self.policies.count)
        pairs = tokens * layer.top_k * share / often
        launches = 3.0 * np.ceil(pairs / self.policies.expert_batch)
        return often * box.gemm_s(pairs * layer.expert_flops, pairs * layer.pair_bytes, launches)

    def _expand(self, layer: LayerWork, box: StreamBox, data: float) -> float:
        share = data / layer.weight_bytes
        return layer.expand_bytes * share / (box.gpu_bytes_per_s * box.passes.memory[0][1])


def _decode_layer(
    state: _State,
    layer: LayerWork,
    work: ModelWork,
    box: StreamBox,
    context: float,
    copied: float,
    shares: Array,
) -> None:
    dag, policies, batch = state.dag, state.policies, float(state.policies.batch)
    dense = state.load_dense(layer, box)
    on_gpu = (1.0 - policies.cpu_share) * batch
    batches = np.ceil(on_gpu / policies.attention_batch)
    qkv = dag.add("gpu", box.gemm_s(batch * layer.qkv_flops, batch * layer.qkv_bytes, 3.0), dense)
    rows = on_gpu * context / PIECES
    copy_s = on_gpu * copied * layer.cache_bytes / PIECES / box.link_bytes_per_s
    work_s = box.gemm_s(rows * layer.context_flops, rows * layer.context_bytes, 2.0 * batches / PIECES)
    work_s = np.where(on_gpu > 0, work_s, 0.0)
    cached = policies.cpu_share * batch * context * layer.cache_bytes
    cpu_s = cached / box.cpu_attention_bytes_per_s(work.group)
    on_cpu = dag.add("cpu", cpu_s, [qkv])
    parts: list[Predecessor] = [on_cpu]
    for _ in range(PIECES):
        behind = state.pieces[-2] if len(state.pieces) > 1 else -1
        copy = state.copy("cache", copy_s, [behind])
        parts.append(dag.add("gpu", work_s, [*copy, qkv]))
        state.pieces.append(dag.count - 1)
    post = dag.add("gpu", box.gemm_s(batch * layer.post_flops, batch * layer.post_bytes), parts)
    shared = dag.add("gpu", box.gemm_s(batch * layer.shared_flops, batch * layer.shared_bytes, 3.0), [post])
    state.dense_done = shared
    dag.add("back", batch * layer.cache_bytes / box.link_bytes_per_s, [qkv])
    state.experts(layer, box, batch, shared, shares)


def prefill_pass(
    work: ModelWork,
    box: StreamBox,
    policies: Policies,
    prompt: int,
    shares: Array | None = None,
) -> StepTimes:
    """All prompts of a batch once through the model; their cache goes to the host as it is made.

    Parameters are those of `decode_step`; attention is on the GPU whatever `cpu_share` says.
    """
    dag = Dag(policies.count, capacity=len(work.layers) * (2 * PIECES + 2 * GROUPS + 6))
    state = _State(dag, policies)
    batch, tokens = float(policies.batch), float(policies.batch * prompt)
    batches = np.ceil(batch / policies.attention_batch)
    for layer, load in zip(work.layers, layer_shares(work, shares), strict=True):
        dense = state.load_dense(layer, box)
        flops = layer.qkv_flops + layer.post_flops + layer.prompt_flops
        data = layer.qkv_bytes + layer.post_bytes + layer.prompt_bytes + prompt * layer.prefill_bytes
        seconds = box.gemm_s(tokens * flops, tokens * data, 5.0 * batches)
        # Fused attention skips the keys behind a query.
        keys = prompt / 2.0 if layer.flash else float(prompt)
        scores = tokens * keys * layer.prefill_flops
        seconds = seconds + (box.flash_s(scores) if layer.flash else box.gemm_s(scores, 0.0, 2.0 * batches))
        parts: list[Predecessor] = []
        for _ in range(PIECES):
            parts.append(dag.add("gpu", seconds / PIECES, dense))
            dag.add("back", tokens * layer.cache_bytes / PIECES / box.link_bytes_per_s, [parts[-1]])
        work_s = box.gemm_s(tokens * layer.shared_flops, tokens * layer.shared_bytes, 3.0)
        shared = dag.add("gpu", work_s, parts)
        state.dense_done = shared
        state.experts(layer, box, tokens, shared, load)
    return StepTimes(dag.makespan(), dag.busy)
