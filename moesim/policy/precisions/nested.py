"""D2MoE's nested widths: one set of weights, of which more bits are read for what counts more."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.policy.precision import Levels
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Nested:
    """Nested bit widths by router weight (D2MoE, Wang et al. 2025, arXiv 2504.15299).

    A base of few bits, and residuals of one bit each on top of it; a level is loaded from the base upwards.
    The system trains a second router for the width, with a capacity for each. Here the heaviest part of a
    layer's accesses gets the most bits, in the same parts: the limits between them are quantiles of the
    training trace.

    Parameters
    ----------
    bits
        Bits per weight of the widths, fewest first: 2, 3, 4, or 5 to 8 in the paper's second version.
    shares
        Part of the accesses that gets each: 0.3, 0.4, 0.3, or 0.25 each.
    limits
        Weight share at which the next width begins, float64 ``[layers, widths - 1]``, from `fit`.
    """

    bits: tuple[float, ...] = (2.0, 3.0, 4.0)
    shares: tuple[float, ...] = (0.3, 0.4, 0.3)
    limits: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        faults = []
        if not self.bits or list(self.bits) != sorted(set(self.bits)) or self.bits[0] <= 0:
            faults.append(Fault("must rise", "bits", self.bits, "above 0"))
        if len(self.shares) != len(self.bits) or abs(sum(self.shares) - 1) > 1e-9 or min(self.shares) < 0:
            faults.append(Fault("must add up to 1", "shares", self.shares, f"{len(self.bits)} parts"))
        if faults:
            raise ConfigError(faults)

    def fit(self, train: RoutingTrace) -> Nested:
        """The limits, layer by layer."""
        if train.topk_weights is None:
            raise _without_weights()
        weights = train.topk_weights.astype(np.float64)
        weights /= np.maximum(weights.sum(axis=2, keepdims=True), 1e-300)
        at = np.cumsum(self.shares)[:-1]
        flat = np.moveaxis(weights, 1, 0).reshape(weights.shape[1], -1)
        return replace(self, limits=np.quantile(flat, at, axis=1).T)

    def levels(self, steps: Steps) -> Levels:
        """By the share of a token's weight; in cells of several tokens by the mean of those that chose it."""
        if steps.weights is None:
            raise _without_weights()
        if self.limits is None:
            raise ConfigError(
                Fault("needs a trace to learn from, disjoint from what is replayed", "precision")
            )
        sizes = np.diff(steps.starts)
        cell = np.repeat(np.arange(len(sizes)), sizes)
        # Weights of a cell add up to its tokens' sums; normalised so that a token's add up to 1.
        total = np.bincount(cell, steps.weights, len(sizes))
        tokens = np.repeat(steps.step_tokens, steps.layers)
        share = steps.weights * (tokens / np.where(total > 0, total, 1.0))[cell] / steps.tokens
        above = (share[:, None] > self.limits[cell % steps.layers]).sum(axis=1)
        wanted = (len(self.bits) - 1 - above).astype(np.int8)
        return Levels(np.array(self.bits[::-1], np.float64), wanted, nested=True)


def _without_weights() -> ConfigError:
    message = "needs router weights, and the trace has ids alone; record it with weights"
    return ConfigError(Fault(message, "precision", "Nested"))
