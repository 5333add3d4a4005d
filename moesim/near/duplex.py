"""Duplex (arXiv:2409.01141): accelerators whose memory computes too, stage by stage as its authors do.

A stage decodes a token of every request, and takes in the prompts of those that just joined (continuous
batching). Both processors are bare rooflines, as in the paper; what the memory delivers to the one beside it
follows from its timing (`moesim.near.dram`).

* ``gpu``: everything on the main processor, whole experts on the devices.
* ``duplex``: decode attention beside the memory, and one expert after the other where it takes less time: the
  simulator gives every operation to the processor that ends it first (LLMSimulator_HBF@5f0dcc0
  src/hardware/executor.cpp).
* ``cut``: the same, with every expert cut over all devices of a node.
* ``coprocess``: prefill and decode attention side by side, and the experts with the fewest tokens beside the
  memory: the prefix of them that ends first.
* ``tensor``: that, with cut experts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape, Rates, op_times
from moesim.engine.routing import DECODE, RoutingSource
from moesim.hardware.curves import Efficiency
from moesim.hardware.types import Device, Hardware, Link
from moesim.layout import Parallelism
from moesim.model.types import Model, MoE
from moesim.near.dram import HBM3, refresh_efficiency
from moesim.near.experts import expert_seconds, prefix_split
from moesim.ops import Batch, Precision, step_work

Array = npt.NDArray[np.float64]
MODES = ("gpu", "duplex", "cut", "coprocess", "tensor")
#: Devices of a node, and the network behind: 400 GB/s InfiniBand for eight devices (section VI), latency of a
#: ConnectX-7 as in the simulator's code (LLMSimulator_HBF@5f0dcc0 src/hardware/hardware_config.h).
NODE = 8
NETWORK = Link("infiniband", 50e9, 0.13e-6, 1.0, NODE, "fat_tree")
#: Stacks of memory per device, each of which holds partial sums of the experts (section V-A).
STACKS = 5
_BYTES = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class System:
    """A model on devices.

    Parameters
    ----------
    model
        What is served, in 16 bits.
    hardware
        Of the devices and their links; its second processor is the one beside the memory.
    devices
        As many, in nodes of at most `NODE`.
    mode
        One of `MODES`.
    """

    model: Model
    hardware: Hardware
    devices: int
    mode: str

    @property
    def nodes(self) -> int:
        """Data parallel outside experts; experts are spread over them."""
        return -(-self.devices // NODE)

    @property
    def per_node(self) -> int:
        """Tensor parallel outside experts."""
        return self.devices // self.nodes

    @property
    def device(self) -> Device:
        """Bare: no efficiency or launch cost of the main processor."""
        return bare(self.hardware.device)


def bare(device: Device) -> Device:
    """The same device, its main processor at its peaks: all that its memory loses is refresh."""
    ideal = Efficiency(memory=((1.0, refresh_efficiency(HBM3)),))
    main = replace(device.processor, efficiency={"default": ideal}, kernels={})
    return replace(device, processors=(main, *device.processors[1:]))


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """What several stages cost; arrays are ``[stages]``.

    Parameters
    ----------
    seconds
        Of a stage.
    attention_s, experts_s, links_s
        Of these, attention, routed experts, and messages between devices; the rest is dense layers.
    main_bytes, near_bytes
        Read and written by either processor, all devices together.
    flops
        On both processors, all devices together.
    link_bytes
        Sent by all devices together.
    """

    seconds: Array
    attention_s: Array
    experts_s: Array
    links_s: Array
    main_bytes: Array
    near_bytes: Array
    flops: Array
    link_bytes: Array


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """Routed experts of one layer, batch by batch; arrays are ``[batches]``.

    Parameters
    ----------
    seconds
        Until the slowest device is done.
    near_share
        Of the experts that are hit, those beside the memory.
    main_bytes, near_bytes, flops
        Of all devices together.
    """

    seconds: Array
    near_share: Array
    main_bytes: Array
    near_bytes: Array
    flops: Array


def expert_layer(tokens: Array, system: System) -> Experts:
    """Time the routed experts of one layer.

    Parameters
    ----------
    tokens
        Of each expert, ``[batches, experts]``.
    system
        Where they run.
    """
    model, device = system.model, system.device
    moe = moe_of(model)
    memory = device.memory.name
    main = device.processor
    count = tokens.shape[1]
    if system.mode in ("cut", "tensor"):
        groups, share = system.nodes, 1.0 / system.per_node
    else:
        groups = min(system.devices, count)
        share = groups / system.devices
    shape = ExpertShape(model.hidden, moe.intermediate * share, moe.matrices, "bf16")
    # Devices that share an expert's width do the same at the same time: one stands for them all.
    parts = np.stack(np.split(tokens, groups, axis=1), axis=1)
    slow = expert_seconds(parts, shape, main, memory)
    hit = (parts > 0).sum(axis=-1)
    near_hit, near_tokens = np.zeros(hit.shape), np.zeros(hit.shape)
    seconds = slow.sum(axis=-1)
    if system.mode != "gpu":
        unit = device.processors[1]
        fast = expert_seconds(parts, shape, unit, memory)
        if system.mode in ("duplex", "cut"):
            there = (fast < slow) & (parts > 0)
            near_hit = there.sum(axis=-1)
            near_tokens = np.where(there, parts, 0.0).sum(axis=-1)
            seconds = np.where(there, fast, slow).sum(axis=-1)
        else:
            found = prefix_split(parts, slow, fast)
            seconds, near_hit, near_tokens = found.seconds, found.count, found.near_tokens
    # Each stack holds its part of a token's sum: the main processor reads and adds them.
    sums = near_tokens * model.hidden * _BYTES * STACKS
    share_read = main.efficiency_of("elementwise", "bf16").memory[0][1]
    seconds = seconds + sums / (main.bandwidth_bytes_per_s[memory] * share_read)
    width = system.devices / groups
    near = near_hit * shape.weight_bytes + near_tokens * shape.bytes_per_pair
    whole = hit * shape.weight_bytes + parts.sum(axis=-1) * shape.bytes_per_pair
    return Experts(
        seconds.max(axis=1),
        near_hit.sum(axis=1) / np.maximum(hit.sum(axis=1), 1),
        (whole - near + sums).sum(axis=1) * width,
        near.sum(axis=1) * width,
        tokens.sum(axis=1) * shape.flops_per_pair * width,
    )


def stages(
    system: System,
    decoding: Array,
    context: Array,
    prompts: Array,
    chunk: Array,
    source: RoutingSource,
    seed: int = 0,
) -> Stages:
    """Time stages.

    Parameters
    ----------
    system
        Where they run.
    decoding, context
        Requests that decode, and tokens that each looks back on, on average, ``[stages]``.
    prompts, chunk
        Prompts that come in, and their tokens on average, ``[stages]``.
    source
        Routing; each of its layers is a draw of every stage.
    seed
        Of the draws.
    """
    model, device, nodes, tp = system.model, system.device, system.nodes, system.per_node
    batch = Batch.of(sequences=decoding / nodes, context=context, prompts=prompts / nodes, chunk=chunk)
    table = step_work(model, Parallelism(tp=tp), batch, Precision.of(model, "bf16")).table
    kinds = () if system.mode == "gpu" else ("attention_decode",)
    times = op_times(table, device, Rates.of(table, device, near_kinds=kinds))
    work = table.counts * times.seconds
    bytes_ = table.counts * (table.column("weight_bytes") + table.column("activation_bytes"))
    bytes_ = (bytes_ + table.counts * table.column("cache_bytes")) * system.devices
    kind = np.array([op.kind for op, _ in table.ops])
    prefill, decode = (
        work[kind == "attention_prefill"].sum(axis=0),
        work[kind == "attention_decode"].sum(axis=0),
    )
    beside = system.mode in ("coprocess", "tensor")
    attention = np.maximum(prefill, decode) if beside else prefill + decode
    dense = work[(kind == "gemm") | (kind == "elementwise")].sum(axis=0)
    tokens = decoding + prompts * chunk
    moe, layers = moe_of(model), len(model.moe_layer_ids)
    found = [expert_layer(_draw(source, round(n), seed), system) for n in tokens.tolist()]
    experts = (
        layers
        * np.array([[a.mean() for a in (e.seconds, e.main_bytes, e.near_bytes, e.flops)] for e in found]).T
    )
    links, sent = _messages(system, tokens, moe, layers)
    near = (bytes_ * times.near).sum(axis=0)
    return Stages(
        dense + attention + experts[0] + links,
        attention,
        experts[0],
        links,
        bytes_.sum(axis=0) - near + experts[1],
        near + experts[2],
        table.total("flops") * system.devices + experts[3],
        sent,
    )


def _draw(source: RoutingSource, tokens: int, seed: int) -> Array:
    """Tokens of each expert, ``[layers, experts]``; the same batch for every mode."""
    if tokens <= 0:
        return np.zeros((1, source.num_experts))
    return source.draw(tokens, DECODE, np.random.default_rng([seed, tokens])).counts


def _messages(system: System, tokens: Array, moe: MoE, layers: int) -> tuple[Array, Array]:
    """Seconds and bytes: ring all-reduces after attention and feed-forward, tokens between nodes."""
    model, tp, nodes, link = system.model, system.per_node, system.nodes, system.hardware.scale_up
    vector = tokens / nodes * model.hidden * _BYTES
    steps = 2.0 * (tp - 1)
    reduce = steps * (link.latency_s + vector / tp / link.bandwidth_bytes_per_s)
    seconds = 2 * model.num_layers * reduce
    sent = 2 * model.num_layers * steps * vector / tp * system.devices
    if nodes > 1:
        # A token's choices on other nodes, there and back, over the links of the node's devices together.
        away = vector * moe.top_k * (nodes - 1) / nodes
        seconds = seconds + layers * 2.0 * (NETWORK.latency_s + away / (NETWORK.bandwidth_bytes_per_s * tp))
        sent = sent + layers * 2.0 * away * nodes
    return seconds, sent


def moe_of(model: Model) -> MoE:
    """The MoE block of a model whose MoE layers are all alike."""
    return next(layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE))


__all__ = ["MODES", "Experts", "Stages", "System", "bare", "expert_layer", "moe_of", "stages"]
