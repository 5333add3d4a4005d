"""One step of one batch cut into what its ranks do, layer by layer, in the order of execution.

Ranks differ in their experts alone. Each layer has a row of a drawn batch, which keeps what tells layers
apart: which rank is slowest, and how long the others wait for it. Rows are scaled together so that the
slowest ranks of all layers take what they take in the mean batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from moesim.engine.deployment import Deployment
from moesim.engine.experts import ExpertStep
from moesim.engine.memory import stage_edges
from moesim.engine.routing import DECODE, PREFILL, Array
from moesim.engine.step import StepTimes
from moesim.ops import ExpertWork
from moesim.ops.primitives import ACTIVATION_BYTES

#: What works side by side, in the order in which it is shown.
STREAMS = ("host", "compute", "attention", "experts", "scale-up", "scale-out")
#: Order of what follows the second norm of a layer; projections come third.
_ORDER = {"router": 0, "top_k": 1, "dispatch": 2, "activation": 4, "shared_activation": 4, "down_proj": 5}
_ORDER |= {"shared_down_proj": 5, "experts": 6, "combine": 7, "all_reduce": 8, "weighted_sum": 9}


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Something that the ranks of a pipeline stage do.

    Parameters
    ----------
    stream
        One of `STREAMS`.
    name
        The operation.
    kind
        What bounds it, one of `moesim.engine.step.RESOURCES`, or what it is.
    seconds
        Until the slowest rank is done.
    stage, layer
        Pipeline stage and decoder layer; None around the layers.
    rank_s, rank_pairs
        Seconds and token-expert pairs of each expert-parallel rank, ``[ranks]``, where ranks differ.
    facts
        Sizes, by name with unit.
    start_s
        When it begins.
    """

    stream: str
    name: str
    kind: str
    seconds: float
    stage: int = 0
    layer: int | None = None
    rank_s: Array | None = None
    rank_pairs: Array | None = None
    facts: dict[str, float] = field(default_factory=dict)
    start_s: float = 0.0

    @property
    def end_s(self) -> float:
        """When the slowest rank is done."""
        return self.start_s + self.seconds


