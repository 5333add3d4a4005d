"""Markov predictors: what follows a layer's choice, in the next layers or at the next token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.policy.guesses import Guesses
from moesim.policy.predictors.common import (
    Floats,
    Ints,
    best,
    learning_steps,
    packed,
    positive,
    share_of_cell,
    table,
    unfitted,
)
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace

Starts = npt.NDArray[np.int64]

#: Entries of a table of pairs, 4 bytes each.
_LARGEST = 256_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Markov:
    """P(expert of a later layer | expert of this layer), or of this layer and the one before.

    A cell's guess for expert e is the sum over its experts c of share(c) P(e | c); with `order` 2 over pairs
    of an expert of this layer and one of the layer before, and where a pair was never seen over c alone.
    EdgeMoE (Yi et al. 2023, arXiv 2308.14352) preloads by the last two layers' choice; its experts are top-1,
    where a token has one pair.

    Parameters
    ----------
    width
        Guesses per target cell.
    distance
        Layers ahead, each with a table of its own; the step's last layer is the end.
    order
        1, or 2 with `distance` 1.
    first
        P, float32 ``[distance, layers, experts, experts]``, from `fit`.
    second
        The same of pairs, float32 ``[layers, experts, experts, experts]``: layer before, this, next.
    """

    width: int
    distance: int = 1
    order: int = 1
    first: Floats | None = None
    second: Floats | None = None

    def __post_init__(self) -> None:
        positive(width=self.width, distance=self.distance)
        if self.order not in (1, 2) or (self.order == 2 and self.distance != 1):
            raise ConfigError(Fault("is not known", "order", self.order, "1, or 2 with distance 1"))

    def fit(self, train: RoutingTrace) -> Markov:
        """Count pairs, or triples, of the training trace's tokens."""
        steps = learning_steps(train)
        layers, experts = steps.layers, steps.num_experts
        size = layers * experts**2 * (experts if self.order == 2 else self.distance)
        if size > _LARGEST:
            raise ConfigError(
                Fault(f"takes a table of {size:,} entries", "predictor", "markov", f"{_LARGEST:,}")
            )
        first = np.zeros((self.distance, layers, experts, experts), np.float32)
        _count_pairs(steps.experts, steps.starts, layers, first)
        second = None
        if self.order == 2:
            second = np.zeros((layers, experts, experts, experts), np.float32)
            _count_triples(steps.experts, steps.starts, layers, second)
            second /= np.maximum(second.sum(axis=3, keepdims=True), 1.0)
        first /= np.maximum(first.sum(axis=3, keepdims=True), 1.0)
        return replace(self, first=first, second=second)

    def guess(self, steps: Steps) -> Guesses:
        """At every cell of the layers that follow in its step."""
        if self.first is None:
            raise unfitted("markov")
        experts, scores = table(len(steps.starts) - 1, self.distance, min(self.width, steps.num_experts))
        share, layers = share_of_cell(steps), steps.layers
        if self.second is None:
            _guess_pairs(steps.experts, share, steps.starts, layers, self.first, experts, scores)
        else:
            pair = self.second
            _guess_triples(steps.experts, share, steps.starts, layers, self.first, pair, experts, scores)
        return packed(experts, scores)


@dataclass(frozen=True, slots=True, eq=False)
class NextToken:
    """P(expert of a layer at the next token | expert of the same layer now), a layer's own step ahead.

    Parameters
    ----------
    width
        Guesses per target cell.
    probability
        float32 ``[layers, experts, experts]``, from `fit`.
    """

    width: int
    probability: Floats | None = None

    def __post_init__(self) -> None:
        positive(width=self.width)

    def fit(self, train: RoutingTrace) -> NextToken:
        """Count over neighbours of the same request."""
        steps = learning_steps(train)
        counts = np.zeros((steps.layers, steps.num_experts, steps.num_experts), np.float32)
        _count_tokens(steps.experts, steps.starts, steps.request, steps.layers, counts)
        return replace(self, probability=counts / np.maximum(counts.sum(axis=2, keepdims=True), 1.0))

    def guess(self, steps: Steps) -> Guesses:
        """At every cell of the same layer one step later."""
        if self.probability is None:
            raise unfitted("next-token")
        cells, layers = len(steps.starts) - 1, steps.layers
        experts, scores = table(cells, 1, min(self.width, steps.num_experts))
        share = share_of_cell(steps)
        _guess_tokens(steps.experts, share, steps.starts, layers, self.probability, experts, scores)
        return packed(experts, scores, first=layers)


