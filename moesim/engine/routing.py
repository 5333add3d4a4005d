"""Where tokens want to go: batches of expert choices, drawn from a trace, from loads, or by an assumption.

A draw holds the choices of each token where that is affordable, else how many tokens chose each expert.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesim.trace.types import DECODE, PREFILL, LoadCounts, RoutingTrace

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Choices (tokens x layers x top_k) up to which single tokens are drawn.
TOKEN_BUDGET = 300_000
#: Orders of the experts that the tokens of a batch take in turn.
SHUFFLES = 32

#: What is assumed of models without a trace: loads as skewed as recorded ones, or all experts alike.
ASSUMED = ("typical", "uniform")
#: Standard deviation of the logarithm of an expert's load, with which log-normal loads let a batch of
#: ``experts / top_k`` tokens hit as many experts as recorded ones do. The median of DeepSeek-V3 0.71 (0.67 to
#: 0.88, six workloads), gpt-oss-20b 0.77, DeepSeek-V2-Lite 0.72 (two tasks) and OLMoE 0.96 (0.41 to 1.00,
#: five domains), by `benchmarks/routing_skew.py`. For a quarter of that batch and for four times as many
#: tokens it is nearly the same, which the exponent of a power law is not.
SKEW = 0.75
#: The same of experts that are few and wide: Mixtral (five domains, 0.12 to 0.19).
SKEW_OF_FEW = 0.16
FEW = 16


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One batch of routing decisions.

    Parameters
    ----------
    ids
        Logical experts ``[tokens, layers, top_k]``, or None when only counts were drawn.
    counts
        Tokens per logical expert ``[layers, num_experts]``.
    tokens
        Tokens of the batch.
    sample
        Some of its tokens, spread evenly, ``[some, layers, top_k]``, where a batch of recorded tokens is too
        large to keep: which experts are chosen together, counts do not tell.
    """

    ids: IntArray | None
    counts: Array
    tokens: int
    sample: IntArray | None = None


