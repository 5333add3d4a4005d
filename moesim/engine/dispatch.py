"""Send a drawn batch through a placement: tokens per slot, and traffic from rank to rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.engine.routing import Array, Draw, IntArray
from moesim.layout.expert_map import ExpertMap


@dataclass(frozen=True, slots=True, eq=False)
class Dispatched:
    """A batch on its ranks.

    Parameters
    ----------
    slot_tokens
        Tokens in each slot, ``[layers, ranks, slots_per_rank]``.
    pairs
        Token-expert pairs sent from rank to rank, ``[layers, ranks, ranks]``.
    tokens
        Tokens of the batch.
    """

    slot_tokens: Array
    pairs: Array
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Token vectors that cross each kind of link, ``[layers, ranks, ranks]``."""

    up: Array
    out: Array


def dispatch(draw: Draw, plan: ExpertMap) -> Dispatched:
    """Put every pair into a slot of its expert, replicas sharing evenly, and count.

    Home ranks hold equal parts of the batch. Where only counts were drawn, every home sends its part of each
    expert's tokens.
    """
    if draw.ids is None:
        slots = _split(draw.counts, plan)
        by_rank = slots.sum(axis=2)
        return Dispatched(slots, np.repeat(by_rank[:, None, :] / plan.ranks, plan.ranks, axis=1), draw.tokens)
    slot = _slots_of(draw.ids, plan)
    layers, ranks = plan.layers, plan.ranks
    counts = np.bincount(
        (slot + (np.arange(layers) * plan.slots)[None, :, None]).ravel(), minlength=layers * plan.slots
    )
    target = slot // plan.slots_per_rank
    cell = (
        np.arange(layers)[None, :, None] * ranks + homes(draw.tokens, ranks)[:, None, None]
    ) * ranks + target
    pairs = np.bincount(cell.ravel(), minlength=layers * ranks * ranks)
    return Dispatched(
        counts.reshape(layers, ranks, -1).astype(np.float64),
        pairs.reshape(layers, ranks, ranks).astype(np.float64),
        draw.tokens,
    )


def direct(sent: Dispatched, domain: int) -> Traffic:
    """Low-latency exchange: each pair travels on its own, straight to its rank.

    Parameters
    ----------
    sent
        The dispatched batch.
    domain
        Ranks per scale-up domain.
    """
    home = np.arange(sent.pairs.shape[-1]) // domain
    same = (home[:, None] == home[None, :]).astype(np.float64)
    return Traffic(sent.pairs * same, sent.pairs * (1.0 - same))


def two_level(draw: Draw, plan: ExpertMap, domain: int) -> Traffic:
    """High-throughput exchange: a token crosses the network once per domain, and is handed on inside.

    It goes to the rank of its own index in the other domain, and from there to every rank that needs it. A
    token that is needed by two experts of one rank travels once.

    Parameters
    ----------
    draw, plan
        The batch and the placement.
    domain
        Ranks per scale-up domain; it divides the ranks, or exceeds them.
    """
    ranks, layers = plan.ranks, plan.layers
    domain = min(domain, ranks)
    domains = ranks // domain
    to_rank, to_domain = _distinct_targets(draw, plan, domain)
    by = to_rank.reshape(layers, domains, domain, domains, domain)
    up = np.zeros((layers, domains, domain, domains, domain))
    out = np.zeros_like(up)
    for d in range(domains):
        up[:, d, :, d, :] = by[:, :, :, d, :].sum(axis=1)
        for i in range(domain):
            others = np.arange(domains) != d
            out[:, d, i, others, i] = to_domain.reshape(layers, domains, domain, domains)[:, d, i, others]
    return Traffic(up.reshape(layers, ranks, ranks), out.reshape(layers, ranks, ranks))


def homes(tokens: int, ranks: int) -> IntArray:
    """Home rank of each token: equal blocks of neighbours, so that a prompt stays together."""
    return np.asarray(np.arange(tokens) * ranks // tokens)


def _distinct_targets(draw: Draw, plan: ExpertMap, domain: int) -> tuple[Array, Array]:
    """Tokens that each home sends to each rank and to each domain, at least once."""
    ranks, layers = plan.ranks, plan.layers
    if draw.ids is None:
        slots = _split(draw.counts, plan)
        absent = np.prod(1.0 - np.minimum(slots / draw.tokens, 1.0), axis=2)
        to_rank = draw.tokens * (1.0 - absent) / ranks
        away = absent.reshape(layers, -1, domain).prod(axis=2)
        to_domain = draw.tokens * (1.0 - away) / ranks
        return np.repeat(to_rank[:, None, :], ranks, axis=1), np.repeat(to_domain[:, None, :], ranks, axis=1)
    target = np.sort(_slots_of(draw.ids, plan) // plan.slots_per_rank, axis=2)
    row = np.arange(layers)[None, :, None] * ranks + homes(draw.tokens, ranks)[:, None, None]
    tables = []
    for part, width in ((target, ranks), (target // domain, ranks // domain)):
        first = np.ones(part.shape, dtype=bool)
        first[:, :, 1:] = part[:, :, 1:] != part[:, :, :-1]
        table = np.bincount((row * width + part)[first], minlength=layers * ranks * width)
        tables.append(table.reshape(layers, ranks, width).astype(np.float64))
    return tables[0], tables[1]


def _slots_of(ids: IntArray, plan: ExpertMap) -> IntArray:
    """Slot of each choice ``[tokens, layers, top_k]``: tokens take the replicas of an expert in turn."""
    table, counts = plan.logical_to_physical, plan.replica_counts
    layer = np.arange(plan.layers)[None, :, None]
    turn = np.arange(ids.shape[0])[:, None, None] % counts[layer, ids]
    return np.asarray(table[layer, ids, turn])


def _split(counts: Array, plan: ExpertMap) -> Array:
    """Tokens per slot ``[layers, ranks, slots_per_rank]``: whole tokens, the first replicas take the rest."""
    expert = plan.physical_to_logical
    replicas = np.take_along_axis(plan.replica_counts, expert, axis=1)
    mine = np.take_along_axis(counts, expert, axis=1)
    nth = np.empty_like(expert)
    table = plan.logical_to_physical
    layers = np.arange(plan.layers)[:, None]
    for i in range(table.shape[2]):
        held = table[:, :, i]
        row, column = np.nonzero(held >= 0)
        nth[row, held[row, column]] = i
    share = np.floor(mine / replicas) + (nth < np.mod(np.round(mine), replicas)) * 1.0
    exact = np.where(replicas == 1, mine, share)
    exact = np.where(expert >= 0, exact, 0.0)
    return np.asarray(exact.reshape(len(layers), plan.ranks, -1))
