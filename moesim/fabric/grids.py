"""Loads of meshes and tori, without listing paths.

Routing is in order of dimensions: along the last axis first (along the row, in a mesh of two dimensions: XY),
then along the one before. In a torus each axis is taken the shorter way round; half of what is as far both
ways goes either way. So a line of the grid carries what its nodes exchange among themselves, and a table of
which links of a line each pair of its nodes crosses gives all loads as products of matrices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moesim.hardware.wiring import grid_links

__all__ = ["grid_hops", "grid_links", "grid_loads", "line_steps"]

Array = npt.NDArray[np.float64]


@functools.lru_cache(maxsize=64)
def line_steps(extent: int, closed: bool) -> Array:
    """Part of what goes from `i` to `j` that crosses each link of a line, ``[extent * extent, links]``.

    Links are in the order of `moesim.hardware.wiring.grid_links`.

    >>> line_steps(3, False)[0 * 3 + 2].tolist()  # from 0 to 2: both links up
    [1.0, 1.0, 0.0, 0.0]
    >>> line_steps(3, True)[0 * 3 + 2].tolist()  # the other way round: one link down
    [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """
    each = extent if closed else extent - 1
    steps = np.zeros((extent, extent, 2 * each))
    for i in range(extent):
        for j in range(extent):
            ahead = (j - i) % extent
            up = _share_up(i, j, extent, closed)
            if up:
                steps[i, j, [(i + hop) % extent for hop in range(ahead)]] += up
            if up < 1.0 and ahead:
                behind = [(j + hop) % extent for hop in range(extent - ahead)]
                steps[i, j, each + np.array(behind)] += 1.0 - up
    made = steps.reshape(extent * extent, 2 * each)
    made.setflags(write=False)
    return made


def _share_up(i: int, j: int, extent: int, closed: bool) -> float:
    """Part of what goes from `i` to `j` that goes up the axis."""
    if not closed:
        return float(j > i)
    ahead = (j - i) % extent
    return 0.5 if 2 * ahead == extent else float(2 * ahead < extent)


def grid_loads(traffic: Array, shape: Sequence[int], closed: bool = False) -> Array:
    """Bytes over each link of a mesh or torus.

    Parameters
    ----------
    traffic
        Bytes from node to node, ``[..., n, n]``; nodes are counted row by row. The diagonal travels nowhere.
    shape
        Extents whose product is `n`.
    closed
        Whether each line is a ring.

    Returns
    -------
    ndarray
        ``[..., links]``, in the order of `moesim.hardware.wiring.grid_links`.

    Examples
    --------
    One message from the first to the last corner of 2 x 2 goes along the row, then down the column.

    >>> traffic = np.zeros((4, 4))
    >>> traffic[0, 3] = 5.0
    >>> source, target = grid_links((2, 2), False)
    >>> [(int(source[i]), int(target[i])) for i in np.flatnonzero(grid_loads(traffic, (2, 2)))]
    [(1, 3), (0, 1)]
    """
    shape, axes = tuple(shape), len(shape)
    if math.prod(shape) != traffic.shape[-1]:
        raise ValueError(f"traffic of {traffic.shape[-1]} nodes on a grid of {shape}")
    lead = traffic.shape[:-2]
    # Axes of what is left: batch, source coordinates 0..a, target coordinates a..last.
    left = np.asarray(traffic, dtype=np.float64).reshape(-1, *shape, *shape)
    loads: list[Array] = []
    for axis in reversed(range(axes)):
        lower = tuple(range(1 + axis + 1, 1 + axis + 1 + axis))
        lines = left.sum(axis=lower) if lower else left
        lines = np.moveaxis(lines, (1 + axis, 2 + axis), (-2, -1))
        extent = shape[axis]
        moved = lines.reshape(len(lines), -1, extent * extent) @ line_steps(extent, closed)
        loads.append(moved.reshape(len(lines), -1))
        # Beyond this axis only where traffic turns counts: the target's coordinate, not the source's.
        left = left.sum(axis=1 + axis)
    return np.concatenate(loads[::-1], axis=1).reshape(*lead, -1)


def grid_hops(shape: Sequence[int], closed: bool = False) -> Array:
    """Links between each two nodes, ``[n, n]``.

    >>> grid_hops((2, 3)).tolist()[0]
    [0.0, 1.0, 2.0, 1.0, 2.0, 3.0]
    """
    total = np.zeros((math.prod(shape),) * 2)
    for extent, place in zip(shape, np.indices(shape).reshape(len(shape), -1), strict=True):
        apart = np.abs(place[:, None] - place[None, :])
        total += np.minimum(apart, extent - apart) if closed else apart
    return total
