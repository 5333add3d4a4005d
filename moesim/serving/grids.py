"""Tables of functions, as fine as linear interpolation between their points needs to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]

#: Rounds in which cells are halved.
ROUNDS = 5
#: Points of an axis, at most.
MOST = 64


def octaves(low: float, high: float) -> F8:
    """Powers of two from `low` to beyond `high`.

    >>> octaves(1.0, 5.0).tolist()
    [1.0, 2.0, 4.0, 8.0]
    """
    return np.asarray(low * 2.0 ** np.arange(max(1, np.ceil(np.log2(max(high / low, 1.0)))) + 1))


def refined(
    function: Callable[..., F8],
    axes: tuple[F8, ...],
    scale: float,
    tolerance: float,
    whole: tuple[bool, ...],
    counts: Callable[..., npt.NDArray[np.bool_]] | None = None,
    rounds: int = ROUNDS,
) -> tuple[tuple[F8, ...], F8]:
    """A table of a function of several arguments, refined until it is right in the middle of cells.

    Parameters
    ----------
    function
        Takes one array per axis, all of one length, and returns as many values, none below 0.
    axes
        Points to begin with, rising.
    scale
        What comes on top of the function wherever it counts: errors are relative to the sum of both.
    tolerance
        Largest error that is left alone.
    whole
        Axes that are asked at whole numbers only, between which nothing has to be right.
    counts
        Takes what `function` takes and says which points can come up; all of them by default.
    rounds
        How often cells are halved at most.

    Returns
    -------
    tuple
        The axes, and the table with one dimension for each.
    """
    axes = tuple(np.asarray(axis, dtype=np.float64) for axis in axes)
    table = _evaluate(function, axes)
    # Cells that were found fine stay so, whatever the others do.
    open_cells = [np.ones(len(axis) - 1, dtype=bool) for axis in axes]
    for _ in range(rounds):
        for d, axis in enumerate(axes):
            low, high = axis[:-1], axis[1:]
            cells = np.flatnonzero(open_cells[d] & ~(whole[d] & (high - low <= 1.0)))
            if not len(cells):
                continue
            middle = (low[cells] + high[cells]) / 2.0
            if whole[d]:
                middle = np.where(middle > 1.0, np.floor(middle), middle)
            points = (*axes[:d], middle, *axes[d + 1 :])
            found = _evaluate(function, points)
            below, above = np.take(table, cells, axis=d), np.take(table, cells + 1, axis=d)
            shape = [1] * len(axes)
            shape[d] = len(cells)
            weight = ((middle - low[cells]) / (high[cells] - low[cells])).reshape(shape)
            error = np.abs(below + weight * (above - below) - found) / (found + scale)
            if counts is not None:
                error = np.where(_evaluate(counts, points), error, 0.0)
            worst = np.moveaxis(error, d, 0).reshape(len(cells), -1).max(axis=1)
            bad = worst > tolerance
            open_cells[d][cells[~bad]] = False
            room = max(0, MOST - len(axis))
            bad &= np.argsort(np.argsort(-worst, kind="stable"), kind="stable") < room
            if not bad.any():
                continue
            places = cells[bad] + 1
            axes = (*axes[:d], np.insert(axis, places, middle[bad]), *axes[d + 1 :])
            table = np.insert(table, places, np.compress(bad, found, axis=d), axis=d)
            open_cells[d] = np.insert(open_cells[d], places, True)
        if not any(cells.any() for cells in open_cells):
            break
    return axes, table


def _evaluate(function: Callable[..., npt.NDArray[Any]], axes: tuple[F8, ...]) -> npt.NDArray[Any]:
    mesh = np.meshgrid(*axes, indexing="ij")
    return np.asarray(function(*(m.ravel() for m in mesh))).reshape(mesh[0].shape)
