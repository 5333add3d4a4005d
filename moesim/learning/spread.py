"""How far off held-out predictions are: an expected error per configuration, quantiles in its units."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from moesim.correction import METRICS, Process
from moesim.correction.calibration import SCALE_OF, Span
from moesim.learning.effects import ERRORS
from moesim.learning.held_out import Table, mean_of, sides
from moesim.learning.process_fit import fit_process
from moesim.validate import group_of
from moesim.validate.groups import Kind

Array = npt.NDArray[np.float64]

#: Errors smaller than this are not told apart, in logarithm.
LEAST = 0.01
#: Mean of log |z| of a Gaussian z: what makes a mean of logarithms of errors a standard deviation.
_GAUSSIAN = -0.635
#: How far an interval may follow the expected error: not at all, by its root, in proportion.
STRENGTHS = (0.0, 0.5, 1.0)
#: Splits whose errors differ by configuration in ways that other groups tell.
HAVE_UNITS: tuple[Kind, ...] = ("sweep", "layout")
#: How far the interval of a model that was not seen goes from the quantiles of all others to those of the
#: worst of them.
TOWARDS_WORST = 2.0 / 3.0
#: Quantiles of a group of fewer rows are not looked at alone.
OWN_QUANTILES = 20


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
        ERRORS,
        table.labels,
        table.values,
        size - centre,
        noise=1.0,
        parameters=_fixed(),
        rounds=0,
    ).process
    return Process(
        fitted.components, fitted.labels, fitted.codes, fitted.values, fitted.weights, offset=centre
    )


def _fixed() -> Array:
    """Parameters as the effects have them: errors are too few to tell more."""
    found: list[float] = []
    for c in ERRORS:
        found += [np.log(c.variance), *(np.log(scale) for _, scale in c.scales)]
    return np.array([*found, 0.0])


def left_out_scale(table: Table, residual: Array, kind: Kind) -> Array:
    """Error to be expected of every row, learnt from errors of other groups, ``[rows]``.

    Where a system or model not seen is far off, errors of others do not tell: one width serves all.
    """
    if kind not in HAVE_UNITS:
        return np.ones(len(residual))
    found = np.empty(len(residual))
    for side in sides(table, kind):
        rest = ~side if not side.all() else side
        process = scale_process(table.part(rest), residual[rest])
        found[side] = np.exp(mean_of(process, table.part(side)))
    return found


def quantiles_of(units: Array, level: float) -> tuple[float, float]:
    """Lower and upper quantile of residuals, with the finite-sample correction of conformal prediction."""
    n = len(units)
    tail = (1.0 - level) / 2.0
    share = min(1.0, np.ceil((n + 1) * (1.0 - tail)) / n)
    return float(-np.quantile(-units, share)), float(np.quantile(units, share))


def group_quantiles(units: Array, groups: npt.NDArray[np.str_], level: float) -> tuple[float, float]:
    """Quantiles for a row of yet another group: much of the way from those of all to those of the worst.

    With a handful of groups, rows of a new one are not exchangeable with those of the others, and a guarantee
    would need an infinite interval (Lee, Barber and Willett, Distribution-free inference with hierarchical
    data, 2023).
    """
    low, high = quantiles_of(units, level)
    tail = (1.0 - level) / 2.0
    own = [units[groups == name] for name in sorted(set(groups.tolist()))]
    ends = [np.quantile(part, (tail, 1.0 - tail)) for part in own if len(part) >= OWN_QUANTILES]
    least = min([low, *(float(end[0]) for end in ends)])
    most = max([high, *(float(end[1]) for end in ends)])
    return low + TOWARDS_WORST * (least - low), high + TOWARDS_WORST * (most - high)


def span_of(residual: Array, scale: Array, groups: npt.NDArray[np.str_], kind: Kind, level: float) -> Span:
    """The interval, relative to a prediction, of the best interval score."""
    best = (np.inf, Span(0.0, 0.0, 0.0))
    for strength in STRENGTHS if kind in HAVE_UNITS else STRENGTHS[:1]:
        unit = scale**strength
        if kind == "model":
            low, high = group_quantiles(residual / unit, groups, level)
        else:
            low, high = quantiles_of(residual / unit, level)
        # The prediction itself is always held.
        span = Span(strength, min(low, 0.0), max(high, 0.0))
        score = interval_score(residual, span.low * unit, span.high * unit, level)
        if score < best[0]:
            best = score, span
    return best[1]


def spans_of(
    table: Table, found: Mapping[str, Array], scales: Mapping[str, Array], kind: Kind, level: float
) -> dict[str, Span]:
    """Interval of every metric, from all groups."""
    groups = np.array([group_of(row, kind) for row in table.rows])
    return {
        metric: span_of(found[metric], scales[SCALE_OF[metric]], groups, kind, level) for metric in METRICS
    }


def bounds_of(table: Table, residual: Array, scale: Array, kind: Kind, level: float) -> tuple[Array, Array]:
    """Ends of the interval of every row, relative to its prediction, from residuals of other groups."""
    groups = np.array([group_of(row, kind) for row in table.rows])
    low, high = np.empty(len(residual)), np.empty(len(residual))
    for side in sides(table, kind):
        rest = ~side if not side.all() else side
        span = span_of(residual[rest], scale[rest], groups[rest], kind, level)
        low[side], high[side] = (end * scale[side] ** span.strength for end in (span.low, span.high))
    return low, high


def constant_bounds(table: Table, residual: Array, kind: Kind, level: float) -> tuple[Array, Array]:
    """What the intervals are measured against: one width for all, from residuals of other groups."""
    low, high = np.empty(len(residual)), np.empty(len(residual))
    for side in sides(table, kind):
        low[side], high[side] = quantiles_of(residual[~side if not side.all() else side], level)
    return low, high


def interval_score(y: Array, low: Array, high: Array, level: float) -> float:
    """Mean interval score (Gneiting and Raftery, JASA 2007, eq. 43)."""
    out = np.maximum(low - y, 0.0) + np.maximum(y - high, 0.0)
    return float(np.mean(high - low + 2.0 / (1.0 - level) * out))
