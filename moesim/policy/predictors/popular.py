"""Popularity: every layer's favourites, whatever came before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.policy.guesses import Guesses
from moesim.policy.predictors.common import Floats, best_rows, packed, positive, table, unfitted
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace, count_ids


@dataclass(frozen=True, slots=True, eq=False)
class Popular:
    """The experts that the training trace asks for most, by layer.

    Parameters
    ----------
    width
        Guesses per target cell.
    distance
        Cells ahead.
    share
        Part of the tokens that choose each expert, float32 ``[layers, experts]``, from `fit`.
    """

    width: int
    distance: int = 1
    share: Floats | None = None

    def __post_init__(self) -> None:
        positive(width=self.width, distance=self.distance)

    def fit(self, train: RoutingTrace) -> Popular:
        """Count."""
        counts = count_ids(train.topk_ids, train.num_experts)
        return replace(self, share=(counts / max(train.num_tokens, 1)).astype(np.float32))

    def guess(self, steps: Steps) -> Guesses:
        """The same at every step; after the last layer, the next step's first."""
        if self.share is None:
            raise unfitted("popular")
        cells, layers = len(steps.starts) - 1, steps.layers
        width = min(self.width, steps.num_experts)
        experts, scores = table(cells, self.distance, width)
        chosen, sure = best_rows(self.share, width)
        layer = np.arange(cells) % layers
        for h in range(self.distance):
            target = (layer + 1 + h) % layers
            experts[:, h], scores[:, h] = chosen[target], sure[target]
            experts[max(cells - 1 - h, 0) :, h] = -1  # after the last cell there is none
        return packed(experts, scores)
