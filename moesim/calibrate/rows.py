"""Rows of measured kernel tables, in the terms of the cost model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Measurements of one kernel in one data type by one engine; arrays are ``[rows]`` unless said otherwise.

    Parameters
    ----------
    kernel, dtype, backend, version
        As of `moesim.hardware.types.Surface`.
    weights
        Data type that the peak is looked up by.
    kind
        Kind of operation that the peak is looked up by.
    sizes
        As `moesim.hardware.types.KERNELS` names them, ``[rows, axes]``.
    flops, data
        Operations, and bytes moved.
    seconds
        Measured.
    group
        Number of the model shape a row belongs to; -1 where rows have none.
    tiled
        Operations with groups of tokens rounded up to whole tiles, by rows of a tile.
    held
        Bytes of the outputs of all pairs on the rank.
    """

    kernel: str
    dtype: str
    backend: str
    version: str
    weights: str
    kind: str
    sizes: Array
    flops: Array
    data: Array
    seconds: Array
    group: IntArray
    tiled: Mapping[float, Array] = field(default_factory=dict)
    held: Array | None = None

    def __len__(self) -> int:
        return len(self.seconds)

    def pick(self, chosen: npt.NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        return replace(
            self,
            sizes=self.sizes[chosen],
            flops=self.flops[chosen],
            data=self.data[chosen],
            seconds=self.seconds[chosen],
            group=self.group[chosen],
            tiled={rows: flops[chosen] for rows, flops in self.tiled.items()},
            held=None if self.held is None else self.held[chosen],
        )
