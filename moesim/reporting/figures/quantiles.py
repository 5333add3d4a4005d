"""A sample as a few hundred quantiles, its tail kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.given import F8, Checks

#: Levels that everybody asks for; kept exactly.
MARKS = (0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)
_MOST = 400


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """Quantiles of a sample.

    Parameters
    ----------
    levels
        Ascending, from 0 (least) to 1 (most) ``[levels]``.
    values_s
        The quantiles, linear between neighbouring values as numpy and serving benchmarks have them.
    n
        Values of the sample.
    missing
        Values that were not finite, and are not among them.
    low_s, high_s
        Between what the quantiles of other runs lie; None where that is not known.

    Examples
    --------
    >>> quantiles = Quantiles.of(np.arange(1_000_000) * 1e-3)
    >>> len(quantiles.levels) <= 400, quantiles.at(0.999), quantiles.at(1.0)
    (True, 998.999001, 999.999)
    """

    levels: F8
    values_s: F8
    n: int
    missing: int = 0
    low_s: F8 | None = None
    high_s: F8 | None = None

    def __post_init__(self) -> None:
        checks = Checks()
        levels = checks.numbers("levels", self.levels, low=0.0, high=1.0)
        for name in ("values_s", "low_s", "high_s"):
            if getattr(self, name) is not None:
                found = checks.numbers(name, getattr(self, name), shape=(len(levels),), low=0.0)
                object.__setattr__(self, name, found)
        for name, values in (("levels", levels), ("values_s", self.values_s)):
            if (np.diff(values) < 0).any():
                checks.numbers(f"{name}, ascending", np.diff(values), low=0.0)
        checks.numbers("n", [self.n], low=1)
        checks.done()
        object.__setattr__(self, "levels", levels)

    @classmethod
    def of(cls, values: npt.ArrayLike, most: int = _MOST) -> Quantiles:
        """Quantiles of seconds; of at most `most` values, all of them.

        Levels are even in the body, and even in the logarithm of what is slower down to a single value.

        Parameters
        ----------
        values
            Seconds, in any order; what is not finite is counted as missing.
        most
            Levels at most, 100 or more.

        Raises
        ------
        ConfigError
            If no value is finite, or one is negative.
        """
        checks = Checks()
        found = checks.numbers("values", np.ravel(np.asarray(values)), low=0.0, gaps=True)
        checks.numbers("most", [most], low=100)
        checks.done()
        known = np.sort(found[np.isfinite(found)])
        n = len(known)
        if n <= most:
            levels = np.linspace(0.0, 1.0, n) if n > 1 else np.array([0.5])
            return cls(levels, known, n, len(found) - n)
        tail = most // 3
        body = np.linspace(0.0, 1.0, most - tail - len(MARKS))
        slower = 1.0 - np.geomspace(0.1, 1.0 / n, tail)
        levels = np.unique(np.concatenate([body, slower, MARKS]))
        # On values in order, a quantile is a look-up.
        return cls(levels, np.interp(levels * (n - 1), np.arange(n), known), n, len(found) - n)

    @classmethod
    def over(cls, runs: Sequence[Quantiles]) -> Quantiles:
        """The mean of several runs' quantiles, and between what they lie.

        Raises
        ------
        ConfigError
            If there are none.
        """
        checks = Checks()
        checks.some("runs", runs)
        checks.done()
        levels = np.unique(np.concatenate([run.levels for run in runs]))
        table = np.stack([np.interp(levels, run.levels, run.values_s) for run in runs])
        n, missing = sum(run.n for run in runs), sum(run.missing for run in runs)
        return cls(levels, table.mean(0), n, missing, table.min(0), table.max(0))

    def at(self, level: float) -> float:
        """The quantile of a level, linear between those that were kept."""
        return float(np.interp(level, self.levels, self.values_s))

    def share_within(self, limit_s: float) -> float:
        """Share of the sample that is no more than a limit.

        Counted where all values were kept, else linear between quantiles.
        """
        if len(self.levels) == self.n:
            return float((self.values_s <= limit_s).mean())
        if limit_s < self.values_s[0]:
            return 0.0
        # Equal values: the last of them.
        last = int(np.searchsorted(self.values_s, limit_s, side="right")) - 1
        if last == len(self.levels) - 1 or self.values_s[last] == limit_s:
            return float(self.levels[last])
        return float(np.interp(limit_s, self.values_s[last : last + 2], self.levels[last : last + 2]))
