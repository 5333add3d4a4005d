"""HOBBIT's cache: one pool in high and one in low precision, and its four weights learnt.

HOBBIT (arXiv 2411.01433) keeps experts in two precisions. What a token weighs little is loaded in low
precision or not at all, but only if it is missed: an expert that lies there in high precision serves
everybody. It judges a cache by its penalty, 1 for a load in high precision and the ratio of sizes for one in
low.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.policy import Steps

Ints = npt.NDArray[np.int64]
#: Weights of recency, frequency, use at high precision and layer distance.
Terms = tuple[float, float, float, float]
EVEN: Terms = (0.25, 0.25, 0.25, 0.25)


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """What two pools made of a trace; all int64 ``[layers]``.

    Parameters
    ----------
    high_hits, low_hits
        Found in high precision; only in low, where no more was wanted.
    high_loads, low_loads
        Loaded.
    skipped
        Missed and left out.
    """

    high_hits: Ints
    low_hits: Ints
    high_loads: Ints
    low_loads: Ints
    skipped: Ints

    @property
    def hit_ratio(self) -> float:
        """Accesses found in a precision that will do, over all."""
        hits = int(self.high_hits.sum() + self.low_hits.sum())
        rest = int(self.high_loads.sum() + self.low_loads.sum() + self.skipped.sum())
        return hits / max(hits + rest, 1)

    def penalty(self, low_size: float) -> float:
        """Loads in units of one in high precision, where one in low counts `low_size`."""
        return float(self.high_loads.sum() + low_size * self.low_loads.sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("high_hits", "low_hits", "high_loads", "low_loads", "skipped")
        return {name: int(getattr(self, name).sum()) for name in names} | {"hit_ratio": self.hit_ratio}


def replay_mixed(
    steps: Steps,
    wanted: npt.NDArray[np.int8],
    slots: int,
    low_slots: int,
    *,
    pool: str = "layer",
    terms: Terms = EVEN,
) -> Mixed:
    """Replay steps through a pool in high and one in low precision, one lookup after the other.

    Parameters
    ----------
    wanted
        Precision of each access if it is missed: 0 high, 1 low, -1 none; of `moesim.policy.precisions`.
    slots, low_slots
        Of a pool in high and in low precision.
    pool
        ``layer`` or ``global``.
    terms
        Weights of the score; records last for one request.

    Examples
    --------
    Expert 1 is loaded in low precision. That does not do the second time; then it is there for both.

    >>> from moesim.policy import token_steps
    >>> from moesim.trace import RoutingTrace
    >>> ids, zeros = np.array([1, 1, 1], np.uint8)[:, None, None], np.zeros(3, np.int32)
    >>> trace = RoutingTrace(ids, zeros, 2, (0,), np.arange(3, dtype=np.int32), np.ones(3, np.int8))
    >>> found = replay_mixed(token_steps(trace), np.array([1, 0, 1], np.int8), 1, 1)
    >>> found.to_dict()["low_loads"], found.to_dict()["high_loads"], found.to_dict()["high_hits"]
    (1, 1, 1)
    """
    from moesim.residency.kernels.mixed import mixed_outcomes

    faults = [Fault("is below 0", n, v) for n, v in (("slots", slots), ("low_slots", low_slots)) if v < 0]
    if pool not in ("layer", "global"):
        faults.append(Fault("has no two precisions", "pool", pool, "layer, global"))
    if wanted.shape != steps.experts.shape or not np.isin(wanted, (-1, 0, 1)).all():
        faults.append(Fault("is not 0, 1 or -1 of every access", "wanted", list(wanted.shape)))
    if faults:
        raise ConfigError(faults)
    found = np.zeros((steps.layers, 5), np.int64)
    mixed_outcomes(
        steps.experts, wanted, steps.starts, steps.request, steps.layers, steps.num_experts,
        pool == "global", (slots, low_slots), terms, found,
    )  # fmt: skip
    return Mixed(*found.T)


def fit_terms(
    train: Steps,
    wanted: npt.NDArray[np.int8],
    slots: int,
    low_slots: int,
    *,
    low_size: float,
    pool: str = "layer",
    parts: int = 4,
) -> Terms:
    """The weights of least penalty on a trace that shares no request with what is replayed.

    All that add up to 1 in steps of ``1 / parts`` are tried. Layer distance is left out of a pool per layer,
    where it is the same for all.
    """
    best, least = EVEN, np.inf
    for cuts in itertools.product(range(parts + 1), repeat=3):
        rest = parts - sum(cuts)
        if rest < 0 or (pool == "layer" and rest):
            continue
        terms = (cuts[0] / parts, cuts[1] / parts, cuts[2] / parts, rest / parts)
        found = replay_mixed(train, wanted, slots, low_slots, pool=pool, terms=terms).penalty(low_size)
        if found < least:
            best, least = terms, found
    return best
