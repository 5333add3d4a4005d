"""A step's work as a table: one row per operation, one column per batch.

Rows are what a rank does once per layer kind; `count` says how many layers share the row.
Batches (columns) are evaluated together, so that a sweep costs little more than one prediction.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Kinds a processor has efficiency curves for.
KINDS = ("gemm", "attention_prefill", "attention_decode", "elementwise")


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that a measured kernel of an operation is looked up by.

    Parameters
    ----------
    kernel
        One of `moesim.hardware.types.KERNELS`.
    sizes
        As named there, each ``[batches]`` or a scalar.
    """

    kernel: str
    sizes: tuple[Array | float, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of one rank, for every batch.

    Parameters
    ----------
    name
        As in the breakdown: ``qkv_proj``, ``attention``, ``norm``.
    kind
        One of `KINDS`.
    dtype
        Data type of the weights, or of the cache for attention.
    flops
        Floating-point operations, ``[batches]`` or a scalar.
    weight_bytes, activation_bytes, cache_bytes
        Traffic to the main memory, ``[batches]`` or a scalar.
    launches
        Kernels started; 0 for what is fused into a neighbour.
    shape
        What its measured kernel is looked up by; None where there is none.
    """

    name: str
    kind: str
    dtype: str
    flops: Array | float
    weight_bytes: Array | float = 0.0
    activation_bytes: Array | float = 0.0
    cache_bytes: Array | float = 0.0
    launches: int = 1
    shape: Shape | None = None

    @property
    def bytes(self) -> Array | float:
        """All traffic."""
        return self.weight_bytes + self.activation_bytes + self.cache_bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One collective among a group of ranks, for every batch.

    Parameters
    ----------
    collective
        ``all_reduce all_gather reduce_scatter send``.
    ranks
        Size of the group.
    span
        Devices from the first to the last rank of the group, which decides the links it crosses.
    bytes
        The whole vector: what an all-reduce reduces, what an all-gather ends with.
    """

    name: str
    collective: str
    ranks: int
    span: int
    bytes: Array | float


@dataclass(frozen=True, slots=True, eq=False)
class OpTable:
    """Rows of `Op` and `Message`, stacked.

    Parameters
    ----------
    ops
        Rows with how often each is run.
    messages
        Collectives with how often each is run.
    batches
        Number of columns.
    """

    ops: tuple[tuple[Op, int], ...]
    messages: tuple[tuple[Message, int], ...]
    batches: int

    def started_together(self, names: Collection[str]) -> OpTable:
        """The same work where ops of these names belong to the kernel before them."""
        ops = tuple((replace(op, launches=0) if op.name in names else op, n) for op, n in self.ops)
        return replace(self, ops=ops)

    @property
    def counts(self) -> Array:
        """How often each op is run, ``[ops, 1]``."""
        return np.array([[count] for _, count in self.ops], dtype=np.float64)

    def column(self, name: str) -> Array:
        """One attribute of all ops, float64 ``[ops, batches]``, per run (not yet times `counts`)."""
        table = np.empty((len(self.ops), self.batches))
        for row, (op, _) in enumerate(self.ops):
            table[row] = getattr(op, name)
        return table

    def total(self, name: str) -> Array:
        """Sum of one attribute over the whole step, ``[batches]``."""
        return np.asarray((self.counts * self.column(name)).sum(axis=0))
