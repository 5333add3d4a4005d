"""Two slots per rank with spares, as a programme over replica counts alone.

Replicas can be paired so that no pair exceeds a load ``M`` if and only if for every ``t > M / 2`` there are
no more replicas of ``t`` or more than of ``M - t`` or less: heavy ones each need a light partner, and Hall's
condition on the nested sets of fitting partners is this one. No rank appears, so a choice of counts is

* ``z[e, r]``, 1 if expert ``e`` has ``r`` replicas, of load ``w[e] / r``, for every ``r`` that any placement
  with ranks of ``M`` or less could have: not below ``w[e] / M``, and not more than what is left when every
  other expert has its least;
* one of them for each expert, and as many replicas in all as slots;
* ``surplus[k] >= 0``: light replicas that may stand beside one of ``t[k]`` or less and are not needed, where
  ``t[0] > t[1] > ...`` are all loads above ``M / 2`` a replica can have. Each ``z`` enters one of these rows,
  the first threshold it counts for, so the matrix has three entries per column.

What is infeasible here is infeasible. What is feasible may pair an expert with itself. Its ``r`` replicas,
of load ``v`` up to ``M / 2``, can be kept apart if and only if at most ``ranks - r`` replicas exceed
``M - v``: these and the expert's own all need partners among the rest (`moesim.placement.solvers.counts` has
pairs that do it with). As a row: those above ``M - v`` and ``r z[e, r]`` add up to ``ranks`` or less, which
without the expert holds anyway. Such rows are added when they are found broken, which is seldom.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix

from moesim.placement.ilp.quiet import highs
from moesim.placement.solvers.greedy import FloatArray, IntArray

#: Loads this close, relative to their size, are taken as equal, in favour of feasibility.
EQUAL = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Programme:
    """Counts of one layer for ranks of at most `limit`.

    Parameters
    ----------
    loads, slots, limit
        What it was built from.
    expert, count
        Of each column z, int64 ``[columns]``.
    thresholds
        Loads above half the limit, falling, float64 ``[thresholds]``.
    matrix
        Rows: experts, slots, thresholds. Columns: z, surplus, shortage; the last adds partners at the top.
    right
        Right-hand side of the rows, all of them equations.
    """

    loads: FloatArray
    slots: int
    limit: float
    expert: IntArray
    count: IntArray
    thresholds: FloatArray
    matrix: Any
    right: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Relaxed:
    """Answer of the linear relaxation.

    Parameters
    ----------
    shortage
        Light replicas that are missing; above 0, no placement is within the limit.
    counts
        Counts, fractional, float64 ``[experts]``.
    thresholds, prices, wage
        Dual values that prove it: see `moesim.placement.bound_pairs.price_total`.
    """

    shortage: float
    counts: FloatArray
    thresholds: FloatArray
    prices: FloatArray
    wage: float


def programme(loads: FloatArray, ranks: int, slots: int, limit: float) -> Programme | None:
    """Build the programme of one layer ``[experts]``; None if `limit` needs more replicas than slots."""
    experts = len(loads)
    least = np.maximum(1, np.ceil(loads / limit * (1 - EQUAL))).astype(np.int64)
    spare = slots - int(least.sum())
    if spare < 0 or (least > ranks).any():
        return None
    expert = np.repeat(np.arange(experts), spare + 1)
    count = (least[:, None] + np.arange(spare + 1)).ravel()
    expert, count = expert[count <= ranks], count[count <= ranks]
    load = loads[expert] / count
    heavy = load > limit / 2 * (1 + EQUAL)
    thresholds: FloatArray = np.unique(load[heavy])[::-1]
    reach = np.where(heavy, load, limit - load)
    first = np.searchsorted(-thresholds, -reach * (1 + EQUAL))
    columns, rows = len(expert), len(thresholds)
    # Light replicas beyond the last threshold are never needed as partners; nor are those of half the limit.
    used = np.flatnonzero((first < rows) & (heavy | (load < limit / 2)))
    k = np.arange(rows)
    top = np.array([0] if rows else [], dtype=np.int64)
    entries: list[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]] = [
        (expert, np.arange(columns), np.ones(columns)),
        (np.full(columns, experts), np.arange(columns), count),
        (experts + 1 + first[used], used, np.where(heavy[used], -count[used], count[used])),
        (experts + 1 + k, columns + k, -np.ones(rows)),
        (experts + 1 + k[1:], columns + k[:-1], np.ones(max(0, rows - 1))),
        (experts + 1 + top, columns + rows + top, np.ones(len(top))),
    ]
    row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = csc_matrix(
        (value.astype(np.float64), (row, column)), shape=(experts + 1 + rows, columns + rows + 1)
    )
    right = np.concatenate([np.ones(experts), [float(slots)], np.zeros(rows)])
    return Programme(loads, slots, limit, expert, count, thresholds, matrix, right)


def relax(built: Programme) -> Relaxed:
    """Solve the linear relaxation: as little shortage as can be."""
    solver = _solver(built, shortage=True)
    solver.run()
    solution = solver.getSolution()
    experts, columns = int(built.expert[-1]) + 1, len(built.expert)
    z = np.array(solution.col_value[:columns])
    dual = np.array(solution.row_dual)
    counts = np.asarray(np.bincount(built.expert, z * built.count, minlength=experts), dtype=np.float64)
    shortage = float(solver.getInfo().objective_function_value)
    return Relaxed(shortage, counts, built.thresholds, dual[experts + 1 :], -float(dual[experts]))


def decide(
    built: Programme, time_limit_s: float, seed: int = 0, apart: Iterable[tuple[int, int]] = ()
) -> IntArray | bool | None:
    """Counts ``[experts]`` without shortage; False if there are none, None if the time did not suffice.

    `apart` are experts and counts whose replicas are to be kept apart.
    """
    highspy = highs()
    solver = _solver(built, shortage=False)
    columns = len(built.expert)
    solver.setOptionValue("time_limit", max(0.0, time_limit_s))
    solver.setOptionValue("random_seed", seed)
    whole = np.full(columns, highspy.HighsVarType.kInteger)
    solver.changeColsIntegrality(columns, np.arange(columns, dtype=np.int32), whole)
    load = built.loads[built.expert] / built.count
    for expert, count in apart:
        own = built.loads[expert] / count
        if own <= built.limit / 2:
            row = built.count * (load > (built.limit - own) * (1 + EQUAL))
            row += count * ((built.expert == expert) & (built.count == count))
            used = np.flatnonzero(row)
            solver.addRow(-highspy.kHighsInf, built.slots / 2, len(used), used, row[used].astype(np.float64))
    solver.run()
    status = solver.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return False
    if status != highspy.HighsModelStatus.kOptimal:
        return None
    chosen = np.array(solver.getSolution().col_value[:columns]) > 0.5
    return built.count[chosen]


def _solver(built: Programme, shortage: bool) -> Any:
    highspy = highs()
    rows, columns = built.matrix.shape
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = columns, rows
    cost = np.zeros(columns)
    upper = np.full(columns, np.inf)
    upper[: len(built.expert)] = 1.0
    cost[-1], upper[-1] = 1.0, np.inf if shortage else 0.0
    model.col_cost_, model.col_lower_, model.col_upper_ = cost, np.zeros(columns), upper
    model.row_lower_ = model.row_upper_ = built.right
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = built.matrix.indptr
    model.a_matrix_.index_ = built.matrix.indices
    model.a_matrix_.value_ = built.matrix.data
    solver: Any = highspy.Highs()
    solver.silent()
    solver.setOptionValue("threads", 1)
    solver.passModel(model)
    return solver
