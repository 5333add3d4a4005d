"""Seconds of one layer for one micro-batch: computation, traffic, and the traffic that is waited for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from moesim.cost import Choice, Rates, op_times
from moesim.hardware.types import Hardware
from moesim.model import Layer, Model, MoE
from moesim.ops import Op, OpTable
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.overlap import LayerSeconds, layer_seconds
from moesim.training.experts import expert_rows
from moesim.training.layout import TrainLayout
from moesim.training.recipe import Recipe
from moesim.training.traffic import exchange_seconds, reduce_seconds, two_level_seconds
from moesim.training.work import Pass, casts, context_bytes, end_passes, layer_passes


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the breakdown, for one layer and micro-batch.

    Parameters
    ----------
    kind
        ``gemm expert attention elementwise``, or ``tp cp ep`` for traffic.
    forward_s, backward_s
        Seconds, for traffic those waited for.
    weight_s
        The part of the backward pass that makes weight gradients.
    moved_s
        Traffic's seconds forward and backward, waited for or not.
    bound_by
        ``compute``, ``memory``, ``launch`` or ``link``.
    """

    name: str
    kind: str
    forward_s: float
    backward_s: float
    weight_s: float = 0.0
    moved_s: float = 0.0
    bound_by: str = "link"


@dataclass(frozen=True, slots=True)
class Block:
    """Parts of one layer, or of one end of the model."""

    parts: tuple[Part, ...] = field(repr=False)

    @property
    def forward_s(self) -> float:
        """Forward pass of a micro-batch."""
        return sum(p.forward_s for p in self.parts)

    @property
    def backward_s(self) -> float:
        """Backward pass of a micro-batch, recomputation included."""
        return sum(p.backward_s for p in self.parts)

    @property
    def weight_s(self) -> float:
        """The part of the backward pass that makes weight gradients."""
        return sum(p.weight_s for p in self.parts)

    def computed_s(self, *, forward: bool) -> float:
        """Computation of one pass."""
        own = (p for p in self.parts if p.bound_by != "link")
        return sum(p.forward_s if forward else p.backward_s for p in own)

    def traffic_s(self) -> float:
        """Traffic waited for in both passes."""
        return sum(p.forward_s + p.backward_s for p in self.parts if p.bound_by == "link")


def layer_block(layer: Layer, model: Model, layout: TrainLayout, recipe: Recipe, hardware: Hardware) -> Block:
    """Seconds of one layer."""
    passes = list(layer_passes(layer, model.hidden, layout, recipe))
    passes += list(casts(recipe, passes))
    computed = _computed(passes, recipe, hardware)
    return Block((*computed, *_traffic(layer, model.hidden, layout, recipe, hardware, computed)))


def end_blocks(model: Model, layout: TrainLayout, recipe: Recipe, hardware: Hardware) -> tuple[Block, Block]:
    """Seconds in front of the first layer, and behind the last one."""
    first, last = end_passes(model, layout, recipe)
    both = [Block(tuple(_computed(part, recipe, hardware))) for part in (first, last)]
    if layout.tp > 1:
        # Embedding and head each meet the split sequence once per pass, as a block does.
        data = recipe.micro_batch * recipe.seq / layout.cp * model.hidden * ACTIVATION_BYTES
        group = layout.group("tp")
        once = reduce_seconds("all_gather", group, data, hardware)
        both = [Block((*b.parts, Part("tp", "tp", once, once, moved_s=2 * once))) for b in both]
    return both[0], both[1]


def _computed(passes: Iterable[Pass], recipe: Recipe, hardware: Hardware) -> list[Part]:
    rows: list[Op] = []
    for p in passes:
        rows += [p.forward, *p.backward]
    table = OpTable(tuple((op, 1) for op in rows), (), 1)
    device = hardware.device
    times = op_times(table, device, Rates.of(table, device, Choice()))
    seconds = times.seconds[:, 0].tolist()
    compute, memory, floor = (a[:, 0].tolist() for a in (times.compute_s, times.memory_s, times.floor_s))
    parts: dict[str, Part] = {}
    at = 0
    for p in passes:
        ahead = p.count * seconds[at]
        behind = [p.count * s for s in seconds[at + 1 : at + 1 + len(p.backward)]]
        back = sum(behind) if behind else ahead * p.scale
        weight = behind[1] if len(behind) == 2 else (ahead if p.kind in ("gemm", "expert") else 0.0)
        if recipe.recompute == "full" or (recipe.recompute == "selective" and p.again):
            back += ahead
        most = max((compute[at], "compute"), (memory[at], "memory"), (floor[at], "launch"))[1]
        old = parts.get(p.name, Part(p.name, p.kind, 0.0, 0.0, bound_by=most))
        parts[p.name] = Part(
            p.name,
            p.kind,
            old.forward_s + ahead,
            old.backward_s + back,
            old.weight_s + weight,
            bound_by=old.bound_by,
        )
        at += 1 + len(p.backward)
    return list(parts.values())


