"""Errors of held-out predictions in numbers: of all rows, and of those that data alone sets apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.learning.held_out import Table
from moesim.learning.spread import interval_score
from moesim.validate.groups import Kind
from moesim.validate.inconsistent import inconsistent

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What held-out predictions of one family were; arrays are ``[rows]``.

    Parameters
    ----------
    table
        The rows.
    residuals
        By kind of split and metric: the logarithm of measured over predicted.
    bounds, constant
        By kind of split and metric: ends of the interval of `residuals`, and those of one width for all.
    level
        Of the intervals.
    """

    table: Table
    residuals: Mapping[Kind, Mapping[str, Array]]
    bounds: Mapping[Kind, Mapping[str, tuple[Array, Array]]]
    constant: Mapping[Kind, Mapping[str, tuple[Array, Array]]]
    level: float


def summary(report: HeldOut) -> dict[str, Any]:
    """Errors by kind of split and metric, rounded."""
    return {
        kind: {metric: _line(report, kind, metric, None) for metric in ("tpot", "ttft")}
        for kind in report.residuals
    }


def apart(report: HeldOut) -> dict[str, Any]:
    """Errors of rows that no other contradicts, of contradicted, of repaired and of doubtful ones.

    By name, kind of split and metric; a set without rows is left out.
    """
    found: dict[str, Any] = {}
    for name, by_metric in _subsets(report.table).items():
        found[name] = {
            kind: {
                metric: _line(report, kind, metric, chosen)
                for metric, chosen in by_metric.items()
                if chosen.any()
            }
            for kind in report.residuals
            if any(chosen.any() for chosen in by_metric.values())
        }
    return {name: by_kind for name, by_kind in found.items() if by_kind}


def _subsets(table: Table) -> dict[str, dict[str, Bools]]:
    flags = inconsistent(table.rows)
    contradicted = {
        metric: np.array([any(f.metric in (metric, "both") for f in own) for own in flags])
        for metric in ("tpot", "ttft")
    }
    repaired = np.array([bool(row.repairs) for row in table.rows])
    doubtful = np.array([bool(row.doubtful) for row in table.rows])
    return {
        "consistent": {metric: ~chosen for metric, chosen in contradicted.items()},
        "contradicted": contradicted,
        "repaired": dict.fromkeys(("tpot", "ttft"), repaired),
        "doubtful": dict.fromkeys(("tpot", "ttft"), doubtful),
    }


def _line(report: HeldOut, kind: Kind, metric: str, chosen: Bools | None) -> dict[str, float]:
    rows = np.ones(len(report.table.rows), dtype=bool) if chosen is None else chosen
    residual = report.residuals[kind][metric][rows]
    error = np.abs(np.expm1(-residual))
    low, high = (end[rows] for end in report.bounds[kind][metric])
    least, most = (end[rows] for end in report.constant[kind][metric])
    return {
        "n": int(rows.sum()),
        **{
            name: round(float(value), 4)
            for name, value in (
                ("median", np.median(error)),
                ("p90", np.quantile(error, 0.9)),
                ("coverage", np.mean((residual >= low) & (residual <= high))),
                ("width", np.median(np.exp(high - low))),
                ("score", interval_score(residual, low, high, report.level)),
                ("constant_score", interval_score(residual, least, most, report.level)),
            )
        },
    }
