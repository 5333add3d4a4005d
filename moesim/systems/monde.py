"""MoNDE (arXiv:2405.18832): cold experts are computed beside the memory that holds them.

A MoE layer on a GPU whose experts lie in a memory device with its own processor, behind PCIe:

* ``move``: every expert that is asked for is copied to the GPU (the baseline of the paper, GPU+PM).
* ``near``: activations go to the device, which computes all experts.
* ``balanced``: the hottest experts are copied and run on the GPU while the device computes the others; their
  number is the one that ends first, which is what the paper tunes its alpha for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape, expert_times
from moesim.hardware.types import Hardware

Array = npt.NDArray[np.float64]
MODES = ("move", "near", "balanced")


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """A GPU and a memory device that computes.

    Parameters
    ----------
    hardware
        The GPU is its device; the second processor and memory are the near-data ones.
    link_bytes_per_s
        Of copies to the GPU.
    """

    hardware: Hardware
    link_bytes_per_s: float

    @classmethod
    def of(cls, hardware: Hardware, efficiency: float) -> Box:
        """With the link of the description, of which a part is reached."""
        link = hardware.host_link
        assert link is not None
        return cls(hardware, link.bandwidth_bytes_per_s * efficiency)


def moe_s(tokens: Array, shape: ExpertShape, box: Box, mode: str) -> float:
    """Seconds of one MoE layer.

    Parameters
    ----------
    tokens
        Of each expert, ``[experts]``.
    shape
        Of an expert.
    mode
        One of `MODES`.
    """
    hot = np.sort(tokens[tokens > 0])[::-1]
    device = box.hardware.device
    near = device.processors[1]
    memory = device.memories[1]
    copy = np.arange(len(hot) + 1) * shape.weight_bytes / box.link_bytes_per_s
    if mode == "move":
        # Copies follow each other; the GPU works on what has arrived.
        return float(max(copy[-1], _gpu_s(hot, shape, box)) + shape.weight_bytes / device_bandwidth(box))
    each = np.maximum(
        shape.weight_bytes / memory.bandwidth_bytes_per_s,
        shape.flops_per_pair * hot / near.peak_flops_per_s["bf16"],
    )
    # Both ways at once over a full-duplex link: what is sent bounds it.
    sent = np.cumsum(hot[::-1])[::-1] * shape.hidden * 2.0 / box.link_bytes_per_s
    cold = np.append(np.cumsum(each[::-1])[::-1] + sent, 0.0)
    if mode == "near":
        return float(cold[0])
    best = float(cold[0])
    for moved in range(1, len(hot) + 1):
        if copy[moved] >= best:
            break
        best = min(best, max(copy[moved] + _gpu_s(hot[moved - 1 : moved], shape, box), cold[moved]))
    return best


def device_bandwidth(box: Box) -> float:
    """Of the GPU's own memory, bytes per second."""
    device = box.hardware.device
    return device.processor.bandwidth_bytes_per_s[device.memory.name]


def _gpu_s(tokens: Array, shape: ExpertShape, box: Box) -> float:
    return float(expert_times(tokens[None, :], shape, box.hardware.device).seconds[0])


def draw(experts: int, pairs: int, skew: float, rng: np.random.Generator) -> Array:
    """Tokens of each expert when popularities are lognormal with that deviation of their logarithm."""
    odds = np.exp(skew * rng.standard_normal(experts))
    return rng.multinomial(pairs, odds / odds.sum()).astype(np.float64)
