"""HybriMoE's score as a predictor: what the next layer asked for lately."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy.guesses import Guesses
from moesim.policy.predictors.common import Floats, Ints, best, packed, positive, share_of_cell, table
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True)
class RecentScores:
    """The best of the minus-recent score of the next layer (released HybriMoE, ``prefetch_expert``).

    S <- alpha TopP(s) + (1 - alpha) S, over the steps a layer has seen; a trace has the scores s of the
    chosen experts alone, so that the p = 2k largest are those k.

    Parameters
    ----------
    width
        Guesses per target cell, ``prefetch_size``; the released default is 0, no guess at all.
    distance
        Cells ahead; the code asks for the next layer, here also of the next step.
    alpha
        Weight of the newest step, 0.5.
    """

    width: int
    distance: int = 1
    alpha: float = 0.5

    def __post_init__(self) -> None:
        positive(width=self.width, distance=self.distance)
        if not 0 < self.alpha <= 1:
            raise ConfigError(Fault("is out of range", "alpha", self.alpha, "above 0, at most 1"))

    def fit(self, train: RoutingTrace) -> RecentScores:  # noqa: ARG002
        """Itself; what it knows it sees during the replay."""
        return self

    def guess(self, steps: Steps) -> Guesses:
        """At every cell."""
        experts, scores = table(len(steps.starts) - 1, self.distance, min(self.width, steps.num_experts))
        share, shape = share_of_cell(steps), (steps.layers, steps.num_experts)
        _guess(steps.experts, share, steps.starts, np.float32(self.alpha), np.zeros(shape, np.float32),
               experts, scores)  # fmt: skip
        return packed(experts, scores)


@compiled
def _guess(
    ids: Ints,
    share: Floats,
    starts: npt.NDArray[np.int64],
    alpha: np.float32,
    state: Floats,
    experts: Ints,
    scores: Floats,
) -> None:
    layers, cells = state.shape[0], len(starts) - 1
    for cell in range(cells):
        layer = cell % layers
        state[layer] *= np.float32(1.0) - alpha
        for a in range(starts[cell], starts[cell + 1]):
            state[layer, ids[a]] += alpha * share[a]
        for h in range(min(experts.shape[1], cells - 1 - cell)):
            best(state[(layer + 1 + h) % layers], experts[cell, h], scores[cell, h])
