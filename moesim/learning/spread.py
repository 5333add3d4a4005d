"""How far off held-out predictions are: an expected error per configuration, quantiles in its units."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from moesim.correction import METRICS, Process
from moesim.learning.effects import ERRORS
from moesim.learning.held_out import Table, mean_of, sides
from moesim.learning.process_fit import fit_process

Array = npt.NDArray[np.float64]

#: Errors smaller than this are not told apart, in logarithm.
LEAST = 0.01
#: Mean of log |z| of a Gaussian z: what makes a mean of logarithms of errors a standard deviation.
_GAUSSIAN = -0.635


def residuals(table: Table, predicted: tuple[Array, Array]) -> dict[str, Array]:
    """Logarithm of measured over predicted, by metric, ``[rows]``."""
    tpot, ttft = predicted
    output = np.array([row.osl for row in table.rows])
    return {
        "tpot": np.log(table.tpot / tpot),
        "ttft": np.log(table.ttft / ttft),
        "e2el": np.log((table.ttft + (output - 1) * table.tpot) / (ttft + (output - 1) * tpot)),
    }


def scale_process(table: Table, residual: Array) -> Process:
    """Logarithm of the error to be expected of a configuration."""
    size = np.log(np.maximum(np.abs(residual), LEAST)) - _GAUSSIAN
    centre = float(size.mean())
    fitted = fit_process(
        ERRORS, table.labels, table.values, size - centre, noise=1.0, parameters=_fixed(len(ERRORS))
    ).process
    return Process(
        fitted.components, fitted.labels, fitted.codes, fitted.values, fitted.weights, offset=centre
    )


def _fixed(count: int) -> Array:
    """Parameters as the effects have them: errors are too few to tell more."""
    found: list[float] = []
    for c in ERRORS:
        found += [np.log(c.variance), *(np.log(scale) for _, scale in c.scales)]
    assert count == len(ERRORS)
    return np.array([*found, 0.0])


def quantiles_of(units: Array, level: float) -> tuple[float, float]:
    """Lower and upper quantile of residuals, with the finite-sample correction of conformal prediction."""
    n = len(units)
    tail = (1.0 - level) / 2.0
    share = min(1.0, np.ceil((n + 1) * (1.0 - tail)) / n)
    return float(-np.quantile(-units, share)), float(np.quantile(units, share))


def quantile_table(
    found: Mapping[str, Array], scales: Mapping[str, Array], level: float
) -> dict[str, tuple[float, float]]:
    """Quantiles of every metric in units of the expected error."""
    return {
        metric: quantiles_of(found[metric] / scales["ttft" if metric == "ttft" else "tpot"], level)
        for metric in METRICS
    }


def coverage(
    table: Table, kind: str, found: Mapping[str, Array], scales: Mapping[str, Array], level: float
) -> dict[str, dict[str, float]]:
    """Intervals of every group from the residuals of the other groups: how many hold, how wide they are.

    Returns
    -------
    dict
        By metric: ``coverage``, ``width`` (median of highest over lowest), ``score`` (mean interval score of
        the logarithm) and ``constant_score``, the score of one width for all.
    """
    answer = {}
    for metric in METRICS:
        scale = scales["ttft" if metric == "ttft" else "tpot"]
        bounds = {}
        for name, unit in (("own", scale), ("constant", np.ones_like(scale))):
            low, high = np.empty(len(scale)), np.empty(len(scale))
            for side in sides(table, kind):
                rest = ~side if not side.all() else side
                a, b = quantiles_of(found[metric][rest] / unit[rest], level)
                low[side], high[side] = a * unit[side], b * unit[side]
            bounds[name] = low, high
        low, high = bounds["own"]
        answer[metric] = {
            "coverage": float(np.mean((found[metric] >= low) & (found[metric] <= high))),
            "width": float(np.median(np.exp(high - low))),
            "score": _score(found[metric], *bounds["own"], level),
            "constant_score": _score(found[metric], *bounds["constant"], level),
        }
    return answer


def _score(y: Array, low: Array, high: Array, level: float) -> float:
    """Mean interval score (Gneiting and Raftery, JASA 2007, eq. 43)."""
    out = np.maximum(low - y, 0.0) + np.maximum(y - high, 0.0)
    return float(np.mean(high - low + 2.0 / (1.0 - level) * out))


def left_out_scale(table: Table, residual: Array) -> Array:
    """Error to be expected of every row, learnt from other layouts, ``[rows]``."""
    found = np.empty(len(residual))
    for side in sides(table, "layout"):
        rest = ~side if not side.all() else side
        process = scale_process(table.part(rest), residual[rest])
        found[side] = np.exp(mean_of(process, table.part(side)))
    return found
