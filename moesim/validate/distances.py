"""How far a predicted distribution is from a measured one, as a whole and request by request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, wasserstein_distance

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Values of one quantity, each with how often it counts.

    Parameters
    ----------
    values
        ``[samples]``.
    weights
        ``[samples]``; None for once each.
    paired
        Whether value i is of request i of the run, so that two samples can be compared one by one.
    """

    values: Array
    weights: npt.NDArray[np.float64] | npt.NDArray[np.int64] | None = None
    paired: bool = False

    @property
    def counts(self) -> Array:
        """Weights, written out."""
        return np.ones(len(self.values)) if self.weights is None else np.asarray(self.weights, np.float64)

    def quantiles(self, at: Sequence[float]) -> Array:
        """Quantiles, linear between ranks; of a weighted sample each value stands for so many."""
        if self.weights is None:
            return np.asarray(np.quantile(self.values, at))
        order = np.argsort(self.values, kind="stable")
        values, counts = self.values[order], self.counts[order]
        last = np.cumsum(counts)
        rank = np.asarray(at) * (last[-1] - 1.0)
        low = values[np.minimum(np.searchsorted(last, np.floor(rank), side="right"), len(values) - 1)]
        high = values[np.minimum(np.searchsorted(last, np.ceil(rank), side="right"), len(values) - 1)]
        return np.asarray(low + (rank - np.floor(rank)) * (high - low))


@dataclass(frozen=True, slots=True)
class Distance:
    """Errors without sign; None where they cannot be told.

    Parameters
    ----------
    wasserstein
        Area between the two quantile functions over the measured mean: by how much, of the mean, values have
        to be moved to make one distribution of the other.
    ks
        Kolmogorov and Smirnov's greatest distance of the two distribution functions.
    request_error
        Median over requests of ``|predicted / measured - 1|``.
    correlation
        Spearman's rank correlation over requests.
    """

    wasserstein: float | None = None
    ks: float | None = None
    request_error: float | None = None
    correlation: float | None = None


def distance(predicted: Sample, measured: Sample) -> Distance:
    """Distances of two samples.

    Examples
    --------
    >>> slow, fast = Sample(np.array([2.0, 4.0]), paired=True), Sample(np.array([1.0, 2.0]), paired=True)
    >>> distance(slow, fast)
    Distance(wasserstein=1.0, ks=0.5, request_error=1.0, correlation=1.0)
    """
    mine, true = (_known(sample) for sample in (predicted, measured))
    if not len(mine.values) or not len(true.values):
        return Distance()
    mean = float(np.average(true.values, weights=true.weights))
    moved = wasserstein_distance(mine.values, true.values, mine.weights, true.weights)
    pairs = predicted.paired and measured.paired and len(predicted.values) == len(measured.values)
    error = correlation = None
    if pairs:
        both = np.isfinite(predicted.values) & np.isfinite(measured.values) & (measured.values > 0)
        a, b = predicted.values[both], measured.values[both]
        if len(a):
            error = float(np.median(np.abs(a / b - 1.0)))
        if len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0:
            correlation = round(float(np.corrcoef(rankdata(a), rankdata(b))[0, 1]), 12)
    return Distance(float(moved) / mean if mean > 0 else None, _ks(mine, true), error, correlation)


def _known(sample: Sample) -> Sample:
    """Without values that are not known."""
    keep = np.isfinite(sample.values)
    if sample.weights is not None:
        keep &= sample.weights > 0
    return Sample(sample.values[keep], None if sample.weights is None else sample.weights[keep])


def _ks(a: Sample, b: Sample) -> float:
    """Greatest distance of two distribution functions."""
    at = np.concatenate([a.values, b.values])

    def share(sample: Sample) -> Array:
        order = np.argsort(sample.values)
        below = np.concatenate([[0.0], np.cumsum(sample.counts[order])])
        return np.asarray(below[np.searchsorted(sample.values[order], at, side="right")] / below[-1])

    return float(np.abs(share(a) - share(b)).max())
