"""Models whose weights stay in the memories of chips: how many it takes, and how fast a token passes.

Every chip holds an equal part of the weights and of the cache and reads it once per token, all at once:

    token = weight and cache bytes read / (chips * bandwidth) + hops * latency + link bytes / link bandwidth

A MoE model must hold all of its experts, but reads only those that a token chooses: its chips are busy for
``active / total`` of the time that a dense model of the same size would take. With SRAM it takes many chips;
a box whose one memory holds a compressed model is the case of a single one. No kernel is as fast as its
memory: times are lower bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from moesim.errors import InfeasibleError
from moesim.hardware.types import Hardware
from moesim.model import params
from moesim.model.dtypes import bytes_per_param
from moesim.model.types import Model
from moesim.ops.primitives import ACTIVATION_BYTES


@dataclass(frozen=True, slots=True)
class OnChip:
    """A model spread over chips.

    Parameters
    ----------
    chips
        That hold it.
    token_s
        Seconds of a token of one sequence.
    memory_s, link_s
        What reading the memories takes of it, and what the links between chips take.
    """

    chips: int
    token_s: float
    memory_s: float
    link_s: float


def param_bytes(dtype: str | float) -> float:
    """Bytes of a parameter in a data type, or in so many bits.

    >>> param_bytes("int8"), param_bytes(1.25)
    (1.0, 0.15625)
    """
    return bytes_per_param(dtype) if isinstance(dtype, str) else dtype / 8.0


def chips_for(model: Model, hardware: Hardware, dtype: str | float, cache_bytes: float = 0.0) -> int:
    """Chips that hold a model's weights and some cache.

    Parameters
    ----------
    model, dtype
        What, in which type or how many bits per parameter.
    hardware
        Chips with their main memory.
    cache_bytes
        Of all sequences.
    """
    whole = params(model).total * param_bytes(dtype) + cache_bytes
    return ceil(whole / hardware.device.memory.capacity_bytes)


def on_chips(
    model: Model,
    hardware: Hardware,
    dtype: str | float,
    *,
    cache_bytes: float = 0.0,
    chips: int | None = None,
) -> OnChip:
    """Time of a token of one sequence on chips that hold the whole model.

    Layers are cut over the chips of a domain, whose partial sums meet twice per layer; the domains are a
    pipeline, through which a token passes one after the other.

    Parameters
    ----------
    model, dtype
        What runs, in which type or how many bits per parameter.
    hardware
        The chips; the machine need not have as many.
    cache_bytes
        Of the sequence.
    chips
        How many; as many as needed by default.

    Raises
    ------
    InfeasibleError
        If `chips` do not hold the model.
    """
    needed = chips_for(model, hardware, dtype, cache_bytes)
    chips = needed if chips is None else chips
    if chips < needed:
        raise InfeasibleError(
            f"{model.name} in {dtype} needs {needed} chips of {hardware.name}",
            resource="memory",
            needed=needed * hardware.device.memory.capacity_bytes,
            available=chips * hardware.device.memory.capacity_bytes,
        )
    device, link = hardware.device, hardware.scale_up
    together = min(chips, link.domain)
    read = params(model).active * param_bytes(dtype) + cache_bytes
    # A token is in one stage of the pipeline at a time: only that stage's chips read.
    rate = together * device.processor.bandwidth_bytes_per_s[device.memory.name]
    vector = model.hidden * ACTIVATION_BYTES
    steps = 0.0 if together == 1 else 2.0 * model.num_layers
    each = link.latency_s + 2.0 * vector / (link.bandwidth_bytes_per_s * link.efficiency)
    stages = ceil(chips / together)
    outer = hardware.scale_out or link
    passed = (stages - 1) * (outer.latency_s + vector / (outer.bandwidth_bytes_per_s * outer.efficiency))
    links = steps * each + passed
    return OnChip(chips, read / rate + links, read / rate, links)
