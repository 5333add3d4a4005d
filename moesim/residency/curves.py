"""Hits of every capacity at once: one pass over the trace instead of one per cache size.

Least recently used and Belady's rule are stack rules: what a small cache holds, a larger one holds too
(Mattson et al., IBM Systems Journal 9(2), 1970). So each lookup has one number, its depth in the stack, and a
cache of more slots than that has it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.policy import Residency, Steps
from moesim.shown import block, table
from moesim.tabular import Tabular

Ints = npt.NDArray[np.int64]
#: Rules whose caches nest.
CURVES = ("lru", "belady")
#: Parts of a pool that a notebook shows.
_PARTS = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
#: Accesses times objects of a pool for which the optimal stack is searched; beyond, that takes hours.
LIMIT = 3e12


@dataclass(frozen=True, slots=True, eq=False)
class Curve(Tabular):
    """Hits by capacity.

    Parameters
    ----------
    residency
        The rule and its conditions.
    capacities
        Slots of every pool, int64 ``[capacities]``, ascending.
    hits
        int64 ``[layers, capacities]``; of a pool that layers share, those of each layer's lookups.
    accesses
        int64 ``[layers]``.
    seconds
        The pass took, of this process's CPU time.
    """

    residency: Residency
    capacities: Ints
    hits: Ints
    accesses: Ints
    seconds: float

    @property
    def hit_ratio(self) -> npt.NDArray[np.float64]:
        """Hits over accesses of all layers, ``[capacities]``."""
        ratio: npt.NDArray[np.float64] = self.hits.sum(axis=0) / max(int(self.accesses.sum()), 1)
        return ratio

    @property
    def layer_hit_ratio(self) -> npt.NDArray[np.float64]:
        """Hits over accesses of each layer, ``[layers, capacities]``."""
        ratio: npt.NDArray[np.float64] = self.hits / np.maximum(self.accesses, 1)[:, None]
        return ratio

    def columns(self) -> dict[str, Any]:
        """A row per capacity."""
        return {
            "capacity": self.capacities,
            "hits": self.hits.sum(axis=0),
            "accesses": np.full(len(self.capacities), int(self.accesses.sum())),
            "hit_ratio": self.hit_ratio,
        }

    def _repr_html_(self) -> str:
        objects = max(int(self.capacities[-1]), 1)
        places = sorted({max(1, round(part * objects)) for part in _PARTS} & set(self.capacities.tolist()))
        ratio = dict(zip(self.capacities.tolist(), self.hit_ratio.tolist(), strict=True))
        return block(
            f"{self.residency.rule}: hits by capacity, {int(self.accesses.sum()):,} accesses",
            table(
                ["part of the pool", "slots", "hit ratio"],
                [(f"{c / objects:.1%}", c, ratio[c]) for c in places],
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        r = self.residency
        return {
            "policy": r.rule,
            "conditions": {n: getattr(r, n) for n in ("pool", "lookup", "cold", "reset", "start")},
            "capacities": self.capacities.tolist(),
            "hits": self.hits.sum(axis=0).tolist(),
            "accesses": int(self.accesses.sum()),
            "hit_ratio": self.hit_ratio.tolist(),
            "layers": self.layer_hit_ratio.tolist(),
            "seconds": self.seconds,
        }


def curve(steps: Steps, residency: Residency) -> Curve:
    """Hits of every capacity from 0 to all experts of a pool.

    Parameters
    ----------
    steps
        Accesses.
    residency
        Rule ``lru`` or ``belady``, from an empty start; every pool, lookup, cold and reset.

    Raises
    ------
    ConfigError
        For other rules and starts, and for Belady's rule in a pool of very many lookups and objects, whose
        stack is searched entry by entry: `moesim.residency.replay` has the hits of any one capacity.

    Examples
    --------
    The second token finds expert 1 below two others, and expert 0 on top.

    >>> import numpy as np
    >>> from moesim.policy import token_steps
    >>> from moesim.trace import RoutingTrace
    >>> ids = np.array([[[1]], [[2]], [[0]], [[0]], [[1]]], np.uint8)
    >>> zeros = np.zeros(5, np.int32)
    >>> trace = RoutingTrace(ids, zeros, 4, (0,), np.arange(5, dtype=np.int32), np.ones(5, np.int8))
    >>> curve(token_steps(trace), Residency("lru")).hits.tolist()
    [[0, 1, 1, 2, 2]]
    >>> curve(token_steps(trace), Residency("belady")).hits.tolist()
    [[0, 1, 2, 2, 2]]
    """
    from moesim.residency.kernels.stack_lru import lru_depths, words_of
    from moesim.residency.kernels.stack_opt import next_uses, opt_depths

    layers, experts = steps.layers, steps.num_experts
    shared, batch = residency.pool == "global", residency.lookup == "token_batch"
    objects = experts * layers if shared else experts
    _check(residency, steps.accesses * objects)
    began = time.process_time()
    fresh = fresh_steps(steps, residency.reset)
    depth, first = np.zeros((2, layers, objects), np.int64)
    if residency.rule == "lru":
        ids, words = steps.experts, words_of(objects)
        lru_depths(ids, steps.starts, fresh, layers, experts, shared, batch, words, depth, first)
    else:
        after = next_uses(steps.experts, steps.starts, fresh, layers, experts)
        opt_depths(steps.starts, after, fresh, layers, objects, shared, batch, depth, first)
    hits = np.zeros((layers, objects + 1), np.int64)
    np.cumsum(depth, axis=1, out=hits[:, 1:])
    if residency.cold == "free":
        hits += first.sum(axis=1)[:, None]
    elif residency.cold == "fill":
        # A first access finds a free slot where the pool is larger than what it has seen.
        hits[:, 1:] += np.cumsum(first, axis=1)
    accesses = np.diff(steps.starts).reshape(-1, layers).sum(axis=0)
    seconds = time.process_time() - began
    return Curve(residency, np.arange(objects + 1), hits, accesses, seconds)


def fresh_steps(steps: Steps, reset: str) -> npt.NDArray[np.bool_]:
    """Whether pools are emptied before each step, bool ``[steps]``: when another request's begins."""
    fresh = np.zeros(steps.num_steps, np.bool_)
    if reset == "request":
        fresh[1:] = steps.request[1:] != steps.request[:-1]
    return fresh


def _check(residency: Residency, work: float) -> None:
    faults = []
    if residency.rule not in CURVES:
        faults.append(
            Fault(
                "has no curve in one pass; its caches do not nest", "rule", residency.rule, ", ".join(CURVES)
            )
        )
    if residency.pool == "device":
        faults.append(Fault("has no curve", "pool", residency.pool, "layer, global"))
    if residency.start != "empty":
        faults.append(Fault("has no curve", "start", residency.start, "empty"))
    if residency.rule == "belady" and work > LIMIT:
        faults.append(
            Fault(
                "would take hours for all capacities; replay some", "accesses * objects", work, f"{LIMIT:g}"
            )
        )
    if faults:
        raise ConfigError(faults)
