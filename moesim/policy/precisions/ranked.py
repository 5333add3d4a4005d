"""HOBBIT's precision: the less weight a token leaves to an expert, the fewer bits it is loaded in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.policy.precision import SKIP, Levels
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True)
class RankedPrecision:
    """HOBBIT's dynamic loading (Tang et al. 2024, arXiv 2411.01433).

    A token's experts are sorted by router weight, and s_i is the share of the weight ranked before expert i.
    What is missed is loaded in high precision where s_i <= T1, in low where s_i <= T2, and else skipped; what
    is resident in high precision is used as it is.

    The rule is of one token. In cells of several tokens, whose weights `Steps` adds up, all is wanted in high
    precision: some token has nearly every expert in its first place.

    Parameters
    ----------
    bits
        High and low; 16 and 4 on the paper's RTX 4090, 8 and 2 on its Orin.
    high, low
        T1 and T2, 0.6 and 0.9.
    prefetch
        ``high`` or ``low``: in which precision guesses are fetched.
    """

    bits: tuple[float, float] = (16.0, 4.0)
    high: float = 0.6
    low: float = 0.9
    prefetch: str = "high"

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.high <= self.low <= 1:
            faults.append(Fault("must not fall", "high, low", (self.high, self.low), "0 <= T1 <= T2 <= 1"))
        if not self.bits[0] >= self.bits[1] > 0:
            faults.append(Fault("must fall", "bits", self.bits, "high, then low, above 0"))
        if self.prefetch not in ("high", "low"):
            faults.append(Fault("is unknown", "prefetch", self.prefetch, "high, low"))
        if faults:
            raise ConfigError(faults)

    def fit(self, train: RoutingTrace) -> RankedPrecision:  # noqa: ARG002
        """Itself; nothing is learnt."""
        return self

    def levels(self, steps: Steps) -> Levels:
        """By rank within cells of one token.

        Raises
        ------
        ConfigError
            When there are no router weights.
        """
        if steps.weights is None:
            message = "needs router weights, and the trace has ids alone; record it with weights"
            raise ConfigError(Fault(message, "precision", "RankedPrecision"))
        sizes = np.diff(steps.starts)
        cell = np.repeat(np.arange(len(sizes)), sizes)
        weights = steps.weights.astype(np.float64)
        order = np.lexsort((-weights, cell))
        sums = np.r_[0.0, np.cumsum(weights[order])]
        total = sums[steps.starts[1:]] - sums[steps.starts[:-1]]
        before = np.empty(len(weights))
        before[order] = sums[:-1] - sums[steps.starts[:-1]][cell]
        before /= np.where(total > 0, total, 1.0)[cell]
        # Sums over a long trace leave a rounding error, which must not push a first rank off its place.
        before = np.round(before, 9)
        wanted = np.where(before <= self.high, 0, np.where(before <= self.low, 1, SKIP)).astype(np.int8)
        wanted[np.repeat(steps.step_tokens > 1, steps.layers)[cell]] = 0
        return Levels(np.array(self.bits, np.float64), wanted, misses_only=True,
                      prefetch_level=int(self.prefetch == "low"))  # fmt: skip
