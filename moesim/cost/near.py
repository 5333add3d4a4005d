"""A processor beside the main memory: which work is faster there, and experts shared out between the two.

A device may hold a second processor that reaches the memory of weights and cache through more bandwidth than
the main one does, with less arithmetic (processing in memory). Work of few operations per byte is faster
there. `moesim.cost.op_times` gives each op to the processor that takes less time; the experts of a layer do
not depend on each other, so both processors work on them at once, as in Duplex (arXiv:2409.01141, section
V-B): those with the fewest tokens run near the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.cost.expert_gemm import ExpertShape, expert_times, whole_tiles
from moesim.cost.roofline import (
    Choice,
    Rates,
    Times,
    at,
    near_processor,
    op_times,
    peak_flops_per_s,
    runs,
    soft_max,
)
from moesim.hardware.types import Device, Processor
from moesim.ops.table import Array, OpTable

IntArray = npt.NDArray[np.int64]
_ANY = Choice()
#: Lengths of the prefix that are tried.
CUTS = 32


@dataclass(frozen=True, slots=True, eq=False)
class SplitTimes(Times):
    """Seconds of experts on two processors at once; arrays are ``[...]``.

    `compute_s`, `memory_s` and `floor_s` are those of the processor that ends last.

    Parameters
    ----------
    near
        Whether that is the one near the memory.
    near_s
        Seconds of the processor near the memory.
    near_experts
        Experts it works on.
    """

    near: npt.NDArray[np.bool_]
    near_s: Array
    near_experts: IntArray


def alone(device: Device) -> Device:
    """The same device with its main processor only."""
    return replace(device, processors=device.processors[:1])


def kv_memory_of(table: OpTable, device: Device, choice: Choice = _ANY, weights_bytes: float = 0.0) -> str:
    """Name of the memory from which a step takes least time if the KV cache is there, and has room there.

    Beside another memory than the main one there may be a processor for attention (AttAcc). Such a memory is
    asked if it holds no less than what weights leave free in the main one.

    Parameters
    ----------
    table
        A usual step, with attention.
    device
        As described; its `kv_in` does not matter.
    choice
        Which measured kernels apply.
    weights_bytes
        What its main memory holds besides.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.ops import Op
    >>> cache = Op("attention", "attention_decode", "bf16", 1e10, cache_bytes=1e10)
    >>> table = OpTable(((cache, 1),), (), 1)
    >>> [kv_memory_of(table, load_hardware(name).device) for name in ("attacc-8", "a100-monde", "sn40l-8")]
    ['pim', 'hbm', 'hbm']
    """
    main = device.memory
    roomy = [m for m in device.memories[1:] if m.capacity_bytes >= main.capacity_bytes - weights_bytes]
    seconds = {}
    for memory in (main, *roomy):
        there = replace(device, kv_in=memory.name)
        times = op_times(table, there, Rates.of(table, there, choice))
        seconds[memory.name] = float((table.counts * times.seconds).sum())
    return min(seconds, key=lambda name: seconds[name])


def choose(table: OpTable, device: Device, rates: Rates | None = None) -> IntArray:
    """Processor of each op: 1 where the one near the memory takes less time, else 0.

    Parameters
    ----------
    table
        The work.
    device
        Its main memory holds what the ops read.
    rates
        As of `moesim.cost.op_times`.

    Returns
    -------
    numpy.ndarray
        Position in ``device.processors``, int64 ``[ops, batches]``.

    Examples
    --------
    A matrix is multiplied by few vectors near the memory, by many on the main processor:

    >>> from moesim.hardware import load_hardware
    >>> from moesim.ops.primitives import gemm
    >>> table = OpTable(((gemm("up", np.array([1.0, 4096.0]), 4096, 16384), 1),), (), 2)
    >>> choose(table, load_hardware("h100-duplex-4").device).tolist()
    [[1, 0]]
    """
    return op_times(table, device, rates).near.astype(np.int64)


def split_expert_times(
    tokens: Array,
    shape: ExpertShape,
    device: Device,
    choice: Choice = _ANY,
    *,
    shared: bool = False,
    held_pairs: Array | float | None = None,
) -> SplitTimes:
    """Seconds of a rank's experts on both processors of a device, which end as early as a prefix allows.

    Parameters
    ----------
    tokens, shape, device, choice, shared, held_pairs
        As of `moesim.cost.expert_times`.

    Returns
    -------
    SplitTimes
        Arrays of shape ``[...]``. Without a processor near the memory, those of `expert_times`.

    Notes
    -----
    What runs near the memory is a prefix of the experts in rising order of tokens. Up to `CUTS` lengths are
    tried, the same whatever the processors are: a faster processor or memory never makes a layer slower, and
    neither does a second processor, because none is among the lengths.
    """
    unit = near_processor(device)
    whole = expert_times(tokens, shape, device, choice, shared=shared, held_pairs=held_pairs)
    none = np.zeros(whole.seconds.shape)
    parts = np.stack([whole.seconds, whole.compute_s, whole.memory_s, whole.floor_s])
    if unit is None or not runs(unit, "gemm", shape.dtype):
        return SplitTimes(parts[0], parts[1], parts[2], parts[3], none > 0, none, none.astype(np.int64))
    order = np.argsort(tokens, axis=-1, kind="stable")
    rising = np.take_along_axis(tokens, order, axis=-1)
    slots = rising.shape[-1]
    place = np.arange(slots)
    empty = slots - (rising > 0).sum(axis=-1)
    there = _prefixes(rising, shape, unit, device.memory.name)
    best, near, count = parts, np.zeros((4, *none.shape)), none.astype(np.int64)
    for cut in np.unique(np.linspace(0, slots, min(slots, CUTS) + 1).round().astype(np.int64))[1:]:
        kept = np.where(place < cut, 0.0, rising)
        main = expert_times(kept, shape, device, choice, shared=shared, held_pairs=held_pairs)
        mine = np.stack([main.seconds, main.compute_s, main.memory_s, main.floor_s])
        beside = there[..., cut]
        last = np.where(beside[0] > mine[0], beside, mine)
        better = last[0] < best[0]
        best = np.where(better, last, best)
        near = np.where(better, beside, near)
        count = np.where(better, np.maximum(cut - empty, 0), count)
    last_near = (near[0] >= best[0]) & (count > 0)
    return SplitTimes(best[0], best[1], best[2], best[3], last_near, near[0], count)


def _prefixes(rising: Array, shape: ExpertShape, unit: Processor, memory: str) -> Array:
    """Whole, compute, memory and launch seconds of the first experts there, ``[4, ..., slots + 1]``.

    One expert after the other: its weights are read once for all its tokens.
    """
    curve = unit.efficiency_of("expert_gemm", shape.dtype)
    flops = whole_tiles(rising, unit) * shape.flops_per_pair
    data = (rising > 0) * shape.weight_bytes + rising * shape.bytes_per_pair
    compute = flops / (peak_flops_per_s(unit, shape.dtype) * at(curve.compute, flops))
    moved = data / (unit.bandwidth_bytes_per_s[memory] * at(curve.memory, data))
    each = np.stack([soft_max(compute, moved, curve.sharpness), compute, moved])
    sums = np.concatenate([np.zeros((*each.shape[:-1], 1)), np.cumsum(each, axis=-1)], axis=-1)
    floor = np.where(sums[0] > 0, curve.floor_s, 0.0)
    return np.concatenate([sums[:1] + floor, sums[1:], floor[None]])
