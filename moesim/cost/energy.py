"""Joules of work, from constants that a source names; where none does, the answer is which one is missing.

Published constants of the same part differ threefold, because they count different things: the cells and
wires of the memory alone (``device``), its interface too (``device+phy``), or the whole board (``board``). So
each part of a sum keeps its scope, and a sum over several scopes is less than what a meter at the wall shows:
leakage, clocks, caches, hosts and cooling are in none of them. Nothing here has a default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost.roofline import computed_in
from moesim.hardware.types import SCOPES, Device, Energy, Link, Memory, Processor
from moesim.ops.table import Array, OpTable


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Energy of one sort.

    Parameters
    ----------
    name
        ``compute``, ``memory``, ``links`` or ``idle``.
    joules
        ``[batches]`` or a scalar.
    scope
        What the constant counts, one of `moesim.hardware.types.SCOPES`.
    """

    name: str
    joules: Array
    scope: str


@dataclass(frozen=True, slots=True, eq=False)
class Spent:
    """Energy of some work.

    Parameters
    ----------
    parts
        What is known, one part per sort and scope.
    missing
        Constants that the work would need and no source names.

    Examples
    --------
    >>> one = Spent((Part("memory", np.array([2.0]), "device"),))
    >>> (one + one.times(3.0)).joules.tolist(), (one + Spent(missing=("link",))).joules
    ([8.0], None)
    """

    parts: tuple[Part, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def joules(self) -> Array | None:
        """The sum; None where a constant is missing."""
        if self.missing:
            return None
        return np.asarray(sum((part.joules for part in self.parts), start=np.float64(0.0)))

    @property
    def scope(self) -> str:
        """Every scope of the parts."""
        found = {part.scope for part in self.parts}
        return ", ".join(scope for scope in SCOPES if scope in found)

    def __add__(self, other: Spent) -> Spent:
        """Both, parts of one sort and scope in one."""
        sums: dict[tuple[str, str], Array] = {}
        for part in (*self.parts, *other.parts):
            key = (part.name, part.scope)
            sums[key] = part.joules + sums[key] if key in sums else part.joules
        parts = tuple(Part(name, joules, scope) for (name, scope), joules in sums.items())
        return Spent(parts, tuple(dict.fromkeys((*self.missing, *other.missing))))

    def times(self, factor: Array | float) -> Spent:
        """The energy of `factor` times the work."""
        parts = (Part(part.name, np.asarray(part.joules * factor), part.scope) for part in self.parts)
        return Spent(tuple(parts), self.missing)


def total(spent: Iterable[Spent]) -> Spent:
    """Sum of energies."""
    whole = Spent()
    for one in spent:
        whole = whole + one
    return whole


def compute_energy(device: Device, processor: Processor, dtype: str, flops: Array | float) -> Spent:
    """Energy of FLOPs on one processor, with weights of a data type.

    Parameters
    ----------
    dtype
        Of the weights; the constant is that of the type they are multiplied in.
    """
    computed = computed_in(processor, dtype)
    constant = processor.energy_per_flop.get(computed)
    return _spent(
        "compute", constant, flops, f"{device.name}.{processor.name}: energy per FLOP in {computed}"
    )


def memory_energy(device: Device, processor: Processor, memory: Memory, data: Array | float) -> Spent:
    """Energy of bytes between a processor and a memory: that of its own path, where it has one."""
    constant = processor.energy_per_byte.get(memory.name, memory.energy_per_byte)
    missing = f"{device.name}.{memory.name}: energy per byte to {processor.name}"
    return _spent("memory", constant, data, missing)


def link_energy(link: Link, data: Array | float, hops: float) -> Spent:
    """Energy of bytes over some hops of a link: into a switch and out of it are two."""
    return _spent("links", link.energy_per_byte, np.asarray(data) * hops, f"{link.name}: energy per byte")


def idle_energy(device: Device, seconds: Array | float) -> Spent:
    """Energy of a device that waits, where its idle power was measured; else nothing is counted."""
    if device.idle_w is None:
        return Spent()
    return Spent((Part("idle", np.asarray(device.idle_w * np.asarray(seconds)), "board"),))


def op_energy(table: OpTable, device: Device, near: npt.NDArray[np.bool_] | None = None) -> Spent:
    """Energy of all runs of the ops of a table, from and to the main memory and that of the KV cache.

    Parameters
    ----------
    table
        The work.
    device
        Does it.
    near
        Which ops the processor beside the memory does, bool ``[ops, batches]``, as `moesim.cost.OpTimes`
        has it; None for none.

    Notes
    -----
    Elementwise work and attention are counted as 16-bit arithmetic.
    """
    counts = table.counts
    flops, cached = table.column("flops"), table.column("cache_bytes")
    moved = table.column("activation_bytes") + cached
    data = np.where(flops + moved > 0, table.column("weight_bytes") + moved, 0.0)
    flops, data, cached = counts * flops, counts * data, counts * cached
    apart = device.kv_memory is not device.memory
    data = data - cached if apart else data
    there = np.zeros(flops.shape, dtype=bool) if near is None else near
    spent = Spent()
    for processor, mine in zip(device.processors[:2], (~there, there), strict=False):
        by_type: dict[str, Array] = defaultdict(lambda: np.zeros(table.batches))
        for row, (op, _) in enumerate(table.ops):
            dtype = op.dtype if op.kind == "gemm" else "bf16"
            by_type[dtype] = by_type[dtype] + flops[row] * mine[row]
        for dtype, amount in by_type.items():
            spent = spent + compute_energy(device, processor, dtype, amount)
        spent = spent + memory_energy(device, processor, device.memory, (data * mine).sum(axis=0))
        if apart:
            spent = spent + memory_energy(device, processor, device.kv_memory, (cached * mine).sum(axis=0))
    return spent


def _spent(name: str, constant: Energy | None, work: Array | float, missing: str) -> Spent:
    amount = np.asarray(work, dtype=np.float64)
    if not np.any(amount > 0):
        return Spent()
    if constant is None:
        return Spent(missing=(missing,))
    return Spent((Part(name, np.asarray(amount * constant.joules), constant.scope),))
