"""SE-MoE's ring as a predictor: every expert of the layers that come next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.policy.guesses import Guesses
from moesim.policy.predictors.common import packed, positive, table
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True)
class WholeLayers:
    """All experts of a later layer, the next step's first after the last (SE-MoE, arXiv 2205.10034).

    A ring of K layer slots: while layer i runs, layer i + K - 1 is loaded into the slot that layer i - 1 has
    left. A cell guesses the layer `distance` cells ahead, and at the start all that come before it.

    Parameters
    ----------
    distance
        K - 1, at least 1.
    """

    distance: int = 1

    def __post_init__(self) -> None:
        positive(distance=self.distance)

    def fit(self, train: RoutingTrace) -> WholeLayers:  # noqa: ARG002
        """Itself; nothing is learnt."""
        return self

    def guess(self, steps: Steps) -> Guesses:
        """Nothing but the order of the layers is used."""
        cells, experts = len(steps.starts) - 1, steps.num_experts
        first, scores = table(min(cells, 1), self.distance, experts)
        first[:] = np.arange(experts, dtype=np.int32)
        scores[:] = 1.0 / np.arange(1, self.distance + 1, dtype=np.float32)[None, :, None]
        first[:, max(cells - 1, 0) :] = -1
        begin = packed(first, scores)
        later = max(cells - 1 - self.distance, 0)
        count = np.zeros(max(cells, 1), np.int64)
        count[0] = len(begin.experts) if cells else 0
        count[1 : 1 + later] = experts
        starts = np.zeros(cells + 1, np.int64)
        np.cumsum(count[:cells], out=starts[1:])
        return Guesses(
            starts,
            np.r_[begin.ahead, np.full(later * experts, self.distance)].astype(np.int32),
            np.r_[begin.experts, np.tile(np.arange(experts), later)].astype(np.int32),
            np.r_[begin.scores, np.ones(later * experts)].astype(np.float32),
        )
