"""Measured kernels, evaluated: the correction of a roofline, for many operations and batches at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.hardware.curves import Surface, Surfaces
from moesim.ops.table import Array

#: Axes that surfaces are padded to, to be evaluated together.
AXES = 4
#: Backends in the order in which one stands in for another whose kernel was not measured.
ORDER = ("vllm", "sglang", "trtllm", "reference")

IntArray = npt.NDArray[np.int64]


def find_surface(surfaces: Surfaces, kernel: str, dtype: str, backend: str) -> Surface | None:
    """The surface of a kernel: the backend's own, else the nearest that was measured; None if nobody did.

    Dense GEMMs of one data type are alike in all engines, which choose among the same libraries. In tables of
    quantised types they differ where the host, or a kernel that quantises activations, was timed as well;
    engines hide or fuse these, so that the lowest floor is the GEMM's. Grouped ones are more alike in one
    engine, whose kernels take either kind of fp8 scales.
    """
    if not surfaces:
        return None
    owners = tuple(dict.fromkeys((backend, *ORDER)))
    if kernel == "gemm" and dtype in _QUANTISED:
        for d in (dtype, "fp8") if dtype == "fp8_block" else (dtype,):
            found = [surfaces[kernel, d, owner] for owner in owners if (kernel, d, owner) in surfaces]
            if found:
                return min(found, key=lambda surface: surface.floor_s)
        return None
    if kernel.startswith("experts"):
        dtypes = (dtype, *_OTHER_SCALES.get(dtype, ()))
        keys = [(name, d, owner) for owner in owners for d in dtypes for name in (kernel, "experts")]
    else:
        dtypes = (dtype, "fp8") if dtype == "fp8_block" else (dtype,)
        keys = [(kernel, d, owner) for d in dtypes for owner in owners]
    return next((surfaces[key] for key in keys if key in surfaces), None)


_QUANTISED = ("fp8", "fp8_block", "nvfp4")
_OTHER_SCALES = {"fp8": ("fp8_block",), "fp8_block": ("fp8",)}


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Surfaces of several operations, padded to `AXES` axes and laid end to end.

    Parameters
    ----------
    low, per_step, last
        First knot, knots per doubling, and index of the last knot, each ``[rows, AXES, 1]``.
    stride
        Distance of neighbouring knots in `values`, int64 ``[AXES, rows, 1]``.
    corners
        Distance of the corners of a cell from its first, int64 ``[2**AXES, rows, 1]``.
    start
        Where each row's values begin, int64 ``[rows, 1]``.
    values
        All values, end to end.
    """

    low: Array
    per_step: Array
    last: Array
    stride: IntArray
    corners: IntArray
    start: IntArray
    values: Array

    @classmethod
    def of(cls, surfaces: Sequence[Surface]) -> Stack:
        """Stack surfaces, one per row; the same one may come twice."""
        rows = len(surfaces)
        low, per_step, last = np.zeros((rows, AXES, 1)), np.ones((rows, AXES, 1)), np.zeros((rows, AXES, 1))
        stride, corners = np.zeros((AXES, rows, 1), np.int64), np.zeros((2**AXES, rows, 1), np.int64)
        starts: dict[int, int] = {}
        values: list[Any] = []
        start = np.zeros((rows, 1), np.int64)
        for row, surface in enumerate(surfaces):
            if id(surface) not in starts:
                starts[id(surface)] = sum(map(len, values))
                values.append(surface.values)
            start[row] = starts[id(surface)]
            step = 1
            for j in reversed(range(len(surface.axes))):
                axis = surface.axes[j]
                low[row, j], per_step[row, j], last[row, j] = axis.low, 1.0 / axis.step, axis.knots - 1
                if axis.knots > 1:
                    stride[j, row] = step
                step *= axis.knots
            for corner in range(2**AXES):
                for j in range(AXES):
                    if corner >> (AXES - 1 - j) & 1:
                        corners[corner, row] += stride[j, row]
        flat = np.concatenate([np.asarray(v) for v in values]) if values else np.zeros(1)
        return cls(low, per_step, last, stride, corners, start, flat)

    def log_correction(self, sizes: Array) -> Array:
        """S at sizes ``[rows, AXES, batches]`` (1 on axes that a surface has not), ``[rows, batches]``."""
        place = np.log2(np.maximum(sizes, 1e-6))
        place -= self.low
        place *= self.per_step
        np.clip(place, 0.0, self.last, out=place)
        cell = np.minimum(np.floor(place), np.maximum(self.last - 1.0, 0.0))
        place -= cell
        index = self.start + (cell.astype(np.int64) * self.stride.transpose(1, 0, 2)).sum(axis=1)
        found = self.values[index + self.corners]
        for j in range(AXES):
            half = len(found) // 2
            found = found[:half] + place[:, j] * (found[half:] - found[:half])
        return np.asarray(found[0])
