"""Joules of one step of a whole deployment, all devices of all stages together."""

from __future__ import annotations

import numpy as np

from moesim.cost import HIGH_THROUGHPUT, LOW_LATENCY, exchange_of
from moesim.cost.energy import Spent, compute_energy, link_energy, memory_energy, op_energy, total
from moesim.cost.roofline import near_processor
from moesim.engine.routing import Array
from moesim.engine.step import StepTimes
from moesim.fabric import hops, network_of
from moesim.hardware.types import Hardware, Link
from moesim.ops import ExpertWork
from moesim.ops.precision import input_bytes
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.ops.table import Message

#: Bytes that each rank sends over the bytes of the whole vector, times (n - 1) / n, in a ring.
_RING = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}


def step_energy(step: StepTimes, *, decode: bool = True, backend: str = "") -> Spent:
    """Energy of a step: arithmetic, memory traffic and messages of all ranks.

    Parameters
    ----------
    step
        A timed step; its work says what each rank does.
    decode
        Whether it decodes, which decides how tokens reach their experts.
    backend
        The serving engine.

    Returns
    -------
    Spent
        Arrays are ``[batches]``. Where a constant is missing it is named, and there is no sum.

    Notes
    -----
    Experts count with the mean over ranks. Collectives are counted as rings, exchanges as one way for each
    token vector and rank or domain it goes to, and each hop of a switched link as its wire in and its wire
    out. Hosts, drafting and idle power are not in it.
    """
    work, hardware, layout = step.work, step.hardware, step.work.layout
    busy = np.asarray(work.batch.ranks) * layout.tp
    parts = [op_energy(work.table, hardware.device, step.ops.near).times(busy)]
    for message, count in work.table.messages:
        parts.append(_message(message, hardware).times(count * busy))
    for group, found in zip(work.experts, step.groups, strict=True):
        parts.append(_experts(group, found, hardware).times(layout.stage))
        parts.append(_exchange(step, group, found, decode, backend).times(layout.stage))
    return total(parts)


def _experts(group: ExpertWork, found: dict[str, Array], hardware: Hardware) -> Spent:
    """Of the mean rank."""
    device, spent = hardware.device, Spent()
    unit = near_processor(device)
    flops, data = found["near_flops"], found["near_bytes"]
    shares = [(device.processor, found["mean_flops"] - flops, found["mean_bytes"] - data)]
    if unit is not None:
        shares.append((unit, flops, data))
    for processor, flops, data in shares:
        spent = spent + compute_energy(device, processor, group.dtype, flops)
        spent = spent + memory_energy(device, processor, device.memory, data)
    return spent


def _message(message: Message, hardware: Hardware) -> Spent:
    """Of what one rank sends in one run of a collective."""
    n = message.ranks
    if n < 2:
        return Spent()
    data = np.asarray(message.bytes) * _RING.get(message.collective, 1.0)
    data = data * ((n - 1) / n if message.collective in _RING else 1.0)
    link, distance = _link(hardware, message.span, max(1, message.span // n))
    return link_energy(link, data, distance)


def _exchange(
    step: StepTimes, group: ExpertWork, found: dict[str, Array], decode: bool, backend: str
) -> Spent:
    """Of what the mean rank sends to experts and brings back, over all layers of a group."""
    layout, hardware, layers = step.work.layout, step.hardware, len(group.layers)
    if layout.stage == 1:
        return Spent()
    each = input_bytes(group.dtype) if group.dtype in ("fp8", "int8") else ACTIVATION_BYTES
    vectors = group.tokens * group.hidden * layers
    there, back = vectors * each, vectors * ACTIVATION_BYTES
    mode = LOW_LATENCY if decode else HIGH_THROUGHPUT
    gathers = backend == "vllm" and exchange_of(hardware, mode, backend) is None
    if layout.dp == 1:
        return _message(Message("combine", "all_reduce", layout.stage, layout.stage, back), hardware)
    if layout.ep == 1 or gathers:
        gather = _message(Message("dispatch", "all_gather", layout.stage, layout.stage, there), hardware)
        return gather + _message(
            Message("combine", "reduce_scatter", layout.stage, layout.stage, back), hardware
        )
    vector = group.hidden * (each + ACTIVATION_BYTES) / layout.moe_tp
    ways = [(hardware.scale_up, found["up_tokens"]), (hardware.scale_out, found["out_tokens"])]
    return total(
        link_energy(link, tokens * vector, _distance(hardware, link, layout.stage))
        for link, tokens in ways
        if link is not None
    )


def _link(hardware: Hardware, span: int, stride: int) -> tuple[Link, float]:
    """The link of a ring over `span` devices, `stride` apart, and the hops between its neighbours."""
    outside = span > hardware.domain and hardware.scale_out is not None
    link = hardware.scale_out if outside and hardware.scale_out is not None else hardware.scale_up
    if link.energy_per_byte is None:
        return link, 1.0
    between = hops(network_of(hardware), span)
    ring = np.arange(0, span, stride)
    return link, float(between[ring, np.roll(ring, -1)].mean())


def _distance(hardware: Hardware, link: Link, span: int) -> float:
    """Mean hops between two of the first `span` devices: of one domain, or of two for the network."""
    if link.energy_per_byte is None:
        return 1.0
    between = hops(network_of(hardware), span)
    domain = np.arange(span) // hardware.domain
    inside = domain[:, None] == domain[None, :]
    pairs = ~inside if link is hardware.scale_out else inside & ~np.eye(span, dtype=bool)
    return float(between[pairs].mean()) if pairs.any() else 1.0
