"""Skew of recorded expert loads: of the log-normal whose batches hit as many experts as recorded loads'.

``python benchmarks/routing_skew.py TOP_K FILE...``, routing traces or loads in any format that moesim reads.
One line per recording: the standard deviation of the logarithm of a load that suits batches of a quarter of,
once and four times ``experts / top_k`` tokens. `moesim.engine.routing.SKEW` is the median over models for the
second.
"""

from __future__ import annotations

import sys
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from moesim.engine.routing import LoadSource
from moesim.trace import LoadCounts, load_trace

MULTIPLES = (0.25, 1.0, 4.0)
Array = npt.NDArray[np.float64]


def hit(loads: Array, top_k: int, tokens: float) -> float:
    """Mean share of experts that at least one of so many independent tokens chooses.

    Parameters
    ----------
    loads
        ``[layers, experts]``.
    """
    counts = LoadCounts(loads[None], tuple(range(len(loads))), top_k)
    inclusion = LoadSource.of(counts, top_k).inclusion
    return float(np.mean(1.0 - (1.0 - np.minimum(inclusion, 1.0)) ** tokens))


def skew_of(loads: Array, top_k: int, tokens: float) -> float:
    """Skew of the log-normal loads that hit as many."""
    experts = loads.shape[1]
    normal = NormalDist()
    quantiles = np.array([[normal.inv_cdf((i + 0.5) / experts) for i in range(experts)]])
    wanted = hit(loads, top_k, tokens)
    return float(brentq(lambda s: hit(np.exp(s * quantiles), top_k, tokens) - wanted, 1e-3, 4.0))


def main(top_k: int, files: list[str]) -> None:
    """Print the skews of recordings."""
    for file in files:
        loads = load_trace(file).load_counts().totals
        loads = loads[loads.sum(axis=1) > 0]
        skews = [skew_of(loads, top_k, m * loads.shape[1] / top_k) for m in MULTIPLES]
        print(f"{file}: {len(loads)} layers of {loads.shape[1]}, skew " + " ".join(f"{s:.2f}" for s in skews))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
