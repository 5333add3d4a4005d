"""Which experts of a layer follow which of the layer before, where that depends most on the layer before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]

#: Experts of either layer at most, the busiest: more cannot be told apart in a figure.
MOST = 64
#: Pairs that independence would bring less often than this say little.
_LEAST = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Affinity:
    """How much likelier an expert is, given one of the layer before.

    Parameters
    ----------
    layers
        Decoder indices of the two.
    before, after
        Experts of either, in order of their ids.
    over_independence
        How often a token has both, over how often it would if the layers were independent,
        ``[before, after]``; NaN where that would be less than five times.
    pairs
        Pairs of selections in all.
    """

    layers: tuple[int, int]
    before: Ints
    after: Ints
    over_independence: Array
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ratios to three digits; NaN as None."""
        return {
            "layers": list(self.layers),
            "before": self.before.tolist(),
            "after": self.after.tolist(),
            "over_independence": [
                [float(f"{v:.3g}") if np.isfinite(v) else None for v in row] for row in self.over_independence
            ],
            "pairs": self.pairs,
        }


def affinity_of(joint: Ints, layer_ids: Sequence[int], most: int = MOST) -> Affinity | None:
    """The neighbouring layers that say most of each other; None where no token has two layers.

    Parameters
    ----------
    joint
        How often a token has expert ``i`` in a layer and ``j`` in the next,
        ``[layers - 1, experts, experts]``.
    layer_ids
        Decoder indices, ``[layers]``.
    most
        Experts of either layer at most: the busiest.

    Examples
    --------
    >>> found = affinity_of(np.array([[[30, 10], [10, 30]]]), [3, 4])
    >>> found.layers, found.over_independence.tolist(), found.pairs
    ((3, 4), [[1.5, 0.5], [0.5, 1.5]], 80)
    """
    if not len(joint) or not joint.any():
        return None
    at = int(np.argmax([_information(table) for table in joint]))
    table = joint[at].astype(np.float64)
    before, after, total = table.sum(1), table.sum(0), table.sum()
    rows, columns = (np.sort(np.argsort(-load, kind="stable")[:most]) for load in (before, after))
    expected = np.outer(before[rows], after[columns]) / total
    ratio = np.divide(
        table[np.ix_(rows, columns)], expected, out=np.full(expected.shape, np.nan), where=expected >= _LEAST
    )
    return Affinity((int(layer_ids[at]), int(layer_ids[at + 1])), rows, columns, ratio, int(total))


def _information(table: Ints) -> float:
    """Mutual information of the two experts of a pair, in nats."""
    total = table.sum()
    if not total:
        return 0.0
    share = table / total
    apart = np.outer(share.sum(1), share.sum(0))
    some = share > 0
    return float((share[some] * np.log(share[some] / apart[some])).sum())