@compiled
def _count_pairs(ids: Ints, starts: Starts, layers: int, first: Floats) -> None:
    for cell in range(len(starts) - 1):
        layer = cell % layers
        for h in range(min(first.shape[0], layers - 1 - layer)):
            for a in range(starts[cell], starts[cell + 1]):
                for b in range(starts[cell + 1 + h], starts[cell + 2 + h]):
                    first[h, layer, ids[a], ids[b]] += 1.0


@compiled
def _count_triples(ids: Ints, starts: Starts, layers: int, second: Floats) -> None:
    for cell in range(1, len(starts) - 2):
        layer = cell % layers
        if layer == 0 or layer == layers - 1:
            continue
        for a in range(starts[cell - 1], starts[cell]):
            for b in range(starts[cell], starts[cell + 1]):
                for c in range(starts[cell + 1], starts[cell + 2]):
                    second[layer, ids[a], ids[b], ids[c]] += 1.0


@compiled
def _count_tokens(ids: Ints, starts: Starts, request: Ints, layers: int, counts: Floats) -> None:
    for cell in range(len(starts) - 1 - layers):
        step = cell // layers
        if request[step] != request[step + 1]:
            continue
        for a in range(starts[cell], starts[cell + 1]):
            for b in range(starts[cell + layers], starts[cell + layers + 1]):
                counts[cell % layers, ids[a], ids[b]] += 1.0


@compiled
def _guess_pairs(
    ids: Ints, share: Floats, starts: Starts, layers: int, first: Floats, experts: Ints, scores: Floats
) -> None:
    score = np.zeros(first.shape[3], np.float32)
    for cell in range(len(starts) - 1):
        layer = cell % layers
        for h in range(min(first.shape[0], layers - 1 - layer)):
            score[:] = 0.0
            for a in range(starts[cell], starts[cell + 1]):
                score += share[a] * first[h, layer, ids[a]]
            best(score, experts[cell, h], scores[cell, h])


@compiled
def _guess_triples(
    ids: Ints,
    share: Floats,
    starts: Starts,
    layers: int,
    first: Floats,
    second: Floats,
    experts: Ints,
    scores: Floats,
) -> None:
    score = np.zeros(first.shape[3], np.float32)
    for cell in range(len(starts) - 1):
        layer = cell % layers
        if layer == layers - 1:
            continue
        score[:] = 0.0
        for b in range(starts[cell], starts[cell + 1]):
            seen = np.float32(0.0)
            if layer > 0:
                for a in range(starts[cell - 1], starts[cell]):
                    pair = second[layer, ids[a], ids[b]]
                    if pair.sum() > 0.0:
                        score += share[a] * share[b] * pair
                        seen += share[a]
            if seen < 1.0:
                score += share[b] * (np.float32(1.0) - seen) * first[0, layer, ids[b]]
        best(score, experts[cell, 0], scores[cell, 0])


@compiled
def _guess_tokens(
    ids: Ints, share: Floats, starts: Starts, layers: int, chance: Floats, experts: Ints, scores: Floats
) -> None:
    score = np.zeros(chance.shape[2], np.float32)
    for cell in range(len(starts) - 1 - layers):
        score[:] = 0.0
        for a in range(starts[cell], starts[cell + 1]):
            score += share[a] * chance[cell % layers, ids[a]]
        best(score, experts[cell, 0], scores[cell, 0])
