"""How far effects of other groups are to be believed for a group that was not measured.

What holds between layouts of one deployment need not hold on another machine, or for another model: there,
the best prediction lies between physics alone and all that the process says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.learning.held_out import Means, Table, sides
from moesim.validate import group_of
from moesim.validate.groups import Kind

Array = npt.NDArray[np.float64]

#: Shares that are tried for whole machines and models, the cautious first, and by how much a larger one must
#: be better.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
WORTH = 0.02


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


def cautious_share(measured: Array, said: Array, groups: npt.NDArray[np.int64]) -> float:
    """The least share that is about as good as any: by the median error of a group, on average over groups.

    Parameters
    ----------
    measured, said
        Logarithms, ``[rows]``.
    groups
        Number of each row's group, ``[rows]``.

    Examples
    --------
    >>> said, groups = np.array([1.0, -2.0, 3.0, 1.0]), np.array([0, 0, 1, 1])
    >>> cautious_share(0.5 * said, said, groups), cautious_share(-said, said, groups)
    (0.5, 0.0)
    """
    best, least = 0.0, np.inf
    for part in SHARES:
        off = np.abs(measured - part * said)
        error = float(np.mean([np.median(off[groups == g]) for g in np.unique(groups)]))
        if error < least * (1.0 - WORTH):
            best, least = part, error
    return best


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
    names = np.array([group_of(row, kind) for row in table.rows])[rows]
    _, groups, count = np.unique(names, return_inverse=True, return_counts=True)

    def best(measured: Array, said: Array) -> float:
        if kind in ("system", "model"):
            # A handful of groups: what helps most of their rows may be the doing of one.
            return cautious_share(measured, said, groups)
        return share(measured, said, 1.0 / count[groups])

    tpot = best(np.log(table.tpot / means.physical)[rows], means.tpot[rows])
    _, whole = means.predicted(tpot, 0.0)
    return tpot, best(np.log(table.ttft / whole)[rows], means.ttft[rows])


def trusted(table: Table, means: Means, kind: Kind) -> tuple[Array, Array]:
    """Predicted TPOT and TTFT of every row, believed as far as is best for the other groups."""
    tpot, ttft = np.empty(len(table.rows)), np.empty(len(table.rows))
    for side in sides(table, kind):
        rest = ~side if not side.all() else side
        tpot[side], ttft[side] = trust(table, means, kind, rest)
    return means.predicted(tpot, ttft)