def _traffic(
    layer: Layer,
    hidden: int,
    layout: TrainLayout,
    recipe: Recipe,
    hardware: Hardware,
    computed: list[Part],
) -> list[Part]:
    """Traffic of one layer: tensor-parallel, context-parallel, expert-parallel."""
    attention = [p for p in computed if p.kind in ("gemm", "attention")]
    feed = [p for p in computed if p.kind == "expert"]
    found = []
    tokens = recipe.micro_batch * recipe.seq / layout.cp
    vector = tokens * hidden * ACTIVATION_BYTES
    if layout.tp > 1:
        group = layout.group("tp")
        pair = sum(reduce_seconds(c, group, vector, hardware) for c in ("all_gather", "reduce_scatter"))
        # In front of and behind attention, and a dense or shared feed-forward block.
        blocks = 1 + (not isinstance(layer.ffn, MoE) or layer.ffn.shared_intermediate > 0)
        found.append(_waited("tp", pair * blocks, recipe, attention))
    if layout.cp > 1:
        found.append(_context(layer, layout, recipe, hardware, computed))
    if isinstance(layer.ffn, MoE):
        ways = _expert_ways(layer.ffn, tokens / layout.tp, hidden, layout, recipe, hardware)
        if sum(ways.values()):
            apart = layout.group("ep").span > hardware.domain
            found.append(_scheduled(ways, recipe, feed, apart))
    return found


def _expert_ways(
    moe: MoE, tokens: float, hidden: int, layout: TrainLayout, recipe: Recipe, hardware: Hardware
) -> dict[str, float]:
    """Seconds of each way that `tokens` tokens of a rank take to experts and back, as templates name them."""
    rows = expert_rows(tokens, moe.num_experts, moe.top_k, layout.ep, layout.expert_tp, recipe)
    pairs = rows.sent * hidden * (layout.tp if recipe.duplicated else 1)
    group = layout.group("etp")
    shared = pairs * ACTIVATION_BYTES * layout.expert_tp
    ways = {
        name: _dispatch(moe, tokens * hidden * size, pairs * size, layout, recipe, hardware)
        for name, size in (("dispatch", recipe.dispatch_bytes), ("combine", ACTIVATION_BYTES))
    }
    ways["gather"] = reduce_seconds("all_gather", group, shared, hardware)
    ways["scatter"] = reduce_seconds("reduce_scatter", group, shared, hardware)
    return {name: seconds * recipe.imbalance for name, seconds in ways.items()}


def _dispatch(
    moe: MoE, own: float, sent: float, layout: TrainLayout, recipe: Recipe, hardware: Hardware
) -> float:
    """Seconds of one way between tokens and experts, from bytes of a rank's tokens and of its pairs."""
    group = layout.group("ep")
    if recipe.dispatch == "two-level":
        limit = moe.top_groups if moe.groups > 1 else None
        return two_level_seconds(group, own, moe.num_experts, moe.top_k, limit, hardware)
    exchanged = exchange_seconds(group, sent, hardware)
    if recipe.dispatch == "exchange" or group.ranks == 1:
        return exchanged
    # Gathered, a token travels once to each rank, whatever its experts (arXiv:2505.11432, section 3.2). Back,
    # sums are scattered, which takes as long.
    gathered = reduce_seconds("all_gather", group, own * group.ranks, hardware)
    return gathered if recipe.dispatch == "gather" else min(exchanged, gathered)


def _scheduled(ways: dict[str, float], recipe: Recipe, experts: list[Part], apart: bool) -> Part:
    """Traffic of a MoE layer under the recipe's schedule: what is not hidden behind the experts.

    Parameters
    ----------
    apart
        Whether the all-to-all leaves the node, so that it and what stays inside take different links.
    """
    moved = sum(ways.values())
    if recipe.layer_schedule == "none":
        return _waited("ep", moved, recipe, experts)
    work = [sum(p.forward_s for p in experts), sum(p.backward_s for p in experts)]
    schedule = recipe.layer_schedule if apart else "tutel"
    whole = layer_seconds(LayerSeconds(experts=np.array(work), **ways), schedule).seconds
    again = moved if recipe.recompute == "full" and not recipe.stash else 0.0
    waits = whole - work
    return Part("ep", "ep", float(waits[0]), float(waits[1]) + again, moved_s=2 * moved + again)


def _waited(kind: str, moved_s: float, recipe: Recipe, beside: list[Part]) -> Part:
    """Traffic of one pass as a part: all of it is waited for, or what its neighbours cannot hide."""
    ahead = behind = moved_s
    if recipe.recompute == "full" and not recipe.stash:
        behind += moved_s
    waits = [ahead, behind]
    if kind in recipe.overlap:
        for i, (moved, work) in enumerate(
            ((ahead, sum(p.forward_s for p in beside)), (behind, sum(p.backward_s for p in beside)))
        ):
            # Cut into tiles: the first piece of the shorter of the two is not hidden.
            waits[i] = max(moved, work) + min(moved, work) / recipe.tiles - work
    return Part(kind, kind, waits[0], waits[1], moved_s=ahead + behind)


def _context(
    layer: Layer, layout: TrainLayout, recipe: Recipe, hardware: Hardware, computed: list[Part]
) -> Part:
    queries, keys = context_bytes(layer, layout, recipe)
    group = layout.group("cp")
    if recipe.context == "ulysses":
        moved = exchange_seconds(group, queries + keys, hardware)
        attention = [p for p in computed if p.kind in ("gemm", "attention")]
        return _waited("cp", moved, recipe, attention)
    inside = group.span <= hardware.domain
    link = hardware.scale_up if inside or hardware.scale_out is None else hardware.scale_out
    step = link.latency_s + keys / (link.bandwidth_bytes_per_s * link.efficiency)
    steps = group.ranks - 1
    attention = [p for p in computed if p.kind == "attention"]
    ahead, behind = (sum(getattr(p, name) for p in attention) for name in ("forward_s", "backward_s"))
    # Each piece of keys travels while the one before is worked on; going back, their gradients come along.
    waits = [
        steps * max(0.0, times * step - work / group.ranks) for times, work in ((1.0, ahead), (2.0, behind))
    ]
    return Part("cp", "cp", waits[0], waits[1], moved_s=3.0 * steps * step)