class RoutingSource(Protocol):
    """Something that batches of expert choices can be drawn from."""

    @property
    def layers(self) -> int:
        """MoE layers; 1 when all are alike."""

    @property
    def num_experts(self) -> int:
        """Routed experts per layer."""

    @property
    def top_k(self) -> int:
        """Experts per token."""

    def draw(self, tokens: int, phase: int, rng: np.random.Generator) -> Draw:
        """Draw a batch of `tokens` tokens of a phase."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenSource:
    """Batches of tokens of a recorded trace.

    A decode batch mixes tokens of the whole trace, as continuous batching mixes requests; a prefill batch is
    made of runs of neighbouring tokens.
    """

    trace: RoutingTrace

    @property
    def layers(self) -> int:
        """MoE layers of the trace."""
        return len(self.trace.moe_layer_ids)

    @property
    def num_experts(self) -> int:
        """Routed experts per layer."""
        return self.trace.num_experts

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return self.trace.top_k

    def draw(self, tokens: int, phase: int, rng: np.random.Generator) -> Draw:
        """Draw rows of the trace, of the wanted phase if it was recorded."""
        of_phase = np.flatnonzero(self.trace.phase == phase)
        pool = of_phase if len(of_phase) else np.arange(self.trace.num_tokens)
        rows = _mixed(pool, tokens, rng) if phase == DECODE else _runs(pool, tokens, rng)
        ids = self.trace.topk_ids[rows].astype(np.int64)
        counts = _count(ids, self.num_experts)
        if ids.size <= TOKEN_BUDGET:
            return Draw(ids, counts, tokens)
        some = max(1, TOKEN_BUDGET // (ids.size // tokens))
        return Draw(None, counts, tokens, ids[np.arange(some) * tokens // some])


@dataclass(frozen=True, slots=True, eq=False)
class LoadSource:
    """Batches that follow recorded loads: each expert is chosen with its share, independently of the others.

    Token-to-token and layer-to-layer correlation is not in the loads, so neither is it in the batches.
    """

    inclusion: Array
    top_k: int

    @classmethod
    def of(cls, loads: LoadCounts, top_k: int) -> LoadSource:
        """Inclusion probabilities, ``top_k x share`` and at most 1, float64 ``[layers, num_experts]``.

        A layer without load counts as uniform.
        """
        totals = loads.totals
        empty = totals.sum(axis=1, keepdims=True) == 0
        share = np.where(empty, 1.0, totals)
        return cls(_inclusion(share, top_k), top_k)

    @property
    def layers(self) -> int:
        """MoE layers."""
        return int(self.inclusion.shape[0])

    @property
    def num_experts(self) -> int:
        """Routed experts per layer."""
        return int(self.inclusion.shape[1])

    def draw(self, tokens: int, phase: int, rng: np.random.Generator) -> Draw:  # noqa: ARG002 - same for both
        """Draw `top_k` distinct experts per token, each with its probability (systematic sampling).

        Experts are met in an order that depends on their loads and the generator, never on their labels.
        """
        layers, experts = self.inclusion.shape
        single = tokens * layers * self.top_k <= TOKEN_BUDGET
        if single:
            # One order would always choose the same experts together: tokens take several in turn.
            shuffles = rng.permuted(np.tile(np.arange(experts), (min(tokens, SHUFFLES), 1)), axis=1)
            turn = np.arange(tokens) % len(shuffles)
        if single and np.ptp(self.inclusion) == 0.0:
            points = rng.random((tokens, layers))[:, :, None] + np.arange(self.top_k)
            places = np.minimum((points * (experts / self.top_k)).astype(np.int64), experts - 1)
            ids = shuffles[turn[:, None, None], places]
            return Draw(ids, _count(ids, experts), tokens)
        by_load = np.argsort(-self.inclusion, axis=1, kind="stable")
        if single:
            orders = by_load[:, shuffles]
            ids = _systematic(np.take_along_axis(self.inclusion[:, None], orders, axis=2), orders, turn, rng)
            return Draw(ids, _count(ids, experts), tokens)
        counts = np.empty((layers, experts))
        ordered = np.take_along_axis(self.inclusion, by_load, axis=1)
        drawn = _capped_multinomial(ordered / self.top_k, tokens, self.top_k, rng)
        np.put_along_axis(counts, by_load, drawn, axis=1)
        return Draw(None, counts, tokens)


def uniform(num_experts: int, top_k: int, layers: int = 1) -> LoadSource:
    """Every expert alike, in each of `layers` layers drawn apart."""
    return LoadSource(np.full((layers, num_experts), top_k / num_experts), top_k)


def typical(num_experts: int, top_k: int, layers: int = 1) -> LoadSource:
    """Experts as unequally loaded as in recorded traffic: log-normal shares, in another order in each layer.

    Shares are quantiles of the distribution: layers differ in which experts are hot, not in how hot they are.
    """
    normal = NormalDist()
    quantiles = [normal.inv_cdf((i + 0.5) / num_experts) for i in range(num_experts)]
    share = np.exp((SKEW if num_experts > FEW else SKEW_OF_FEW) * np.array(quantiles))
    orders = np.random.default_rng([num_experts, top_k, layers])
    return LoadSource(_inclusion(orders.permuted(np.tile(share, (layers, 1)), axis=1), top_k), top_k)


@functools.lru_cache(maxsize=64)
def assumed(name: str, num_experts: int, top_k: int, layers: int = 1) -> LoadSource:
    """The source that one of `ASSUMED` makes, the same one every time."""
    return (uniform if name == "uniform" else typical)(num_experts, top_k, layers)


def source_of(routing: RoutingTrace | LoadCounts, top_k: int) -> RoutingSource:
    """The source that a trace or load counts make."""
    return TokenSource(routing) if isinstance(routing, RoutingTrace) else LoadSource.of(routing, top_k)


def _mixed(pool: IntArray, tokens: int, rng: np.random.Generator) -> IntArray:
    if tokens <= len(pool):
        return np.asarray(rng.choice(pool, tokens, replace=False))
    return np.asarray(pool[rng.integers(0, len(pool), tokens)])


def _runs(pool: IntArray, tokens: int, rng: np.random.Generator, length: int = 512) -> IntArray:
    """Rows in runs of up to `length` neighbours, wrapping round at the end of the trace."""
    length = min(length, len(pool))
    starts = rng.integers(0, len(pool), -(-tokens // length))
    rows = (starts[:, None] + np.arange(length)[None, :]).ravel()[:tokens]
    return np.asarray(pool[rows % len(pool)])


def _count(ids: IntArray, experts: int) -> Array:
    layers = ids.shape[1]
    flat = ids + (np.arange(layers) * experts)[None, :, None]
    return np.bincount(flat.ravel(), minlength=layers * experts).reshape(layers, experts).astype(np.float64)


def _inclusion(share: Array, top_k: int) -> Array:
    """Scale shares to sum to `top_k` with none above 1: what is cut off goes to the others."""
    scaled = top_k * share / share.sum(axis=1, keepdims=True)
    for _ in range(top_k):
        full = scaled >= 1.0
        if not (scaled > 1.0 + 1e-12).any():
            break
        room = top_k - full.sum(axis=1, keepdims=True)
        rest = np.where(full, 0.0, scaled)
        total = rest.sum(axis=1, keepdims=True)
        scaled = np.where(full, 1.0, np.divide(rest * room, total, out=np.zeros_like(rest), where=total > 0))
    # One-hot loads name fewer than top_k experts: the others share what is left.
    missing = top_k - scaled.sum(axis=1, keepdims=True)
    room = 1.0 - scaled
    return np.asarray(scaled + missing * room / np.maximum(room.sum(axis=1, keepdims=True), 1e-300))


def _systematic(inclusion: Array, orders: IntArray, turn: IntArray, rng: np.random.Generator) -> IntArray:
    """Distinct experts ``[tokens, layers, top_k]``: equally spaced points on cumulative probabilities.

    Parameters
    ----------
    inclusion, orders
        Probabilities in each order, and the experts in it, ``[layers, orders, experts]``.
    turn
        The order each token takes, ``[tokens]``.
    """
    layers, many, experts = inclusion.shape
    top_k = round(float(inclusion[0, 0].sum()))
    # One search for all: order j of layer l occupies [(l * many + j) * top_k, + top_k).
    row = np.arange(layers)[None, :, None] * many + turn[:, None, None]
    edges = np.cumsum(inclusion, axis=2)
    edges *= top_k / edges[:, :, -1:]
    edges += (np.arange(layers * many) * top_k).reshape(layers, many, 1)
    points = rng.random((len(turn), layers))[:, :, None] + np.arange(top_k) + row * top_k
    found = np.searchsorted(edges.ravel(), points.ravel(), side="right").reshape(points.shape)
    # Rounding may carry the last point of an order over its end.
    found = np.minimum(found, (row + 1) * experts - 1)
    return np.asarray(orders.reshape(-1)[found])


def _capped_multinomial(share: Array, tokens: int, top_k: int, rng: np.random.Generator) -> Array:
    """Counts ``[layers, experts]`` that sum to ``tokens x top_k`` with none above `tokens`."""
    share = share / share.sum(axis=1, keepdims=True)
    counts = rng.multinomial(tokens * top_k, share).astype(np.float64)
    while (over := np.maximum(counts - tokens, 0.0)).any():
        counts -= over
        room = tokens - counts
        counts += over.sum(axis=1, keepdims=True) * room / room.sum(axis=1, keepdims=True)
    return counts


__all__ = [
    "ASSUMED",
    "DECODE",
    "PREFILL",
    "Draw",
    "LoadSource",
    "RoutingSource",
    "TokenSource",
    "assumed",
    "source_of",
    "typical",
    "uniform",
]
