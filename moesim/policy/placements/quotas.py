"""Placements that deal slots to layers by what each layer loses; the popular ones of each are resident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy.placements.allocate import allocate, expected_misses
from moesim.policy.placements.ranked import by_count, first_of
from moesim.trace.types import RoutingTrace

Array = npt.NDArray[np.float64]


def _popular(quota: npt.NDArray[np.int64], train: RoutingTrace) -> npt.NDArray[np.bool_]:
    return first_of(-by_count(train), quota)


def _least(slots: int, layers: int) -> int:
    """At least one slot for each layer where there are as many."""
    return 1 if slots >= layers else 0


@dataclass(frozen=True, slots=True)
class AdapMoEQuota:
    """AdapMoE: the sum of `expected_misses` over layers is least, with at least one slot for each.

    Parameters
    ----------
    single
        Part of tokens that take one expert, one number or one per layer.
    accuracy
        Part of experts that are predicted in time, one number or one per layer.
    """

    single: float | Sequence[float] = 0.0
    accuracy: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        faults = []
        for name in ("single", "accuracy"):
            values = np.atleast_1d(np.asarray(getattr(self, name), float))
            if not ((values >= 0) & (values <= 1)).all():
                faults.append(Fault("is no share", f"AdapMoE quota.{name}", getattr(self, name), "0 to 1"))
        if faults:
            raise ConfigError(faults)

    def quota(self, slots: int, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """Slots of each layer, int64 ``[layers]``."""
        layers = train.topk_ids.shape[1]
        columns, faults = [], []
        for name in ("single", "accuracy"):
            values = np.atleast_1d(np.asarray(getattr(self, name), float))
            if len(values) not in (1, layers):
                faults.append(
                    Fault(
                        "has another number of layers", f"AdapMoE quota.{name}", len(values), f"1 or {layers}"
                    )
                )
            columns.append(np.resize(values, layers))
        if faults:
            raise ConfigError(faults)
        curves = expected_misses(train.num_experts, columns[0], columns[1])
        return allocate(curves, slots, _least(slots, layers))

    def resident(self, quota: npt.NDArray[np.int64], train: RoutingTrace) -> npt.NDArray[np.bool_]:
        """The most popular of each layer, bool ``[layers, experts]``."""
        return _popular(quota, train)


@dataclass(frozen=True, slots=True)
class MeasuredQuota:
    """AdapMoE's quota with measured curves: the sum of each layer's misses on the training trace is least.

    Parameters
    ----------
    curves
        Misses of each layer by its slots, ``[layers, experts + 1]``, from a trace: what
        `moesim.residency.curve` counts for the rule that will be used.
    """

    curves: Callable[[RoutingTrace], Array]

    def quota(self, slots: int, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """Slots of each layer, int64 ``[layers]``."""
        return allocate(self.curves(train), slots, _least(slots, train.topk_ids.shape[1]))

    def resident(self, quota: npt.NDArray[np.int64], train: RoutingTrace) -> npt.NDArray[np.bool_]:
        """The most popular of each layer, bool ``[layers, experts]``."""
        return _popular(quota, train)


@dataclass(frozen=True, slots=True)
class DemandQuota:
    """ExpertFlow: slots in proportion to the experts that a batch is predicted to need of each layer.

    Demand is the mean number of distinct experts over batches of the training trace; its shares of the slots
    are rounded by largest remainders, with at least one slot and at most all experts for each layer.

    Parameters
    ----------
    tokens
        Tokens of a batch, in a row.
    """

    tokens: int = 1

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError(Fault("is too small", "demand quota.tokens", self.tokens, "at least 1"))

    def quota(self, slots: int, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """Slots of each layer, int64 ``[layers]``."""
        layers, most = train.topk_ids.shape[1], train.num_experts
        slots = min(slots, layers * most)
        demand = _distinct(train.topk_ids, most, self.tokens)
        least = _least(slots, layers)
        given = np.full(layers, least, np.int64)
        # Layers that are full give what is over to the others.
        while (left := slots - int(given.sum())) > 0:
            share = np.where(given < most, demand, 0.0)
            if not share.sum():
                share = (given < most).astype(float)
            share = share / share.sum() * left
            whole = np.minimum(np.floor(share).astype(np.int64), most - given)
            if not whole.any():
                rest = np.where(given < most, share, -1.0)
                whole[np.argsort(-rest, kind="stable")[: min(left, int((rest >= 0).sum()))]] = 1
            given += whole
        return given

    def resident(self, quota: npt.NDArray[np.int64], train: RoutingTrace) -> npt.NDArray[np.bool_]:
        """The most popular of each layer, bool ``[layers, experts]``."""
        return _popular(quota, train)


@compiled
def _distinct(ids: npt.NDArray[np.unsignedinteger], num_experts: int, tokens: int) -> Array:
    """Mean number of distinct experts of each layer over batches of rows, ``[layers]``."""
    rows, layers, top_k = ids.shape
    stamp = np.full((layers, num_experts), -1, np.int64)
    total = np.zeros(layers)
    batches = 0
    for begin in range(0, rows, tokens):
        for row in range(begin, min(begin + tokens, rows)):
            for layer in range(layers):
                for j in range(top_k):
                    if stamp[layer, ids[row, layer, j]] != batches:
                        stamp[layer, ids[row, layer, j]] = batches
                        total[layer] += 1
        batches += 1
    return total / max(batches, 1)
