"""One iteration of training: stages, their pipeline, gradients, optimiser; and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from moesim.cost import peak_flops_per_s
from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.hardware.types import Hardware
from moesim.model import Layer, Model
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.training.block import Block, end_blocks, layer_block
from moesim.training.flops import training_flops
from moesim.training.layout import TrainLayout
from moesim.training.memory import (
    StageParams,
    Stages,
    TrainMemory,
    fullest,
    model_stages,
    stage_params,
    stages_of_ranks,
)
from moesim.training.pipeline import StageTimes, run_schedule
from moesim.training.recipe import Recipe
from moesim.training.schedule import Schedule, dualpipe, interleaved, one_forward_one_backward
from moesim.training.traffic import reduce_seconds, send_seconds
from moesim.training.work import local_params

#: Bytes that Adam moves per parameter: gradient, master copy, both moments read, all but the gradient written
#: in 32 bits, and the 16-bit weight written.
ADAM_BYTES = 4.0 + 3 * 8.0 + 2.0
#: Clipping reads the gradients once.
CLIP_BYTES = 4.0


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of the busiest rank that went into one thing."""

    op: str
    seconds: float
    bound_by: str


@dataclass(frozen=True, slots=True)
class Iteration:
    """One iteration of training.

    Parameters
    ----------
    step_s
        Seconds of an iteration.
    tokens_per_s
        Of the whole job.
    mfu
        Model FLOPs over the 16-bit peak, scores counted as `causal_halved` says.
    flops_per_device
        Model FLOP/s of one device.
    memory
        Of the fullest device.
    capacity_bytes
        Of a device.
    communication_share
        Part of the step that waits for traffic.
    bubble
        Part of the step in which the busiest pipeline rank waits for the others.
    breakdown
        Where the step goes, summing to it.
    devices, micro_batches
        Of the job, and of one data-parallel rank.
    """

    step_s: float
    tokens_per_s: float
    mfu: float
    flops_per_device: float
    memory: TrainMemory
    capacity_bytes: float
    communication_share: float
    bubble: float
    breakdown: tuple[Line, ...] = field(repr=False)
    devices: int = 1
    micro_batches: int = 1

    @property
    def fits(self) -> bool:
        """Whether the fullest device holds what it has to."""
        return self.memory.total <= self.capacity_bytes

    @property
    def bound_by(self) -> str:
        """What most of the step goes into."""
        kinds: dict[str, float] = {}
        for line in self.breakdown:
            kinds[line.bound_by] = kinds.get(line.bound_by, 0.0) + line.seconds
        return max(kinds, key=lambda kind: kinds[kind])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "feasible": self.fits,
            "step_s": self.step_s,
            "tokens_per_s": self.tokens_per_s,
            "mfu": self.mfu,
            "flops_per_s_per_device": self.flops_per_device,
            "devices": self.devices,
            "micro_batches": self.micro_batches,
            "memory_bytes": self.memory.total,
            "memory": self.memory.parts(),
            "memory_capacity_bytes": self.capacity_bytes,
            "communication_share": self.communication_share,
            "bubble": self.bubble,
            "bound_by": self.bound_by,
            "breakdown": [{"op": x.op, "seconds": x.seconds, "bound_by": x.bound_by} for x in self.breakdown],
        }


@dataclass(slots=True)
class Costs:
    """Blocks of a model on a machine, each made once.

    A block depends on less than a layout: two layouts that differ in stages or copies alone share theirs.
    """

    model: Model
    hardware: Hardware
    made: dict[Any, Block] = field(default_factory=dict)
    cut: dict[int, Stages] = field(default_factory=dict)

    def stages(self, number: int) -> Stages:
        """The model cut into so many stages."""
        if number not in self.cut:
            self.cut[number] = Stages.of(self.model, number)
        return self.cut[number]

    def layer(self, layer: Layer, layout: TrainLayout, recipe: Recipe) -> Block:
        """Seconds of a layer."""
        return self._find(("layer", layer), layout, recipe)

    def end(self, which: int, layout: TrainLayout, recipe: Recipe) -> Block:
        """Seconds in front of the first layer (0) or behind the last (1)."""
        return self._find(("end", which), layout, recipe)

    def _find(self, what: tuple[str, Any], layout: TrainLayout, recipe: Recipe) -> Block:
        # Groups tell all that matters of a layout; the batch and its sharding do not matter to a micro-batch.
        groups = tuple(layout.group(name) for name in ("tp", "cp", "ep", "etp"))
        plain = replace(recipe, global_batch=0, zero=0, schedule="1f1b")
        key = (*what, groups, plain)
        if key not in self.made:
            if what[0] == "layer":
                self.made[key] = layer_block(what[1], self.model, layout, recipe, self.hardware)
            else:
                self.made[key] = end_blocks(self.model, layout, recipe, self.hardware)[what[1]]
        return self.made[key]


