"""Gates: which of a token's experts are used, and whether others take their place.

Rank 1 is the expert with the largest router weight; where a trace has no weights only `FewerExperts` and
`CapacityDrop` can be asked, and the stored order counts as the rank. A token keeps at least its first expert
unless a gate says otherwise.

Rules that change with what is resident (cache-aware rerouting) are left out: a gate here sees the trace
alone, so that every system replays the same accesses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.policy.published import ADAPMOE_SENSITIVITY, MC_MOE_BETA
from moesim.policy.selected import Selected
from moesim.trace.types import RoutingTrace

Floats = npt.NDArray[np.float64]


def shares(trace: RoutingTrace, gate: str) -> Floats:
    """Router weights of each token and layer, normalised to sum 1, float64 ``[tokens, layers, top_k]``.

    Raises
    ------
    ConfigError
        When the trace has ids alone.
    """
    if trace.topk_weights is None:
        message = "needs router weights, and the trace has ids alone; record it with weights"
        raise ConfigError(Fault(message, "gate", gate))
    weights = trace.topk_weights.astype(np.float64)
    weights /= np.maximum(weights.sum(axis=2, keepdims=True), np.finfo(np.float64).tiny)
    return weights


def ranked(values: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
    """Slots from the largest value to the smallest, ties in stored order, and the values in that order."""
    order = np.argsort(-values, axis=2, kind="stable")
    return order, np.take_along_axis(values, order, 2)


def _unrank(kept: npt.NDArray[np.bool_], order: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """A mask by rank as a mask by stored slot."""
    slots = np.empty_like(kept)
    np.put_along_axis(slots, order, kept, 2)
    return slots


def by_depth(values: Sequence[float], layers: int, log: bool = False) -> Floats:
    """Per-layer figures of one model stretched over another's layers, by relative depth.

    Parameters
    ----------
    values
        Figures of the model they were measured on, first layer first; one stands for all.
    layers
        Layers to stretch over.
    log
        Whether the logarithm is interpolated, for figures over several orders of magnitude.

    Examples
    --------
    >>> by_depth([1.0, 3.0], 3).tolist()
    [1.0, 2.0, 3.0]
    """
    known = np.asarray(values, np.float64)
    if len(known) in (1, layers):
        return np.broadcast_to(known, layers).copy()
    at = np.linspace(0, len(known) - 1, layers)
    if log:
        return np.exp(np.interp(at, np.arange(len(known)), np.log(known)))
    return np.interp(at, np.arange(len(known)), known)


@dataclass(frozen=True, slots=True)
class EqualWeights:
    """Lets all through, and gives a trace of ids alone equal weights for rules that read them."""

    def select(self, trace: RoutingTrace) -> Selected:
        """The trace itself where it has weights."""
        if trace.topk_weights is not None:
            return Selected(trace)
        weights = np.full(trace.topk_ids.shape, 1.0 / trace.topk_ids.shape[2], np.float16)
        return Selected(replace(trace, topk_weights=weights))


@dataclass(frozen=True, slots=True)
class FewerExperts:
    """Every token keeps its `active` first experts (Yang et al. 2025, arXiv 2505.03531).

    Parameters
    ----------
    active
        Experts that are left, at least 1.
    """

    active: int

    def __post_init__(self) -> None:
        if self.active < 1:
            raise ConfigError(Fault("is too small", "active", self.active, "1 or more"))

    def select(self, trace: RoutingTrace) -> Selected:
        """By weight where there are weights, else by stored order."""
        shape = trace.topk_ids.shape
        kept = np.broadcast_to(np.arange(shape[2]) < self.active, shape)
        if trace.topk_weights is not None:
            kept = _unrank(kept, ranked(trace.topk_weights.astype(np.float64))[0])
        return Selected(trace, kept)


@dataclass(frozen=True, slots=True)
class AdapMoE:
    """Sensitivity-based gating (Zhong et al. 2024, arXiv 2408.10284), at batch 1.

    The loss rises by about F_l (1 - a)^2 when the experts that carry the share a of the router weight are
    kept. Slots are dropped from the last rank on while the share dropped, 1 - a, stays below sqrt(T / F_l);
    with two experts that is the rule of the released code, w2 < sqrt(T / F_l).

    Parameters
    ----------
    threshold
        T, 0.005 in the released ``run.py``.
    sensitivities
        F_l; those published are of Mixtral's 32 layers, for another model they are stretched by relative
        depth, an assumption.
    released
        The released code takes the index of the larger weight among the two that are left as the expert's
        id (``torch.topk(routing_weights, 1)``), so that a token that loses an expert always goes to expert
        0. True repeats that.
    """

    threshold: float = 0.005
    sensitivities: tuple[float, ...] = ADAPMOE_SENSITIVITY
    released: bool = False

    def select(self, trace: RoutingTrace) -> Selected:
        """First rank always; further ones by the rule."""
        order, weights = ranked(shares(trace, "AdapMoE"))
        limit = np.sqrt(self.threshold / by_depth(self.sensitivities, weights.shape[1], log=True))
        tail = np.cumsum(weights[..., ::-1], axis=2)[..., ::-1]
        kept = tail >= limit[None, :, None]
        kept[..., 0] = True
        slots = _unrank(kept, order)
        if not self.released:
            return Selected(trace, slots)
        ids = trace.topk_ids.copy()
        alone = slots.sum(axis=2, keepdims=True) == 1
        ids[slots & alone & (weights.shape[2] > 1)] = 0
        return Selected(replace(trace, topk_ids=ids), slots)


@dataclass(frozen=True, slots=True)
class TopGap:
    """Adaptive gating (Li et al. 2023, arXiv 2310.07188): one expert where the first leads by `gap`.

    Parameters
    ----------
    gap
        T on the difference of the two largest normalised weights; 0.1 in the paper, 0.2 for answers to
        questions.
    """

    gap: float = 0.1

    def select(self, trace: RoutingTrace) -> Selected:
        """The first rank, and the others where the lead is at most `gap`."""
        order, weights = ranked(shares(trace, "TopGap"))
        if weights.shape[2] < 2:
            return Selected(trace)
        pair = weights[..., :2] / np.maximum(weights[..., :2].sum(axis=2, keepdims=True), 1e-300)
        kept = np.broadcast_to((pair[..., 0] - pair[..., 1] <= self.gap)[..., None], weights.shape).copy()
        kept[..., 0] = True
        return Selected(trace, _unrank(kept, order))


@dataclass(frozen=True, slots=True)
class CumulativeSkip:
    """HOBBIT's skip (Tang et al. 2024, arXiv 2411.01433): what ranks behind the share `limit` is left out.

    Parameters
    ----------
    limit
        T2: rank i is skipped when the ranks before it carry more than this share, 0.9.
    """

    limit: float = 0.9

    def select(self, trace: RoutingTrace) -> Selected:
        """Here whether resident or not; as a precision only misses are skipped."""
        order, weights = ranked(shares(trace, "CumulativeSkip"))
        before = np.cumsum(weights, axis=2) - weights
        return Selected(trace, _unrank(before <= self.limit, order))


@dataclass(frozen=True, slots=True)
class SecondRatio:
    """Online dynamic pruning of MC-MoE (Huang et al. 2024, arXiv 2410.06270): drop w_i < beta_l w_1.

    Tokens that attention protects are not known from a trace, so that all can lose experts: more are dropped
    than by the system.

    Parameters
    ----------
    beta
        One per layer; the released figures are Mixtral's, stretched by relative depth elsewhere.
    """

    beta: tuple[float, ...] = MC_MOE_BETA

    def select(self, trace: RoutingTrace) -> Selected:
        """First rank always."""
        order, weights = ranked(shares(trace, "SecondRatio"))
        beta = by_depth(self.beta, weights.shape[1])[None, :, None]
        kept = weights >= beta * weights[..., :1]
        return Selected(trace, _unrank(kept, order))


@dataclass(frozen=True, slots=True)
class ZeroExperts:
    """MoE++ (Jin et al. 2024, arXiv 2410.07348): part of the slots goes to experts without weights.

    The part that stays is tau N_F / (tau N_F + N_Z), N_F feed-forward and N_Z zero-computation experts. Which
    slots those are a trace of another model cannot say; here they are those of the largest weight in their
    layer, and a token may be left with none.

    Parameters
    ----------
    zero
        N_Z, zero, copy and constant experts together; 4 in the paper's models with 8 and 16 experts.
    tau
        How much of the load the feed-forward experts are given, 0.75.
    """

    zero: int = 4
    tau: float = 0.75

    def select(self, trace: RoutingTrace) -> Selected:
        """The part of the slots that carry most weight, layer by layer."""
        weights = shares(trace, "ZeroExperts")
        part = self.tau * trace.num_experts / (self.tau * trace.num_experts + self.zero)
        flat = np.moveaxis(weights, 1, 0).reshape(weights.shape[1], -1)
        count = math.floor(part * flat.shape[1])
        best = np.argsort(-flat, axis=1, kind="stable")[:, :count]
        kept = np.zeros(flat.shape, np.bool_)
        np.put_along_axis(kept, best, True, 1)
        return Selected(trace, np.moveaxis(kept.reshape(flat.shape[0], -1, weights.shape[2]), 0, 1))


def _position(ids: npt.NDArray[np.intp], priority: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """How many slots of the same expert come before each slot, in order of `priority`; 1-D both."""
    order = np.lexsort((priority, ids))
    run = ids[order]
    first = np.flatnonzero(np.r_[True, run[1:] != run[:-1]])
    length = np.diff(np.r_[first, len(run)])
    place = np.empty(len(ids), np.intp)
    place[order] = np.arange(len(ids)) - np.repeat(first, length)
    return place


def _capped(trace: RoutingTrace, group: int, capacity: float, weights: Floats | None) -> Selected:
    """Each expert keeps its first ``capacity x (slots of the group / experts)`` slots, rounded up."""
    tokens, layers, top_k = trace.topk_ids.shape
    kept = np.zeros(trace.topk_ids.shape, np.bool_)
    for start in range(0, tokens, group):
        ids = trace.topk_ids[start : start + group].astype(np.intp)
        limit = math.ceil(capacity * ids.shape[0] * top_k / trace.num_experts)
        for layer in range(layers):
            flat = ids[:, layer].reshape(-1)
            priority = np.arange(len(flat))
            if weights is not None:
                rank = np.argsort(-weights[start : start + group, layer].reshape(-1), kind="stable")
                priority[rank] = np.arange(len(flat))
            kept[start : start + group, layer] = (_position(flat, priority) < limit).reshape(-1, top_k)
    return Selected(trace, kept)


@dataclass(frozen=True, slots=True)
class CapacityDrop:
    """Fixed capacity (GShard, Switch): what exceeds C = ceil(factor k n / E) of a group is dropped.

    Parameters
    ----------
    factor
        Capacity over the mean load.
    group
        Tokens n that are routed together, in stored order; earlier tokens come first.
    """

    factor: float = 1.25
    group: int = 512

    def select(self, trace: RoutingTrace) -> Selected:
        """In the order of positions; a token may be left with none."""
        return _capped(trace, self.group, self.factor, None)


@dataclass(frozen=True, slots=True)
class ExpertChoice:
    """Experts take tokens (Zhou et al. 2022, arXiv 2202.09368): each the best c = n factor k / E of a group.

    Without the scores of all experts only a token's recorded experts can take it, so that experts in low
    demand stay below their capacity.

    Parameters
    ----------
    factor
        Capacity over the mean load; 1 gives each token k experts on average where all are filled.
    group
        Tokens n that are routed together, in stored order.
    """

    factor: float = 1.0
    group: int = 512

    def select(self, trace: RoutingTrace) -> Selected:
        """By weight; a token may be left with none."""
        return _capped(trace, self.group, self.factor, shares(trace, "ExpertChoice"))


@dataclass(frozen=True, slots=True, eq=False)
class AdmissionMask:
    """PreMoe (arXiv 2505.17639): only the experts that a task uses are kept, and the rest is rerouted.

    Parameters
    ----------
    experts
        Experts kept per layer, the heaviest of a trace of the task; weights count where there are any.
    reroute
        Whether a slot of an expert that is gone goes to the heaviest kept one that the token does not have
        yet (the router's next choice is not in a trace), or stays empty.
    heat
        Load of each expert, float64 ``[layers, experts]``, from `fit`.
    """

    experts: int
    reroute: bool = True
    heat: Floats | None = None

    def fit(self, train: RoutingTrace) -> AdmissionMask:
        """With the load of `train`, which shares no request with what is replayed."""
        heat = np.zeros((train.topk_ids.shape[1], train.num_experts))
        for layer in range(len(heat)):
            weights = None if train.topk_weights is None else train.topk_weights[:, layer].ravel()
            heat[layer] = np.bincount(train.topk_ids[:, layer].ravel(), weights, train.num_experts)
        return replace(self, heat=heat)

    def select(self, trace: RoutingTrace) -> Selected:
        """Ids within the admitted experts."""
        if self.heat is None:
            raise ConfigError(Fault("needs a trace of its task to learn from", "gate", "AdmissionMask"))
        order = np.argsort(-self.heat, axis=1, kind="stable")[:, : self.experts]
        admitted = np.zeros(self.heat.shape, np.bool_)
        np.put_along_axis(admitted, order, True, 1)
        layers = np.arange(trace.topk_ids.shape[1])[None, :, None]
        kept = admitted[layers, trace.topk_ids]
        if not self.reroute:
            return Selected(trace, kept)
        ids = trace.topk_ids.astype(np.intp)
        # Slot by slot, each misplaced one takes the heaviest admitted expert that no slot of the token has.
        for slot in range(ids.shape[2]):
            gone = ~kept[..., slot]
            for rank in range(order.shape[1]):
                if not gone.any():
                    break
                candidate = np.broadcast_to(order[:, rank], gone.shape)
                free = gone & ~((ids == candidate[..., None]) & kept).any(axis=2)
                ids[..., slot] = np.where(free, candidate, ids[..., slot])
                kept[..., slot] |= free
                gone &= ~free
        return Selected(replace(trace, topk_ids=ids.astype(trace.topk_ids.dtype)), kept)
