"""How sure a mean is: of independent replications, or of batches of one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]

LEVEL = 0.95
#: Batches of one run; 10 to 30 are advised (Schmeiser, Batch size effects in the analysis of simulation
#: output, Operations Research 30, 1982).
BATCHES = 20
#: Samples a batch needs beyond a percentile for that percentile to be seen in it.
BEYOND = 5


def half_width(values: npt.ArrayLike, level: float = LEVEL, around: float | None = None) -> float:
    """Half the width of Student's interval for the mean of independent values; infinite of fewer than two.

    Parameters
    ----------
    values
        ``[samples]``.
    level
        Its coverage.
    around
        What deviations are taken from; the mean by default.

    Examples
    --------
    >>> round(half_width([1.0, 2.0, 3.0]), 4)
    2.4841
    """
    sample = np.asarray(values, np.float64)
    n = len(sample)
    if n < 2:
        return math.inf
    from scipy.special import stdtrit

    middle = float(sample.mean()) if around is None else around
    deviation = math.sqrt(float(((sample - middle) ** 2).sum()) / (n - 1))
    return float(stdtrit(n - 1, 0.5 + level / 2.0)) * deviation / math.sqrt(n)


def over_replications(values: Sequence[float | None], level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of one metric over independent replications; None where one of them lacks it."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    if len(known) < 2 or len(known) < len(values):
        return None
    middle, half = float(np.mean(known)), half_width(known, level)
    return middle - half, middle + half


def over_batches(
    sample: F8, statistic: Callable[[F8], float], level: float = LEVEL, batches: int = BATCHES
) -> tuple[float, float, float] | None:
    """Interval of a statistic of one run by sectioning.

    The statistic of the whole run is the middle, and its batches, one after the other, say how far it is off
    (Asmussen and Glynn, Stochastic Simulation, 2007, section III.5a; means of batches for a mean).

    Parameters
    ----------
    sample
        ``[samples]`` in order of time.
    statistic
        From samples to a number.
    level, batches
        Coverage, and how many batches.

    Returns
    -------
    tuple
        Ends, and the correlation of one batch with the next, which should be near 0; None with too few
        samples.
    """
    size = len(sample) // batches
    if size < 2:
        return None
    # What is left over belongs to the first batch of all, where the run has settled least.
    parts = np.split(sample[len(sample) - size * batches :], batches)
    found = np.array([statistic(part) for part in parts])
    middle = statistic(sample)
    half = half_width(found, level, middle)
    return middle - half, middle + half, neighbours(found)


def neighbours(values: F8) -> float:
    """Correlation of each value with the next; 0 where all are alike."""
    d = values - values.mean()
    whole = float((d**2).sum())
    return float((d[1:] * d[:-1]).sum()) / whole if whole > 0 else 0.0
