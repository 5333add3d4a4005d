"""MoNDE (arXiv:2405.18832): cold experts are computed beside the memory that holds them.

A MoE layer on a GPU whose experts lie in a memory device with its own processor, behind PCIe:

* ``move``: every expert that is asked for is copied to the GPU (the baseline of the paper, GPU+PM).
* ``near``: activations go to the device, which computes all experts.
* ``alpha``: the `H` hottest experts are copied and run on the GPU while the device computes the others, with
  `H` such that copies take as long as the device reads what is left.
* ``balanced``: the same with the `H` that ends first, which is what the paper tunes its alpha for.
* ``cpu``: the host's processor computes all experts from host memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape, alone, expert_times, peak_flops_per_s
from moesim.hardware.types import Hardware, Processor
from moesim.ops.primitives import ACTIVATION_BYTES

Array = npt.NDArray[np.float64]
MODES = ("move", "near", "alpha", "balanced", "cpu")


def moved_bytes(shape: ExpertShape, experts: float, tokens: float) -> tuple[float, float]:
    """Bytes of a layer that cross the link: its experts' parameters, or its activations there and back.

    Equations 1 and 2 of the paper: ``2 E d_model d_ff`` weights, ``2 B S d_model`` activations.

    Parameters
    ----------
    experts
        Experts that are asked for.
    tokens
        Tokens, one activation each way.

    Examples
    --------
    >>> moved_bytes(ExpertShape(2048, 8192, 2, "bf16"), 128, 512)
    (8589934592.0, 4194304.0)
    """
    return experts * shape.weight_bytes, 2.0 * tokens * shape.hidden * ACTIVATION_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """A GPU and a memory device that computes, or a host in its place.

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

    @property
    def near_bytes_per_s(self) -> float:
        """Bandwidth of the unit to its own memory."""
        unit, memory = self.hardware.device.near, self.hardware.device.near_memory
        assert unit is not None
        assert memory is not None
        return unit.bandwidth_bytes_per_s[memory.name]


def hot_experts(active: int, box: Box, alpha: float = 1.0) -> int:
    """Hottest experts to copy: ``H = alpha B_link / (B_link + B_near)`` of those that are asked for.

    From equations 3 and 4: copies of `H` experts over the link take as long as reading the rest beside the
    memory. `alpha` corrects for what is not a transfer; the paper tunes it while it runs.
    """
    share = box.link_bytes_per_s / (box.link_bytes_per_s + box.near_bytes_per_s)
    return min(active, round(alpha * share * active))


def layer_seconds(tokens: Array, shape: ExpertShape, box: Box, mode: str, alpha: float = 1.0) -> float:
    """Seconds of one MoE layer.

    Parameters
    ----------
    tokens
        Of each expert, ``[experts]``.
    shape
        Of an expert.
    mode
        One of `MODES`.
    alpha
        As of `hot_experts`.
    """
    hot = np.sort(tokens[tokens > 0])[::-1]
    if mode == "cpu":
        host = box.hardware.host
        assert host is not None
        return float(_unit_s(hot, shape, host.processor, host.memory.bandwidth_bytes_per_s).sum())
    if mode == "move":
        # Copies follow each other; the GPU works on what has arrived, on the last one when all else is done.
        copies = len(hot) * shape.weight_bytes / box.link_bytes_per_s
        return max(copies, _gpu_s(hot, shape, box)) + _gpu_s(hot[-1:], shape, box)
    ends = split_seconds(hot, shape, box)
    if mode == "near":
        return float(ends[0])
    return float(ends.min() if mode == "balanced" else ends[hot_experts(len(hot), box, alpha)])


def split_seconds(hot: Array, shape: ExpertShape, box: Box) -> Array:
    """Seconds of a layer with the first 0, 1, 2, ... experts on the GPU, ``[experts + 1]``.

    Parameters
    ----------
    hot
        Tokens of each expert, most first.
    """
    unit = box.hardware.device.near
    assert unit is not None
    each = _unit_s(hot, shape, unit, box.near_bytes_per_s)
    # Both ways at once over a full-duplex link: what is sent bounds it.
    sent = np.append(np.cumsum(hot[::-1])[::-1], 0.0) * shape.hidden * ACTIVATION_BYTES / box.link_bytes_per_s
    cold = np.append(np.cumsum(each[::-1])[::-1], 0.0) + sent
    copy = np.arange(len(hot) + 1) * shape.weight_bytes / box.link_bytes_per_s
    last = np.append(0.0, expert_times(hot[:, None], shape, alone(box.hardware.device)).seconds)
    return np.asarray(np.maximum(copy + last, cold))


def _unit_s(tokens: Array, shape: ExpertShape, unit: Processor, bandwidth: float) -> Array:
    """Seconds of each expert on a processor from a memory, at the share of it that its description names."""
    curve = unit.efficiency_of("expert_gemm", shape.dtype)
    read = (shape.weight_bytes + tokens * shape.bytes_per_pair) / (bandwidth * curve.memory[-1][1])
    work = shape.flops_per_pair * tokens / (peak_flops_per_s(unit, shape.dtype) * curve.compute[-1][1])
    return np.maximum(read, work)


def _gpu_s(tokens: Array, shape: ExpertShape, box: Box) -> float:
    return float(expert_times(tokens[None, :], shape, alone(box.hardware.device)).seconds[0])


def draw(experts: int, pairs: int, skew: float, rng: np.random.Generator) -> Array:
    """Tokens of each expert when popularities are lognormal with that deviation of their logarithm."""
    odds = np.exp(skew * rng.standard_normal(experts))
    return rng.multinomial(pairs, odds / odds.sum()).astype(np.float64)
