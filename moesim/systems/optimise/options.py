"""What each slot can be: the plug-ins and parameters that the search tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.policy import (
    Batcher,
    Composition,
    Constant,
    Executor,
    Placement,
    Precision,
    Predictor,
    Residency,
    TokenByToken,
    Transfer,
    token_steps,
)
from moesim.policy.batchers import Batches, Continuous, UnionMinimising
from moesim.policy.gates import EqualWeights
from moesim.policy.placements import MeasuredQuota, Popular
from moesim.policy.precisions import RankedPrecision
from moesim.policy.predictors import ActivationMatrices, ExpertMaps, Markov, NextGate, NextToken, RecentScores
from moesim.policy.predictors import Popular as PopularGuess
from moesim.policy.published import ADAPMOE_NEXT_GATE
from moesim.residency import curve
from moesim.trace.types import RoutingTrace

#: Requests that a batch may hold.
BATCHES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of one slot.

    Parameters
    ----------
    slot
        As in `SLOTS`; ``memory`` sets residency and placement together.
    changes
        Fields of the composition.
    """

    slot: str
    changes: Mapping[str, Any]

    def on(self, composition: Composition) -> Composition:
        """The composition with this choice."""
        return replace(composition, **self.changes)


def lru_misses(train: RoutingTrace) -> npt.NDArray[np.float64]:
    """Misses of each layer by its slots under least recently used, ``[layers, experts + 1]``."""
    found = curve(token_steps(train), Residency("lru"))
    return np.asarray(found.accesses[:, None] - found.hits, np.float64)


def options_of(
    trace: RoutingTrace,
    *,
    batch: bool = False,
    lossy: bool = False,
    assumed: bool = True,
    near: bool = False,
    requests: int = 1,
    alone: Batcher | None = None,
) -> dict[str, tuple[Option, ...]]:
    """Options of every slot that is searched, in the order in which they are tried.

    Parameters
    ----------
    trace
        Its shape, and whether it has router weights.
    batch
        Whether requests may share steps.
    lossy
        Whether what the model computes may change: experts put off a layer, fewer bits, by `Executor` and
        precision. What that costs in quality is not known here.
    assumed
        Whether the next layer's gate, applied a layer early, may predict: a trace does not hold what it would
        say, so its recall is that published for Mixtral.
    near
        Whether the box has a near-data unit.
    requests
        Requests of the part that is scored; a batch holds no more than half of them.
    alone
        How one request at a time is served; token by token by default.
    """
    found = {
        "memory": _memory(weights=trace.topk_weights is not None),
        "executor": _executors(lossy=lossy, near=near, top_k=trace.top_k),
        "prefetch": _prefetches(trace, assumed=assumed),
    }
    if batch:
        found["batcher"] = _batchers(requests, alone or TokenByToken())
    if lossy:
        found["precision"] = _precisions(trace)
    return found


def _memory(*, weights: bool) -> tuple[Option, ...]:
    """Victim rules and pools, each from an empty start and from a placement that suits it.

    Rules that read router weights take equal ones where the trace has none.
    """
    pairs: list[tuple[Residency, Placement | None]] = []
    popular = Popular(across=False)
    for rule, parameters in (("lru", {}), ("lfu", {}), ("mrs", {"alpha": 0.5})):
        residency = Residency(rule, lookup="token_batch", parameters=parameters)
        pairs += [(residency, None), (residency, popular)]
    pairs.append((Residency("lru", lookup="token_batch"), MeasuredQuota(lru_misses)))
    for rule in ("lru", "lfu", "p-freq"):
        pairs.append((Residency(rule, pool="global", lookup="token_batch", start="popular"), None))
    for placement in (Popular(), popular):
        pairs.append((Residency("static", lookup="token_batch"), placement))
    found = []
    for kept, placed in pairs:
        changes: dict[str, object] = {"residency": kept, "placement": placed}
        if not weights and kept.rule in ("mrs", "p-freq"):
            changes["gate"] = EqualWeights()
        found.append(Option("memory", changes))
    return tuple(found)


def _executors(*, lossy: bool, near: bool, top_k: int) -> tuple[Option, ...]:
    kinds = ["gpu", "mask", "cheapest", "cheapest-max", "three-clock", "balanced"]
    if near:
        kinds += ["split", "prefix"]
    found = [Executor(kind) for kind in kinds]
    if lossy:
        found += [Executor("defer", {"deferred": d}) for d in range(1, top_k)]
    return tuple(Option("executor", {"executor": executor}) for executor in found)


def _prefetches(trace: RoutingTrace, *, assumed: bool) -> tuple[Option, ...]:
    found: list[tuple[Predictor | None, Transfer]] = [(None, Transfer())]
    k, experts = trace.top_k, trace.num_experts
    far = min(3, max(trace.topk_ids.shape[1] - 1, 1))
    for width in sorted({max(k // 2, 1), k, min(2 * k, experts)}):
        one = Transfer(width=width)
        found += [
            (Markov(width), one),
            (RecentScores(width), one),
            (NextToken(width), one),
            (ActivationMatrices(width), one),
            (ExpertMaps(width), one),
            (PopularGuess(width), one),
        ]
        if assumed:
            found.append((NextGate(width, fmean(ADAPMOE_NEXT_GATE)), one))
        if far > 1:
            found.append((Markov(width, far), Transfer(width=width, distance=far, order="near")))
            found.append((RecentScores(width, far), Transfer(width=width, distance=far, order="near")))
    return tuple(Option("prefetch", {"predictor": p, "transfer": t}) for p, t in found)


def _batchers(requests: int, alone: Batcher) -> tuple[Option, ...]:
    found = [alone]
    for size in BATCHES:
        if 2 * size <= max(requests, 2):
            found += [Batches(size), Continuous(size)]
            if size > 2:
                found.append(UnionMinimising(size // 2, "swap"))
    return tuple(Option("batcher", {"batcher": batcher}) for batcher in found)


def _precisions(trace: RoutingTrace) -> tuple[Option, ...]:
    found: list[Precision | None] = [None, Constant(8.0), Constant(4.0)]
    if trace.topk_weights is not None:
        found.append(RankedPrecision())
    return tuple(Option("precision", {"precision": precision}) for precision in found)