def schedule_of(layout: TrainLayout, recipe: Recipe) -> Schedule:
    """The order of work that a recipe asks for."""
    count = recipe.micro_batches(layout.dp)
    match recipe.schedule:
        case "interleaved":
            return interleaved(layout.pp, layout.vpp, count)
        case "dualpipe":
            return dualpipe(layout.pp, count)
    return one_forward_one_backward(layout.pp, count)


def iterate(
    model: Model,
    hardware: Hardware,
    layout: TrainLayout,
    recipe: Recipe,
    *,
    causal_halved: bool = False,
    costs: Costs | None = None,
    need_memory: bool = True,
) -> Iteration:
    """Predict one iteration.

    Parameters
    ----------
    causal_halved
        Whether MFU counts only scores that the causal mask keeps.
    costs
        Blocks made before, for many layouts of one model on one machine.
    need_memory
        Whether it is an error if the job does not fit.

    Raises
    ------
    ConfigError
        For a layout or recipe that cannot be.
    InfeasibleError
        If a device's memory does not hold it.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> hardware = load_hardware("h100-sxm-8", nodes=16)
    >>> layout = TrainLayout(tp=2, pp=8, dp=8, ep=8, vpp=7)
    >>> recipe = Recipe(256, 4096, schedule="interleaved", capacity_factor=1.0, padding="capacity")
    >>> done = iterate(load_model("mixtral-8x22b"), hardware, layout, recipe)
    >>> 0.3 < done.mfu < 0.7, done.fits
    (True, True)
    """
    faults = [*layout.faults(model, hardware), *recipe.faults(layout.dp, layout.pp, layout.vpp)]
    if model.encoder_layers:
        faults.append(Fault("is an encoder-decoder model: counted, but not predicted", "--model", model.name))
    if faults:
        raise ConfigError(faults)
    costs = costs or Costs(model, hardware)
    schedule = schedule_of(layout, recipe)
    stages = costs.stages(model_stages(layout, recipe))
    memory = fullest(model, layout, recipe, schedule, stages)
    capacity = hardware.device.memory.capacity_bytes
    if need_memory and memory.total > capacity:
        raise InfeasibleError(
            f"{layout}: {memory.total / 1e9:.1f} GB per device, {capacity / 1e9:.1f} GB are there; "
            f"largest part: {max(memory.parts().items(), key=lambda item: item[1])[0]}",
            resource=f"memory {hardware.device.memory.name}",
            needed=memory.total,
            available=capacity,
            details={"memory": memory.parts()},
        )
    return _timed(model, hardware, layout, recipe, costs, schedule, stages, memory, causal_halved)


def _timed(
    model: Model,
    hardware: Hardware,
    layout: TrainLayout,
    recipe: Recipe,
    costs: Costs,
    schedule: Schedule,
    cut: Stages,
    memory: TrainMemory,
    causal_halved: bool,
) -> Iteration:
    stages = cut.number
    blocks = _stage_blocks(layout, recipe, costs, cut)
    extra = np.full(len(blocks), _gathered_seconds(model, hardware, layout, recipe, costs))
    forward = np.array([sum(b.forward_s * n for b, n in stage) for stage in blocks])
    backward = np.array([sum(b.backward_s * n for b, n in stage) for stage in blocks])
    weight = np.array([sum(b.weight_s * n for b, n in stage) for stage in blocks])
    traffic = np.array([sum(b.traffic_s() * n for b, n in stage) for stage in blocks])
    micro_bytes = recipe.micro_batch * recipe.seq / (layout.cp * layout.tp) * model.hidden * ACTIVATION_BYTES
    hop = send_seconds(micro_bytes, layout.stage, hardware) if layout.pp > 1 else 0.0
    ways = schedule.stages // stages
    times = StageTimes(
        np.tile(forward + extra / 3, ways),
        np.tile(backward + 2 * extra / 3, ways),
        np.tile(weight, ways),
        # Side by side, one pass computes while the other's tokens travel.
        np.tile(np.minimum(traffic, forward), ways),
        hop,
    )
    done, busy = run_schedule(schedule, times)
    ranks = stages_of_ranks(schedule, stages)
    ends, gradients, updates = [], [], []
    for rank, mine in enumerate(ranks):
        own = stage_params(model, layout, cut, mine)
        grads = _gradient_seconds(
            own, layout, recipe, hardware, float(forward[mine].sum()), float(backward[mine].sum())
        )
        update = _update_seconds(own, layout, recipe, hardware)
        gradients.append(grads)
        updates.append(update)
        ends.append(float(done[rank]) + grads + update)
    last = int(np.argmax(ends))
    step = ends[last]
    lines = _lines(blocks, ranks[last], schedule)
    covered = sum(line.seconds for line in lines)
    gathered = float(sum(extra[s] for s in ranks[last])) * recipe.micro_batches(layout.dp)
    saved = covered + gathered - float(busy[last])
    idle = float(done[last] - busy[last])
    lines += [
        Line("parameters gathered", gathered, "link"),
        Line("pipeline bubble", idle, "bubble"),
        Line("gradients", gradients[last], "link"),
        Line("optimiser", updates[last], "memory"),
    ]
    if saved > 1e-9 * step:
        lines.append(Line("side by side", -saved, "link"))
    tokens = recipe.global_batch * recipe.seq
    rate = training_flops(model, recipe.seq, causal_halved=causal_halved) * tokens / step / layout.world
    waited = sum(line.seconds for line in lines if line.bound_by == "link")
    return Iteration(
        step,
        tokens / step,
        rate / peak_flops_per_s(hardware.device.processor, "bf16"),
        rate,
        memory,
        hardware.device.memory.capacity_bytes,
        waited / step,
        idle / step,
        tuple(sorted((x for x in lines if x.seconds), key=lambda x: -x.seconds)),
        layout.world,
        recipe.micro_batches(layout.dp),
    )


