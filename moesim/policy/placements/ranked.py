"""Placements that rank all experts of all layers and keep the first: popularity, masks, whole layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.trace.types import RoutingTrace, count_ids


class Ranked(ABC):
    """Experts in the order in which slots are given to them."""

    @abstractmethod
    def rank(self, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """Place of every expert in that order, from 0 on, int64 ``[layers, experts]``."""

    def fitting(self, slots: int, train: RoutingTrace) -> int:
        """How many of `slots` are used."""
        return int(min(slots, train.topk_ids.shape[1] * train.num_experts))

    def quota(self, slots: int, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """Slots of each layer, int64 ``[layers]``: as many as have an expert among the first."""
        if slots < 0:
            raise ConfigError(Fault("is no number of slots", "slots", slots, "at least 0"))
        return np.asarray((self.rank(train) < self.fitting(slots, train)).sum(axis=1), np.int64)

    def resident(self, quota: npt.NDArray[np.int64], train: RoutingTrace) -> npt.NDArray[np.bool_]:
        """The first of each layer, bool ``[layers, experts]``."""
        return first_of(self.rank(train), quota)


def first_of(rank: npt.NDArray[np.int64], quota: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The `quota` experts of least rank in each layer, bool ``[layers, experts]``.

    Examples
    --------
    >>> first_of(np.array([[2, 0, 1], [1, 2, 0]]), np.array([1, 2])).tolist()
    [[False, True, False], [True, False, True]]
    """
    within = np.argsort(np.argsort(rank, axis=1, kind="stable"), axis=1)
    return np.asarray(within < np.asarray(quota)[:, None])


def by_count(train: RoutingTrace) -> npt.NDArray[np.int64]:
    """How often each expert is chosen, int64 ``[layers, experts]``."""
    return count_ids(train.topk_ids, train.num_experts)


def _ranks(keys: npt.NDArray[np.int64 | np.float64]) -> npt.NDArray[np.int64]:
    """Place of every entry by rising key; equal ones as stored."""
    ranks = np.empty(keys.size, np.int64)
    ranks[np.argsort(keys.ravel(), kind="stable")] = np.arange(keys.size)
    return ranks.reshape(keys.shape)


@dataclass(frozen=True, slots=True)
class Popular(Ranked):
    """The most popular experts first (Fiddler; ``frequency`` of ktransformers).

    Parameters
    ----------
    across
        Over all layers at once, so that a layer whose load is uneven has more; else as many in each layer.
    """

    across: bool = True

    def rank(self, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """By falling count; without `across` by place in the layer, layer by layer."""
        counts = by_count(train)
        if self.across:
            return _ranks(-counts)
        within = np.argsort(np.argsort(-counts, axis=1, kind="stable"), axis=1)
        return _ranks(within * len(counts) + np.arange(len(counts))[:, None])


@dataclass(frozen=True, slots=True)
class Random(Ranked):
    """Experts drawn at random over all layers (Fiddler's yardstick; ``random`` of ktransformers).

    Parameters
    ----------
    seed
        Of the draw; ktransformers uses 42 with another generator.
    """

    seed: int = 0

    def rank(self, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """A permutation."""
        shape = train.topk_ids.shape[1], train.num_experts
        order = np.random.default_rng(self.seed).permutation(shape[0] * shape[1])
        return order.astype(np.int64).reshape(shape)


@dataclass(frozen=True, slots=True)
class RoundRobin(Ranked):
    """Expert 0 of every layer, then expert 1 of every layer... (``uniform`` of ktransformers)."""

    def rank(self, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """By number, then layer."""
        layers, experts = train.topk_ids.shape[1], train.num_experts
        return np.asarray(np.arange(layers)[:, None] + layers * np.arange(experts)[None, :])


@dataclass(frozen=True, slots=True)
class FrontLoading(Ranked):
    """All experts of the first layer, then of the second... (``front-loading`` of ktransformers)."""

    def rank(self, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """By layer, then number."""
        layers, experts = train.topk_ids.shape[1], train.num_experts
        return np.arange(layers * experts).reshape(layers, experts)


@dataclass(frozen=True, slots=True)
class WholeLayers(Ranked):
    """As many layers as fit with all their experts, and nothing of the others.

    Parameters
    ----------
    last
        The last layers are resident: llama.cpp's ``-ncmoe N`` keeps the experts of the first N on the CPU.
        Else the first ones, with which SE-MoE's ring starts.
    """

    last: bool = True

    def rank(self, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """By layer, from the resident end."""
        layers, experts = train.topk_ids.shape[1], train.num_experts
        found = np.arange(layers * experts).reshape(layers, experts)
        return np.ascontiguousarray(found[::-1]) if self.last else found

    def fitting(self, slots: int, train: RoutingTrace) -> int:
        """Whole layers only."""
        return int(min(slots // train.num_experts, train.topk_ids.shape[1])) * train.num_experts
