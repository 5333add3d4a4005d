"""How far effects of other groups are to be believed for a group that was not measured.

What holds between layouts of one deployment need not hold on another machine, or for another model: there,
the best prediction lies between physics alone and all that the process says. Where it lies is a median.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.learning.held_out import Means, Table, sides
from moesim.validate import group_of
from moesim.validate.groups import Kind

Array = npt.NDArray[np.float64]


def weighted_median(values: Array, weights: Array) -> float:
    """Least value that half of the weight does not exceed.

    >>> weighted_median(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 5.0]))
    3.0
    """
    order = np.argsort(values, kind="stable")
    heavy = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(heavy, heavy[-1] / 2.0)])


def share(measured: Array, said: Array, weights: Array) -> float:
    """The share between 0 and 1 of what was said that leaves the least absolute error; 1 if nothing was."""
    tells = np.abs(said) > 1e-9
    if not tells.any():
        return 1.0
    found = weighted_median(measured[tells] / said[tells], (weights * np.abs(said))[tells])
    return float(np.clip(found, 0.0, 1.0))


def trust(table: Table, means: Means, kind: Kind, rows: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Shares of TPOT's and of TTFT's effects, from some rows; every group counts alike.

    Rows whose layout is hard to believe have no say, unless there are no others.

    Parameters
    ----------
    table, means
        Measured rows, and what fits to other groups say of them.
    kind
        What the groups are.
    rows
        Those to learn from.
    """
    believed = rows & ~np.array([bool(row.doubtful) for row in table.rows])
    rows = believed if believed.any() else rows
    groups = np.array([group_of(row, kind) for row in table.rows])
    _, which, count = np.unique(groups[rows], return_inverse=True, return_counts=True)
    weights = 1.0 / count[which]
    tpot = share(np.log(table.tpot / means.physical)[rows], means.tpot[rows], weights)
    _, whole = means.predicted(tpot, 0.0)
    return tpot, share(np.log(table.ttft / whole)[rows], means.ttft[rows], weights)


def trusted(table: Table, means: Means, kind: Kind) -> tuple[Array, Array]:
    """Predicted TPOT and TTFT of every row, believed as far as is best for the other groups."""
    tpot, ttft = np.empty(len(table.rows)), np.empty(len(table.rows))
    for side in sides(table, kind):
        rest = ~side if not side.all() else side
        tpot[side], ttft[side] = trust(table, means, kind, rest)
    return means.predicted(tpot, ttft)