Stage = list[tuple[Block, int]]


def _stage_blocks(layout: TrainLayout, recipe: Recipe, costs: Costs, cut: Stages) -> list[Stage]:
    kinds = [costs.layer(layer, layout, recipe) for layer in cut.kinds]
    found = [[(block, int(n)) for block, n in zip(kinds, counts, strict=True) if n] for counts in cut.counts]
    found[0].append((costs.end(0, layout, recipe), 1))
    found[-1].append((costs.end(1, layout, recipe), 1))
    return found


def _gathered_seconds(
    model: Model, hardware: Hardware, layout: TrainLayout, recipe: Recipe, costs: Costs
) -> float:
    """Seconds per micro-batch that sharded parameters and gradients are waited for.

    Parameters are gathered for the forward and for the backward pass, gradients reduced behind the latter,
    one layer ahead of where they are needed (FSDP, arXiv:2304.11277, section 3.3). There is one stage.
    """
    if recipe.zero < 3:
        return 0.0
    waited = 0.0
    for layer, count in model.distinct_layers():
        block = costs.layer(layer, layout, recipe)
        dense, experts = local_params(layer, model.hidden, layout)
        gather = sum(
            reduce_seconds("all_gather", layout.group(group), params * ACTIVATION_BYTES, hardware)
            for group, params in (("dense", dense), ("edp", experts))
        )
        reduce = sum(
            reduce_seconds("reduce_scatter", layout.group(group), params * recipe.reduce_bytes, hardware)
            for group, params in (("dense", dense), ("edp", experts))
        )
        # Behind computation alone: other traffic wants the same links.
        beside = 1.0 if "dp" in recipe.overlap else 0.0
        ahead = max(0.0, gather - beside * block.computed_s(forward=True))
        behind = max(0.0, gather + reduce - beside * block.computed_s(forward=False))
        waited += count * (ahead + behind)
    return waited


def _gradient_seconds(
    own: StageParams,
    layout: TrainLayout,
    recipe: Recipe,
    hardware: Hardware,
    forward_s: float,
    backward_s: float,
) -> float:
    """Seconds that gradients, and parameters on their way back, are waited for behind the pipeline.

    Overlapped, gradients travel behind the last micro-batch's backward pass and updated parameters behind the
    first one's forward pass.
    """
    if recipe.zero == 3:
        return 0.0
    parts = (("dense", own.dense), ("edp", own.experts))

    def total(collective: str, each: float) -> float:
        return sum(reduce_seconds(collective, layout.group(g), n * each, hardware) for g, n in parts)

    hidden = "dp" in recipe.overlap
    if recipe.zero == 0:
        return max(0.0, total("all_reduce", recipe.reduce_bytes) - (backward_s if hidden else 0.0))
    reduce = total("reduce_scatter", recipe.reduce_bytes)
    gather = total("all_gather", ACTIVATION_BYTES)
    return max(0.0, reduce - (backward_s if hidden else 0.0)) + max(
        0.0, gather - (forward_s if hidden else 0.0)
    )


def _update_seconds(own: StageParams, layout: TrainLayout, recipe: Recipe, hardware: Hardware) -> float:
    """Clipping and Adam, at the bandwidth of elementwise operations."""
    split = recipe.zero >= 1
    mine = own.dense / (layout.dp * layout.cp if split else 1) + own.experts / (layout.edp if split else 1)
    device = hardware.device
    efficiency = device.processor.efficiency_of("elementwise", "bf16").memory[-1][1]
    rate = device.processor.bandwidth_bytes_per_s[device.memory.name] * efficiency
    return mine * (ADAM_BYTES + CLIP_BYTES) / rate


def _lines(blocks: list[Stage], mine: list[int], schedule: Schedule) -> list[Line]:
    """Seconds of one rank by part, over all micro-batches."""
    count = schedule.micro_batches
    total: dict[tuple[str, str], float] = {}
    for stage in mine:
        for block, number in blocks[stage]:
            for part in block.parts:
                key = (part.name, part.bound_by)
                total[key] = total.get(key, 0.0) + number * count * (part.forward_s + part.backward_s)
    return [Line(name, seconds, bound) for (name, bound), seconds in total.items()]
