"""Seconds of experts that a processor runs one after the other, as CPUs do.

There is no grouped kernel and no wave: an expert with ``n`` tokens takes the time of its own products, and a
layer is a sum over the experts that are hit. Each is a measured surface,

    seconds(n) = max((floor + (t_compute**p + t_memory**p) ** (1/p)) * exp(S(n, hidden, width)), roofline(n))

with the times of one expert at bare peaks; see `moesim.hardware.curves.Surface`.
"""

from __future__ import annotations

import functools
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesim.cost.roofline import Times, peak_flops_per_s, soft_max
from moesim.cost.surface import AXES, Stack
from moesim.hardware.curves import Surface
from moesim.hardware.types import Device
from moesim.ops.table import Array

#: The surface that says so.
KERNEL = "expert"
#: Counts up to here are timed one and all, whether or not a slot has them.
FEW = 1024


class OneExpert(Protocol):
    """What has to be known of an expert: `moesim.cost.ExpertShape`."""

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""

    @property
    def width(self) -> float:
        """Intermediate width."""

    @property
    def dtype(self) -> str:
        """Data type of the weights."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights."""

    @property
    def flops_per_pair(self) -> float:
        """Operations of one token."""

    @property
    def bytes_per_pair(self) -> float:
        """Activations of one token."""


def one_by_one(tokens: Array, shape: OneExpert, device: Device, surface: Surface) -> Times:
    """Sum over the experts that are hit.

    Parameters
    ----------
    tokens
        Tokens of each expert, ``[..., slots]``.
    shape
        One expert.
    device
        Its main processor runs them, from its main memory.
    surface
        Of one expert.

    Returns
    -------
    Times
        Arrays of shape ``[...]``.
    """
    counts, where = _distinct(tokens)
    return Times(*(part[where].sum(axis=-1) for part in _each(counts, shape, device, surface)))


def _distinct(tokens: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Counts, and which of them each slot has: histograms repeat a few, and each is timed once."""
    whole = tokens.astype(np.int64)
    most = int(whole.max(initial=0))
    if most <= max(tokens.size, FEW) and np.array_equal(whole, tokens):
        return np.arange(most + 1.0), whole
    counts, where = np.unique(tokens, return_inverse=True)
    return counts, where.reshape(tokens.shape)


def _each(
    tokens: Array, shape: OneExpert, device: Device, surface: Surface
) -> tuple[Array, Array, Array, Array]:
    """Whole, compute, memory and floor seconds of experts with `tokens` tokens each, ``[tokens]``."""
    processor = device.processor
    compute = tokens * shape.flops_per_pair / peak_flops_per_s(processor, shape.dtype)
    data = (tokens > 0) * shape.weight_bytes + tokens * shape.bytes_per_pair
    memory = data / processor.bandwidth_bytes_per_s[device.memory.name]
    sizes = np.ones((1, AXES, len(tokens)))
    sizes[0, :3] = tokens, np.full(len(tokens), shape.hidden), np.full(len(tokens), shape.width)
    factor = np.where(tokens > 0, np.exp(_stack_of(surface).log_correction(sizes)[0]), 0.0)
    floor = surface.floor_s * factor
    seconds = floor + soft_max(compute, memory, surface.sharpness) * factor
    seconds = np.maximum(seconds, np.maximum(compute, memory))
    return seconds, compute, memory, np.minimum(floor, seconds)


@functools.lru_cache(maxsize=64)
def _stack_of(surface: Surface) -> Stack:
    return Stack.of([surface])
