"""Send a drawn batch through a placement: tokens per slot, and traffic from rank to rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.engine.routing import Array, Draw, IntArray
from moesim.layout.expert_map import ExpertMap
from moesim.layout.sharing import FIXED, near_slots, rule_of, slot_shares, slots_of_sources


@dataclass(frozen=True, slots=True, eq=False)
class Replicas:
    """How tokens choose among the replicas of an expert.

    Parameters
    ----------
    rule
        One of `moesim.layout.DISPATCH`.
    slots
        Slot to which a home rank sends its tokens of an expert, -1 if any, ``[layers, ranks, num_experts]``;
        None if it is any for all.
    """

    rule: str = "even"
    slots: IntArray | None = None

    @classmethod
    def of(cls, plan: ExpertMap, rule: str, nodes: int = 1, rows: Sequence[int] | None = None) -> Replicas:
        """How a rule has the tokens of a plan choose; arguments are those of `slots_of_sources`."""
        rule = rule_of(rule)
        if rule == "even" or not plan.redundant:
            return cls()
        if rule in FIXED:
            return cls(rule, slots_of_sources(plan, rule, nodes, rows=rows))
        return cls(rule, near_slots(plan, nodes) if rule == "sglang-dynamic" else None)

    def only(self, layers: Sequence[int]) -> Replicas:
        """The same of some layers."""
        return self if self.slots is None else replace(self, slots=self.slots[list(layers)])


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
    slot_of
        Slot of each choice ``[tokens, layers, top_k]``, if single tokens were drawn.
    by_home
        Tokens that each home sends to each slot, ``[layers, ranks, slots]``, if only counts were drawn and
        homes differ.
    sampled
        Slot of each choice of a sample of the tokens ``[some, layers, top_k]``, if there is one.
    """

    slot_tokens: Array
    pairs: Array
    tokens: int
    slot_of: IntArray | None = None
    by_home: Array | None = None
    sampled: IntArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Token vectors that cross each kind of link, ``[layers, ranks, ranks]``."""

    up: Array
    out: Array


def dispatch(
    draw: Draw, plan: ExpertMap, replicas: Replicas | None = None, rng: np.random.Generator | None = None
) -> Dispatched:
    """Put every pair into a slot of its expert, and count.

    Home ranks hold equal parts of the batch. Where only counts were drawn, every home sends its part of each
    expert's tokens.

    Parameters
    ----------
    draw, plan
        The batch and the placement.
    replicas
        How tokens choose; replicas share evenly if None.
    rng
        For rules that choose at random.
    """
    replicas, rng = replicas or Replicas(), rng or np.random.default_rng(0)
    if draw.sample is not None:
        counted = dispatch(replace(draw, sample=None), plan, replicas, rng)
        some = Draw(draw.sample, draw.counts, len(draw.sample))
        return replace(counted, sampled=_slots_of(some, plan, replicas, rng))
    layers, ranks = plan.layers, plan.ranks
    if draw.ids is None and replicas.rule == "even":
        slots = _split(draw.counts, plan)
        by_rank = slots.sum(axis=2)
        return Dispatched(slots, np.repeat(by_rank[:, None, :] / ranks, ranks, axis=1), draw.tokens)
    if draw.ids is None:
        by_home = _sent(draw.counts, plan, replicas, rng)
        slots = by_home.sum(axis=1).reshape(layers, ranks, -1)
        pairs = by_home.reshape(layers, ranks, ranks, -1).sum(axis=3)
        return Dispatched(slots, pairs, draw.tokens, None, by_home)
    slot = _slots_of(draw, plan, replicas, rng)
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
        slot,
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


def two_level(sent: Dispatched, plan: ExpertMap, domain: int) -> Traffic:
    """High-throughput exchange: a token crosses the network once per domain, and is handed on inside.

    It goes to the rank of its own index in the other domain, and from there to every rank that needs it. A
    token that is needed by two experts of one rank travels once.

    Parameters
    ----------
    sent, plan
        The dispatched batch and its placement.
    domain
        Ranks per scale-up domain; it divides the ranks, or exceeds them.
    """
    ranks, layers = plan.ranks, plan.layers
    domain = min(domain, ranks)
    domains = ranks // domain
    to_rank, to_domain = _distinct_targets(sent, plan, domain)
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


def _distinct_targets(sent: Dispatched, plan: ExpertMap, domain: int) -> tuple[Array, Array]:
    """Tokens that each home sends to each rank and to each domain, at least once."""
    ranks, layers = plan.ranks, plan.layers
    if sent.sampled is not None:
        some = replace(sent, slot_of=sent.sampled, tokens=len(sent.sampled), sampled=None, by_home=None)
        scale = sent.tokens / some.tokens
        to_rank, to_domain = _distinct_targets(some, plan, domain)
        return to_rank * scale, to_domain * scale
    if sent.by_home is not None:
        part = np.minimum(sent.by_home * (ranks / sent.tokens), 1.0)
        absent = np.prod(1.0 - part.reshape(layers, ranks, ranks, -1), axis=3)
        away = absent.reshape(layers, ranks, -1, domain).prod(axis=3)
        return sent.tokens * (1.0 - absent) / ranks, sent.tokens * (1.0 - away) / ranks
    if sent.slot_of is None:
        absent = np.prod(1.0 - np.minimum(sent.slot_tokens / sent.tokens, 1.0), axis=2)
        to_rank = sent.tokens * (1.0 - absent) / ranks
        away = absent.reshape(layers, -1, domain).prod(axis=2)
        to_domain = sent.tokens * (1.0 - away) / ranks
        return np.repeat(to_rank[:, None, :], ranks, axis=1), np.repeat(to_domain[:, None, :], ranks, axis=1)
    target = np.sort(sent.slot_of // plan.slots_per_rank, axis=2)
    row = np.arange(layers)[None, :, None] * ranks + homes(sent.tokens, ranks)[:, None, None]
    tables = []
    for part, width in ((target, ranks), (target // domain, ranks // domain)):
        first = np.ones(part.shape, dtype=bool)
        first[:, :, 1:] = part[:, :, 1:] != part[:, :, :-1]
        table = np.bincount((row * width + part)[first], minlength=layers * ranks * width)
        tables.append(table.reshape(layers, ranks, width).astype(np.float64))
    return tables[0], tables[1]


def _slots_of(draw: Draw, plan: ExpertMap, replicas: Replicas, rng: np.random.Generator) -> IntArray:
    """Slot of each choice ``[tokens, layers, top_k]``."""
    ids = draw.ids
    assert ids is not None
    table, counts = plan.logical_to_physical, plan.replica_counts
    layer = np.arange(plan.layers)[None, :, None]
    if replicas.rule == "even":
        # Tokens take the replicas of an expert in turn.
        turn = np.arange(ids.shape[0])[:, None, None] % counts[layer, ids]
        return np.asarray(table[layer, ids, turn])
    chosen = np.full(ids.shape, -1, dtype=np.int64)
    if replicas.slots is not None:
        chosen = replicas.slots[layer, homes(draw.tokens, plan.ranks)[:, None, None], ids]
    if replicas.rule not in FIXED:
        upper = np.cumsum(_chances(draw.counts, plan, replicas), axis=2)
        nth = (rng.random(ids.shape)[..., None] >= upper[layer, ids, :-1]).sum(axis=3)
        # Rounding may leave the last replica a sum below one.
        nth = np.minimum(nth, counts[layer, ids] - 1)
        chosen = np.where(chosen >= 0, chosen, table[layer, ids, nth])
    return chosen


def _sent(counts: Array, plan: ExpertMap, replicas: Replicas, rng: np.random.Generator) -> Array:
    """Tokens that each home sends to each slot, ``[layers, ranks, slots]``."""
    layers, ranks = plan.layers, plan.ranks
    found: Array = np.zeros((layers, ranks, plan.slots + 1))
    undecided: Array = np.ones((layers, ranks, plan.num_experts))
    if replicas.slots is not None:
        # What goes to slot -1 is not decided yet.
        each = np.broadcast_to(counts[:, None, :] / ranks, replicas.slots.shape)
        np.put_along_axis(found, replicas.slots, each, axis=2)
        undecided = np.asarray(replicas.slots < 0, dtype=np.float64)
    found = found[:, :, :-1]
    if replicas.rule in FIXED:
        return found
    open_ranks = undecided.sum(axis=1)
    left = np.round(counts * open_ranks / ranks).astype(np.int64)
    amount = rng.multinomial(left, _chances(counts, plan, replicas)).astype(np.float64)
    # Whole tokens were drawn; a home's part of them is not whole.
    scale = np.divide(counts * open_ranks / ranks, left, out=np.zeros_like(counts), where=left > 0)
    expert = plan.physical_to_logical
    mine = amount[np.arange(layers)[:, None], expert, _nth(plan)] * np.take_along_axis(scale, expert, axis=1)
    mine = np.where(expert >= 0, mine, 0.0)
    of_home = undecided / np.maximum(open_ranks, 1.0)[:, None, :]
    return np.asarray(found + mine[:, None, :] * np.take_along_axis(of_home, expert[:, None, :], axis=2))


def _chances(counts: Array, plan: ExpertMap, replicas: Replicas) -> Array:
    """Probability of each replica where any may be chosen, ``[layers, experts, most]``."""
    loads = counts if replicas.rule == "lp" else None
    shares = slot_shares(plan, "lp" if replicas.rule == "lp" else "even", loads=loads)
    table = plan.logical_to_physical
    found = np.take_along_axis(shares, table.reshape(plan.layers, -1), axis=1).reshape(table.shape)
    return np.asarray(np.where(table >= 0, found, 0.0))


def _nth(plan: ExpertMap) -> IntArray:
    """Which replica of its expert each slot is, ``[layers, slots]``."""
    nth = np.zeros_like(plan.physical_to_logical)
    for i in range(plan.logical_to_physical.shape[2]):
        held = plan.logical_to_physical[:, :, i]
        row, column = np.nonzero(held >= 0)
        nth[row, held[row, column]] = i
    return nth


def _split(counts: Array, plan: ExpertMap) -> Array:
    """Tokens per slot ``[layers, ranks, slots_per_rank]``: whole tokens, the first replicas take the rest."""
    expert = plan.physical_to_logical
    replicas = np.take_along_axis(plan.replica_counts, expert, axis=1)
    mine = np.take_along_axis(counts, expert, axis=1)
    share = np.floor(mine / replicas) + (_nth(plan) < np.mod(np.round(mine), replicas)) * 1.0
    exact = np.where(replicas == 1, mine, share)
    exact = np.where(expert >= 0, exact, 0.0)
    return np.asarray(exact.reshape(plan.layers, plan.ranks, -1))
