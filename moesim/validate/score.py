"""How good predictions are: errors, and whether their intervals hold.

Errors are ``predicted / measured - 1``. What is not positive and finite on both sides is left out, so that a
blank measurement, or a row that could not be predicted, may simply be NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of a set of predictions; NaN where there is nothing to say.

    Parameters
    ----------
    n
        Pairs that were compared.
    median, mean, p90
        Of ``|predicted / measured - 1|``.
    signed
        Median of ``predicted / measured - 1``: above 0, predictions are too slow.
    coverage
        Share of measurements inside their interval.
    width
        Median upper over lower end.
    interval
        Mean interval score; see `interval_score`.
    """

    n: int
    median: float
    mean: float
    p90: float
    signed: float
    coverage: float
    width: float
    interval: float


def score(
    predicted: npt.ArrayLike,
    measured: npt.ArrayLike,
    low: npt.ArrayLike | None = None,
    high: npt.ArrayLike | None = None,
    level: float = 0.9,
) -> Score:
    """Score predictions of one metric.

    Parameters
    ----------
    predicted, measured
        ``[rows]``, in any unit they share.
    low, high
        Ends of each row's interval, ``[rows]``; None if there are none.
    level
        Share of measurements that the intervals claim to hold.

    Examples
    --------
    >>> found = score([110.0, 90.0, 100.0], [100.0, 100.0, 50.0])
    >>> found.n, round(found.median, 3), round(found.mean, 3), round(found.signed, 3)
    (3, 0.1, 0.4, 0.1)
    """
    p, m = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(p) & np.isfinite(m) & (p > 0) & (m > 0)
    error = p[good] / m[good] - 1.0
    if not len(error):
        return Score(0, *[float("nan")] * 7)
    size = np.abs(error)
    holds, width, cost = (float("nan"),) * 3
    if low is not None and high is not None:
        lo, hi = np.asarray(low, np.float64)[good], np.asarray(high, np.float64)[good]
        with np.errstate(invalid="ignore"):
            has = np.isfinite(lo) & np.isfinite(hi) & (lo > 0) & (hi >= lo)
        if has.any():
            lo, hi, m = lo[has], hi[has], m[good][has]
            holds = float(((lo <= m) & (m <= hi)).mean())
            width = float(np.median(hi / lo))
            cost = float(interval_score(lo, hi, m, level).mean())
    return Score(
        n=len(error),
        median=float(np.median(size)),
        mean=float(size.mean()),
        p90=float(np.quantile(size, 0.9)),
        signed=float(np.median(error)),
        coverage=holds,
        width=width,
        interval=cost,
    )


def interval_score(low: Array, high: Array, measured: Array, level: float = 0.9) -> Array:
    """Winkler's score of intervals on the logarithm, ``[rows]``: the lower the better.

    The logarithm of upper over lower end, and for a measurement outside ``2 / (1 - level)`` times the
    logarithm of how far outside it is. The true quantiles minimise its mean.

    Examples
    --------
    >>> interval_score(np.array([1.0]), np.array([np.e]), np.array([2.0]), 0.9).tolist()
    [1.0]
    >>> interval_score(np.array([1.0]), np.array([1.0]), np.array([np.e]), 0.9).round(6).tolist()
    [20.0]
    """
    lo, hi, m = np.log(low), np.log(high), np.log(measured)
    return np.asarray(hi - lo + 2.0 / (1.0 - level) * (np.maximum(lo - m, 0.0) + np.maximum(m - hi, 0.0)))


def score_by(
    keys: Sequence[str],
    predicted: npt.ArrayLike,
    measured: npt.ArrayLike,
    low: npt.ArrayLike | None = None,
    high: npt.ArrayLike | None = None,
    level: float = 0.9,
) -> Mapping[str, Score]:
    """Score of every group, in order of name.

    Parameters
    ----------
    keys
        Group of each row.
    predicted, measured, low, high, level
        As in `score`.
    """
    names = np.asarray(keys, dtype=str)
    p, m = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    lo = None if low is None else np.asarray(low, np.float64)
    hi = None if high is None else np.asarray(high, np.float64)
    return {
        str(name): score(
            p[part],
            m[part],
            lo[part] if lo is not None else None,
            hi[part] if hi is not None else None,
            level,
        )
        for name in np.unique(names)
        for part in (names == name,)
    }
