"""Fit a surface: a floor, a sharpness, and a smooth correction on a grid.

The correction is a penalised least-squares problem in the logarithm of time: multilinear interpolation
between knots is a sparse matrix, second differences along every axis are penalised, and a few rounds of
reweighting make it follow the absolute error, so that spikes in a table weigh little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from moesim.hardware.curves import Axis

Array = npt.NDArray[np.float64]

#: Weights of second differences, first differences (what holds knots without rows), and values.
CURVATURE, SLOPE, SIZE = 0.3, 0.02, 1e-3
#: Error of the logarithm below which rows count quadratically.
CLOSE = 0.03
ROUNDS = 8
SHARPNESS = (1.0, 1.5, 2.0, 3.0)


def axes_of(sizes: Array, steps: Sequence[float]) -> tuple[Axis, ...]:
    """Knots that cover the rows.

    Parameters
    ----------
    sizes
        ``[rows, axes]``.
    steps
        Distance of knots on each axis, in doublings.
    """
    made = []
    for column, step in zip(np.log2(sizes).T, steps, strict=True):
        low = float(np.floor(column.min() / step + 1e-9) * step)
        knots = int(np.ceil((column.max() - low) / step - 1e-9)) + 1
        made.append(Axis(low, step, max(knots, 1)))
    return tuple(made)


def interpolation(sizes: Array, axes: Sequence[Axis]) -> Any:  # noqa: ANN401 - scipy has no types
    """Weights of the knots for every row, sparse ``[rows, knots]``."""
    rows = len(sizes)
    index = np.zeros((rows, 1), dtype=np.int64)
    weight = np.ones((rows, 1))
    for column, axis in zip(np.log2(sizes).T, axes, strict=True):
        place = np.clip((column - axis.low) / axis.step, 0, axis.knots - 1)
        cell = np.clip(np.floor(place), 0, max(axis.knots - 2, 0)).astype(np.int64)
        part = (place - cell)[:, None]
        index, below = index * axis.knots, cell[:, None]
        if axis.knots == 1:
            continue
        index = np.concatenate([index + below, index + below + 1], axis=1)
        weight = np.concatenate([weight * (1 - part), weight * part], axis=1)
    knots = int(np.prod([axis.knots for axis in axes]))
    where = (np.repeat(np.arange(rows), index.shape[1]), index.ravel())
    return sparse.csr_matrix((weight.ravel(), where), shape=(rows, knots))


def penalty(axes: Sequence[Axis], curvature: float = CURVATURE, apart: bool = False) -> Array:
    """Quadratic form of roughness, ``[knots, knots]``.

    Parameters
    ----------
    axes
        Of the grid.
    curvature
        Weight of second differences.
    apart
        Whether one on the first axis is another case than more: a product with one row is no product of
        matrices. Differences between the two are then not counted.
    """
    sizes = [axis.knots for axis in axes]
    knots = int(np.prod(sizes))
    total = SIZE * sparse.identity(knots, format="csr")
    for j, size in enumerate(sizes):
        for order, weight in ((1, SLOPE), (2, curvature)):
            if size > order:
                rows = np.diff(np.eye(size), n=order, axis=0)
                if apart and j == 0:
                    ones = axes[0].low + axes[0].step * np.arange(size) < 1.0 - 1e-9
                    rows = rows[~((rows[:, ones] != 0).any(axis=1) & (rows[:, ~ones] != 0).any(axis=1))]
                difference = sparse.csr_matrix(rows)
                left = sparse.identity(int(np.prod(sizes[:j])))
                right = sparse.identity(int(np.prod(sizes[j + 1 :])))
                along = sparse.kron(sparse.kron(left, difference), right)
                total = total + weight * (along.T @ along)
    return np.asarray(total.toarray())


def correction(
    sizes: Array,
    axes: Sequence[Axis],
    log_ratio: Array,
    curvature: float = CURVATURE,
    apart: bool = False,
) -> Array:
    """S at the knots that follows the logarithm of measured over bare time, ``[knots]``; see `penalty`."""
    matrix, rough = interpolation(sizes, axes), penalty(axes, curvature, apart)
    weight = np.ones(len(log_ratio))
    found = np.zeros(rough.shape[0])
    for _ in range(ROUNDS):
        weighted = matrix.multiply(weight[:, None]).tocsr()
        normal = (matrix.T @ weighted).toarray() + rough
        found = np.linalg.solve(normal, weighted.T @ log_ratio)
        weight = CLOSE / np.maximum(np.abs(log_ratio - matrix @ found), CLOSE)
    return found


def bare(compute: Array, memory: Array, floor: float, sharpness: float) -> Array:
    """Floor and softened roofline."""
    top = np.maximum(compute, memory)
    ratio = np.minimum(compute, memory) / np.maximum(top, 1e-30)
    return np.asarray(floor + top * (1.0 + ratio**sharpness) ** (1.0 / sharpness))


def floor_of(seconds: Array, compute: Array, memory: Array) -> float:
    """Time with nothing to do: a low quantile of what the smallest rows take beyond the roofline."""
    roof = np.maximum(compute, memory)
    small = roof <= max(1e-6, float(np.quantile(roof, 0.02)))
    return max(float(np.quantile((seconds - roof)[small], 0.1)), 0.0)


def sharpness_of(seconds: Array, compute: Array, memory: Array, floor: float) -> float:
    """The exponent that leaves least to the correction."""

    def spread(sharpness: float) -> float:
        log = np.log(seconds / bare(compute, memory, floor, sharpness))
        return float(np.median(np.abs(log - np.median(log))))

    return min(SHARPNESS, key=spread)
