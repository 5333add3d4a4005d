"""Replay of a trace through a cache of experts: what hits, what does not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.policy import Residency, Steps


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """What a cache made of a trace.

    Parameters
    ----------
    residency
        The rule and its conditions.
    slots
        Slots of each pool, int64 ``[pools]``.
    hits, accesses
        By layer, int64 ``[layers]``.
    seconds
        The replay itself took.
    """

    residency: Residency
    slots: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]
    seconds: float

    @property
    def hit_ratio(self) -> float:
        """Hits over accesses, all layers."""
        return float(self.hits.sum() / max(self.accesses.sum(), 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        r = self.residency
        return {
            "policy": r.rule,
            "conditions": {n: getattr(r, n) for n in ("pool", "lookup", "cold", "reset", "start")}
            | {"parameters": dict(r.parameters)},
            "slots": int(self.slots.sum()),
            "slots_per_pool": self.slots.tolist(),
            "hits": int(self.hits.sum()),
            "accesses": int(self.accesses.sum()),
            "hit_ratio": self.hit_ratio,
            "seconds": self.seconds,
        }


def replay(steps: Steps, residency: Residency, slots: npt.NDArray[np.int64]) -> Replayed:
    """Replay steps through pools.

    Parameters
    ----------
    steps
        Accesses.
    residency
        The rule and its conditions.
    slots
        Slots of each pool, int64 ``[pools]``: one per layer, or one in all.
    """
    from moesim.residency.kernels.lru import lru_hits

    began = time.perf_counter()
    hits = lru_hits(steps.experts, steps.starts, steps.layers, steps.num_experts, slots)
    cells = np.diff(steps.starts).reshape(-1, steps.layers)
    return Replayed(residency, slots, hits, cells.sum(axis=0), time.perf_counter() - began)