#: Pieces that begin together and take equally long.
Together = tuple[Piece, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What makes pieces of a step.

    Parameters
    ----------
    deployment, step
        What was timed, by what.
    rank_s, rank_pairs
        Of every MoE layer and expert-parallel rank, ``[moe_layers, ranks]``; seconds scaled to the mean.
    scale
        By how much, all layers together; 1 for a dense model.
    groups
        Equal MoE layers: what is asked, what times it, what it found.
    """

    deployment: Deployment
    step: StepTimes
    rank_s: Array
    rank_pairs: Array
    scale: float
    groups: tuple[tuple[ExpertWork, ExpertStep, dict[str, Array]], ...]

    @classmethod
    def of(cls, deployment: Deployment, step: StepTimes) -> Cut:
        """Draw a batch as large as that of the step."""
        layers, ranks = len(deployment.model.moe_layer_ids), deployment.layout.ep
        seconds, pairs = np.zeros((layers, ranks)), np.zeros((layers, ranks))
        drawn_s = 0.0
        timed = [experts for _, experts in deployment.expert_steps(phase_of(step))]
        groups = tuple(zip(step.work.experts, timed, step.groups, strict=True))
        for group, experts, found in groups:
            rows, sent = experts.drawn(float(group.tokens[0]))
            # A source of fewer layers stands for all of them in turn.
            turn = np.arange(len(group.layers)) % len(rows)
            slowest = float(rows[turn].max(axis=1).sum())
            drawn_s += slowest
            seconds[list(group.layers)] = rows[turn] * (float(found["experts_s"][0]) / slowest)
            pairs[list(group.layers)] = sent[turn]
        scale = float(seconds.max(axis=1).sum()) / drawn_s if drawn_s else 1.0
        return cls(deployment, step, seconds, pairs, scale, groups)

    def sequence(self) -> Iterator[Together]:
        """Everything in turn, one operation after the other."""
        model, work, traits = self.deployment.model, self.step.work, self.deployment.traits
        edges = stage_edges(model.num_layers, self.deployment.layout.pp)
        last = self.deployment.layout.pp - 1
        kinds = {layer: kind for kind, (layer, _) in enumerate(self.deployment.kinds.layers)}
        around = range(work.ends[-1][0], len(work.table.ops))
        if traits.host_s:
            yield (Piece("host", "host", "host", traits.host_s),)
        yield from self._op(around[0], 0, None)
        for index, layer in enumerate(model.layers):
            stage = int(np.searchsorted(edges, index, side="right")) - 1
            if stage and index == edges[stage]:
                yield from self._message(len(work.table.messages) - 1, stage, None)
            yield from self._layer(kinds[layer], index, stage)
        for row in around[1:]:
            yield from self._op(row, last, None)

    def _layer(self, kind: int, index: int, stage: int) -> Iterator[Together]:
        table, ends = self.step.work.table, ((0, 0), *self.step.work.ends)
        rows = range(ends[kind][0], ends[kind + 1][0])
        names = [table.ops[row][0].name for row in rows]
        sent = [(table.messages[m][0].name, m) for m in range(ends[kind][1], ends[kind + 1][1])]
        reduced = [m for name, m in sent if name == "all_reduce"]
        normed = [m for name, m in sent if name == "qk_norm_reduce"]
        # Behind the attention ranks add up, then come the residual addition and the second norm.
        second = names.index("add") + 2
        for row in rows[: second - 2]:
            yield from self._op(row, stage, index)
            for m in normed if table.ops[row][0].name == "qk_norm" else ():
                yield from self._message(m, stage, index)
        for m in reduced[:1]:
            yield from self._message(m, stage, index)
        for row in rows[second - 2 : second]:
            yield from self._op(row, stage, index)
        rest = [
            (_ORDER.get(table.ops[row][0].name, 3), list(self._op(row, stage, index)))
            for row in rows[second:-1]
        ]
        if index in self.deployment.model.moe_layer_ids:
            rest += [(_ORDER[piece[0].name], [piece]) for piece in self._experts(index, stage)]
        rest += [(_ORDER["all_reduce"], list(self._message(m, stage, index))) for m in reduced[1:]]
        for _, pieces in sorted(rest, key=lambda item: item[0]):
            yield from pieces
        yield from self._op(rows[-1], stage, index)

    def _op(self, row: int, stage: int, layer: int | None) -> Iterator[Together]:
        op, times = self.step.work.table.ops[row][0], self.step.ops
        seconds, floor = float(times.seconds[row, 0]), float(times.floor_s[row, 0])
        if seconds <= 0:
            return
        kind = "compute" if times.compute_s[row, 0] >= times.memory_s[row, 0] else "memory"
        kind = "launch" if floor > seconds / 2 else f"near-{kind}" if np.any(times.near[row]) else kind
        facts = {name: float(np.asarray(getattr(op, name)).reshape(-1)[0]) for name in ("flops", "bytes")}
        yield (Piece("compute", op.name, kind, seconds, stage, layer, facts=facts),)

    def _message(self, number: int, stage: int, layer: int | None) -> Iterator[Together]:
        (message, count), seconds = self.step.work.table.messages[number], self.step.messages_s[number]
        link = "scale-up" if message.span <= self.deployment.hardware.domain else "scale-out"
        facts = {"bytes": float(np.asarray(message.bytes).reshape(-1)[0])}
        if (each := float(seconds[0]) / count) > 0:
            yield (Piece(link, message.name, link, each, stage, layer, facts=facts),)

    def _experts(self, index: int, stage: int) -> Iterator[Together]:
        position = self.deployment.model.moe_layer_ids.index(index)
        slowest = float(self.rank_s[position].max())
        experts = Piece(
            "compute", "experts", "experts", slowest, stage, index,
            self.rank_s[position], self.rank_pairs[position],
        )  # fmt: skip
        yield from self.exchange("dispatch", position, stage)
        yield (experts,)
        yield from self.exchange("combine", position, stage)

    def exchange(self, way: str, position: int, stage: int) -> Iterator[Together]:
        """Dispatch or combine of a MoE layer, on each link that its tokens cross."""
        layout, hardware = self.deployment.layout, self.deployment.hardware
        group, experts, found = next(g for g in self.groups if position in g[0].layers)
        layers = len(group.layers)
        seconds = self.deployment.traits.communication * float(found[f"{way}_s"][0]) / layers
        if seconds <= 0:
            return
        each = experts.dispatch_bytes if way == "dispatch" else group.hidden * ACTIVATION_BYTES
        sent = {
            link: float(found[name][0]) * each / (layers * layout.moe_tp)
            for link, name in (("scale-up", "up_tokens"), ("scale-out", "out_tokens"))
        }
        # What decides is the link that the group of ranks needs; the other one is used as well.
        main = "scale-up" if layout.stage <= hardware.domain else "scale-out"
        links = [main, *(link for link, data in sent.items() if data > 0 and link != main)]
        yield tuple(
            Piece(
                link, way, link, seconds, stage, self.deployment.model.moe_layer_ids[position],
                facts={"bytes": sent[link]} if sent[link] > 0 else {},
            )
            for link in links
        )  # fmt: skip


def phase_of(step: StepTimes) -> int:
    """`PREFILL` if prompts are in it, else `DECODE`."""
    return PREFILL if np.any(step.work.batch.prefill_tokens > 0) else DECODE


def in_turn(sequence: Iterable[Together], start_s: float = 0.0) -> list[Piece]:
    """Give everything its time, one after the other."""
    found: list[Piece] = []
    for together in sequence:
        found += [replace(piece, start_s=start_s) for piece in together]
        start_s += together[0].seconds
    return found
