"""What one replica of an expert costs in time, so that a search can balance seconds instead of tokens.

The engine's time of a rank, `moesim.cost.expert_times`, is a launch floor and a soft maximum of two sums over
its slots: compute of padded tiles, and bytes of the weights of slots that are hit and of activations. The
soft maximum is not a sum over slots, but it is convex and homogeneous: its tangent plane at a typical rank is
a sum, equals it there, and is nowhere above it. The slope in each resource is ``(resource / whole) ** (p -
1)``, with ``p`` the sharpness. Where weights are read, the cost of a slot jumps at its first token and hardly
grows after; where tiles are computed, it grows with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from moesim.cost import Choice, ExpertShape, expert_times
from moesim.cost.roofline import soft_max
from moesim.cost.surface import find_surface
from moesim.engine.dispatch import dispatch
from moesim.engine.routing import Draw
from moesim.hardware.types import Device
from moesim.layout import ExpertMap
from moesim.placement.solvers.greedy import FloatArray, IntArray

SlotCost = Callable[[FloatArray], FloatArray]


def slot_cost(
    shape: ExpertShape,
    device: Device,
    choice: Choice | None = None,
    *,
    near: FloatArray,
) -> SlotCost:
    """Seconds that a slot adds to its rank, as a function of its tokens.

    Parameters
    ----------
    shape
        One expert on one rank.
    device, choice
        Those of `moesim.cost.expert_times`.
    near
        Tokens in the slots of typical ranks, float64 ``[..., slots_per_rank]``: where the tangent touches.

    Returns
    -------
    callable
        From tokens to seconds, element by element; without tokens none. The floor of the launch, which every
        busy rank pays alike, is left out.
    """
    choice = choice or Choice()
    if shape.matrices == 3 and find_surface(
        device.processor.kernels, "expert", choice.dtype(shape.dtype), choice.backend
    ):
        # One expert after the other: the time of a rank is such a sum already.
        return lambda tokens: expert_times(np.asarray(tokens)[..., None], shape, device, choice).seconds
    room = near.shape[-1]

    def parts(tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
        # A rank of equal slots, for kernels deal the tiles of all slots of a rank in waves.
        equal = np.repeat(np.asarray(tokens, dtype=np.float64)[..., None], room, axis=-1)
        times = expert_times(equal, shape, device, choice, shared=True)
        return times.compute_s / room, times.memory_s / room

    compute, memory = (float(part.sum(axis=-1).mean()) for part in parts(near))
    there = expert_times(near, shape, device, choice, shared=True)
    busy = float((there.seconds - there.floor_s).mean())
    sharpness = _sharpness(shape, device, choice)
    whole = float(soft_max(np.array(compute), np.array(memory), sharpness))
    slopes = [_slope(part, whole, sharpness) for part in (compute, memory)]
    plane = slopes[0] * compute + slopes[1] * memory
    # What the kernel's measured correction adds, and the hard roof, scale both resources alike.
    level = busy / plane if plane > 0 else 1.0

    def seconds(tokens: FloatArray) -> FloatArray:
        at_compute, at_memory = parts(tokens)
        return np.asarray(level * (slopes[0] * at_compute + slopes[1] * at_memory))

    return seconds


def _slope(part: float, whole: float, sharpness: float) -> float:
    if math.isinf(sharpness):
        return float(part >= whole)
    return float((part / whole) ** (sharpness - 1.0)) if whole > 0 else 0.0


def _sharpness(shape: ExpertShape, device: Device, choice: Choice) -> float:
    """That of the kernel `expert_times` takes."""
    processor = device.processor
    surface = find_surface(processor.kernels, "experts_ep", choice.dtype(shape.dtype), choice.backend)
    if surface is None or shape.matrices != 3:
        return processor.efficiency_of("expert_gemm", shape.dtype).sharpness
    return surface.sharpness


def cost_table(cost: SlotCost, steps: FloatArray, copies: int) -> FloatArray:
    """Cost of one replica of each expert in each step, with 1, 2, ... copies.

    Replicas take whole tokens: with ``n`` tokens and ``c`` copies, ``n mod c`` of them have one more than the
    others. The table has their mean.

    Parameters
    ----------
    cost
        Cost of a slot by its tokens.
    steps
        Tokens, float64 ``[steps, layers, experts]``.
    copies
        Most copies to know about.

    Returns
    -------
    ndarray
        float64 ``[layers, steps, experts, copies]``, what `search_costs` takes.

    Examples
    --------
    >>> cost_table(lambda tokens: 1.0 * (tokens > 0), np.array([[[3.0, 1.0, 0.0]]]), copies=2)[0, 0].tolist()
    [[1.0, 1.0], [1.0, 0.5], [0.0, 0.0]]
    """
    most = int(np.ceil(steps.max(initial=0.0)))
    known = cost(np.arange(most + 2, dtype=np.float64))
    by_copies = []
    for c in range(1, copies + 1):
        low = np.floor(steps / c).astype(np.int64)
        more = steps - c * low
        by_copies.append(((c - more) * known[low] + more * known[low + 1]) / c)
    return np.ascontiguousarray(np.stack(by_copies, axis=-1).transpose(1, 0, 2, 3))


def layer_seconds(
    table: IntArray,
    ranks: int,
    steps: FloatArray,
    shape: ExpertShape,
    device: Device,
    choice: Choice | None = None,
) -> FloatArray:
    """Seconds of the slowest rank's experts, by the engine's model, replicas taking whole tokens.

    Parameters
    ----------
    table
        physical_to_logical, int64 ``[layers, slots]``.
    ranks
        Expert-parallel ranks.
    steps
        Tokens, float64 ``[steps, layers, experts]``.
    shape, device, choice
        Those of `slot_cost`.

    Returns
    -------
    ndarray
        float64 ``[steps, layers]``.
    """
    plan = ExpertMap(table, steps.shape[2], ranks)
    sent = np.stack([dispatch(Draw(None, step, 0), plan).slot_tokens for step in steps])
    return np.asarray(expert_times(sent, shape, device, choice or Choice(), shared=True).seconds.max(axis=-1))
