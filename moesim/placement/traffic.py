"""What a placement makes tokens travel: nodes and ranks reached, hops between layers, activations at home.

Home ranks hold equal parts of the tokens, whatever these choose, as in `moesim.engine.dispatch`; values are
expectations over the home, one per layer. How a token picks among the replicas of an expert is a rule:

even
    Any replica, with equal chance and for each expert apart.
nearest
    One on the home rank, else one on the home node, else any, with equal chance among those.
fewest
    Those that add the fewest nodes: a token looks at all its experts at once. None does better.

Without replicas the rules are one. A plan is fitted to some requests; judge it on others (`split_requests`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, nearest
from moesim.layout.expert_map import ExpertMap, FloatArray, IntArray
from moesim.trace.types import RoutingTrace

RULES = ("even", "nearest", "fewest")
_BLOCK = 4096
#: `fewest` looks at every subset of nodes.
_MOST_NODES = 12


def split_requests(trace: RoutingTrace, share: float = 0.5, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Tokens of some requests, drawn at random, and tokens of all others.

    Parameters
    ----------
    trace
        Routing.
    share
        Part of the requests that come first.
    seed
        Of the draw.

    Returns
    -------
    tuple
        Indices of tokens: to fit a plan on, and to judge it by; each with a request if there are two.
    """
    requests = np.unique(trace.request)
    number = min(max(1, round(share * len(requests))), max(1, len(requests) - 1))
    chosen = np.random.default_rng(seed).permutation(requests)[:number]
    mine = np.isin(trace.request, chosen)
    return np.flatnonzero(mine), np.flatnonzero(~mine)


def remote_nodes(plan: ExpertMap, ids: npt.NDArray[np.integer], nodes: int, rule: str = "even") -> FloatArray:
    """Other nodes a token must reach: what an exchange pays that crosses the network once per node.

    Parameters
    ----------
    plan
        The placement.
    ids
        Experts each token chose, ``[tokens, layers, top_k]``.
    nodes
        Nodes the ranks lie on, in order.
    rule
        One of `RULES`.

    Returns
    -------
    ndarray
        Mean over tokens, float64 ``[layers]``.

    Raises
    ------
    ConfigError
        If the ranks do not divide over the nodes, the ids do not fit the plan, or there is no such rule.

    Examples
    --------
    >>> plan = ExpertMap(np.array([[0, 1, 2, 3]]), num_experts=4, ranks=2)
    >>> remote_nodes(plan, np.array([[[0, 1]], [[0, 2]]]), nodes=2)
    array([0.75])
    """
    _check(plan, ids, nodes, rule)
    if rule == "fewest":
        return np.array([_fewest(_held(plan, layer, nodes), ids[:, layer]) for layer in range(plan.layers)])
    return np.array(
        [
            _reached(_node_choice(_held(plan, layer, nodes), rule), ids[:, layer])
            for layer in range(plan.layers)
        ]
    )


def remote_ranks(
    plan: ExpertMap, ids: npt.NDArray[np.integer], nodes: int = 1, rule: str = "even"
) -> FloatArray:
    """Other ranks a token must reach, float64 ``[layers]``; parameters are those of `remote_nodes`.

    The rule ``fewest`` is about nodes, and not known here.
    """
    _check(plan, ids, nodes, rule, RULES[:2])
    return np.array(
        [
            _reached(rank_choice(_held(plan, layer, plan.ranks), nodes, rule), ids[:, layer])
            for layer in range(plan.layers)
        ]
    )


def transitions(ids: npt.NDArray[np.integer], experts: int) -> FloatArray:
    """How often an expert follows another in the next layer, over all pairs of a token.

    Parameters
    ----------
    ids
        ``[tokens, layers, top_k]``.
    experts
        Experts per layer.

    Returns
    -------
    ndarray
        float64 ``[layers - 1, experts, experts]``; each matrix sums to ``tokens * top_k ** 2``.

    Examples
    --------
    >>> transitions(np.array([[[0], [1]], [[0], [0]]]), experts=2).tolist()
    [[[1.0, 1.0], [0.0, 0.0]]]
    """
    tokens, layers, _ = ids.shape
    counts = np.zeros((max(0, layers - 1), experts * experts))
    for start in range(0, tokens, _BLOCK):
        block = ids[start : start + _BLOCK].astype(np.int64)
        for layer in range(layers - 1):
            pair = block[:, layer, :, None] * experts + block[:, layer + 1, None, :]
            counts[layer] += np.bincount(pair.ravel(), minlength=experts * experts)
    return counts.reshape(-1, experts, experts)


def leaving(plan: ExpertMap, pairs: FloatArray, parts: int) -> FloatArray:
    """Share of expert-to-expert transitions between layers that leave their rank, or their node.

    Parameters
    ----------
    plan
        The placement; replicas are picked as by rule ``even``.
    pairs
        Counts as of `transitions`, float64 ``[layers - 1, experts, experts]``.
    parts
        The ranks, or the nodes they lie on.

    Returns
    -------
    ndarray
        float64 ``[layers - 1]``; NaN where nothing was counted.

    Examples
    --------
    >>> plan = ExpertMap(np.array([[0, 1], [1, 0]]), num_experts=2, ranks=2)
    >>> leaving(plan, np.array([[[3.0, 1.0], [0.0, 4.0]]]), parts=2)
    array([0.875])
    """
    if plan.ranks % parts:
        raise ConfigError(Fault(f"must divide the {plan.ranks} ranks", "parts", parts))
    if pairs.shape != (plan.layers - 1, plan.num_experts, plan.num_experts):
        wanted = f"({plan.layers - 1}, {plan.num_experts}, {plan.num_experts})"
        raise ConfigError(Fault("does not fit the plan", "pairs", pairs.shape, wanted))
    share = [_shares(_held(plan, layer, parts)) for layer in range(plan.layers)]
    stay = np.array([((pairs[i] @ share[i + 1]) * share[i]).sum() for i in range(len(pairs))])
    total = pairs.sum(axis=(1, 2))
    return np.asarray(1.0 - np.divide(stay, total, out=np.full(len(total), np.nan), where=total > 0))


def local_activation(
    plan: ExpertMap,
    ids: npt.NDArray[np.integer],
    home: IntArray,
    parts: int | None = None,
    rule: str = "nearest",
) -> FloatArray:
    """Share of activations whose expert lies where the token is: Sem-MoE's local activation rate.

    Parameters
    ----------
    plan
        The placement.
    ids
        ``[tokens, layers, top_k]``.
    home
        Rank (or node) of each token, ``[tokens]``. A scheduler that knows routing puts tokens next to their
        experts; one that does not reaches ``1 / parts`` on average without replicas.
    parts
        The ranks, or the nodes they lie on; ranks if None.
    rule
        ``even`` or ``nearest``.

    Returns
    -------
    ndarray
        float64 ``[layers]``.

    Examples
    --------
    >>> plan = ExpertMap(np.array([[0, 1, 2, 3]]), num_experts=4, ranks=2)
    >>> local_activation(plan, np.array([[[0, 1]], [[0, 2]]]), home=np.array([0, 1]))
    array([0.75])
    """
    parts = plan.ranks if parts is None else parts
    _check(plan, ids, parts, rule, RULES[:2])
    if home.shape != ids.shape[:1] or (len(home) and not 0 <= home.min() <= home.max() < parts):
        raise ConfigError(Fault("must be one part per token", "home", home.shape, f"0 to {parts - 1}"))
    found = []
    for layer in range(plan.layers):
        held = _held(plan, layer, parts)
        here = _shares(held) if rule == "even" else np.where(held > 0, 1.0, 0.0)
        found.append(here[ids[:, layer], home[:, None]].mean())
    return np.array(found)


def rank_choice(held: npt.NDArray[np.integer], nodes: int, rule: str) -> FloatArray:
    """Chance that a token of each home goes to each rank for an expert.

    Parameters
    ----------
    held
        Replicas by expert and rank, ``[experts, ranks]``.
    nodes, rule
        As of `remote_ranks`.

    Returns
    -------
    ndarray
        float64 ``[homes, experts, ranks]``; under ``even`` all homes are alike.
    """
    fair = _shares(held)
    experts, ranks = held.shape
    if rule == "even" or (held.sum(axis=1) == 1).all():
        return np.broadcast_to(fair, (ranks, experts, ranks))
    choice = np.empty((ranks, experts, ranks))
    node = np.arange(ranks) * nodes // ranks
    for home in range(ranks):
        near = held * (node == node[home])
        here = np.where(near.any(axis=1)[:, None], _shares(near), fair)
        own = (np.arange(ranks) == home).astype(np.float64)
        choice[home] = np.where(held[:, [home]] > 0, own, here)
    return choice


def _node_choice(held: npt.NDArray[np.integer], rule: str) -> FloatArray:
    return rank_choice(held, held.shape[1], rule)


def _reached(choice: FloatArray, ids: npt.NDArray[np.integer]) -> float:
    """Mean parts other than the home that a token reaches, ids ``[tokens, top_k]``."""
    homes = len(choice)
    alike = choice.strides[0] == 0
    total = 0.0
    for home in range(1 if alike else homes):
        rest = 1.0 - choice[home]
        for start in range(0, len(ids), _BLOCK):
            block = ids[start : start + _BLOCK]
            missed = rest[block[:, 0]]
            for nth in range(1, block.shape[1]):
                missed = missed * rest[block[:, nth]]
            reached = 1.0 - missed
            total += reached.sum() if alike else reached.sum() - reached[:, home].sum()
    # Where homes are alike, each part is the home as often as any other.
    whole = total * (homes - 1) / homes if alike else total / homes
    return float(whole / max(1, len(ids)))


def _fewest(held: npt.NDArray[np.integer], ids: npt.NDArray[np.integer]) -> float:
    """Mean of the fewest other nodes that hold all experts of a token."""
    nodes = held.shape[1]
    bits = ((held > 0) * (1 << np.arange(nodes))).sum(axis=1)
    subsets = np.arange(1 << nodes)
    size = np.bitwise_count(subsets).astype(np.int64)
    covers = (subsets[:, None] & bits[None, :]) != 0
    total = 0.0
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        every = covers[:, block].all(axis=2)
        for home in range(nodes):
            with_home = np.flatnonzero(subsets >> home & 1)
            total += float(np.where(every[with_home], size[with_home, None] - 1, nodes).min(axis=0).sum())
    return float(total / max(1, len(ids)) / nodes)


def _held(plan: ExpertMap, layer: int, parts: int) -> IntArray:
    """Replicas by expert and part, int64 ``[experts, parts]``."""
    row = plan.physical_to_logical[layer]
    part = np.arange(plan.slots) // plan.slots_per_rank * parts // plan.ranks
    full = row >= 0
    counts = np.bincount(row[full] * parts + part[full], minlength=plan.num_experts * parts)
    return counts.reshape(plan.num_experts, parts)


def _shares(held: npt.NDArray[np.integer]) -> FloatArray:
    number = held.sum(axis=1, keepdims=True)
    return np.asarray(held / np.maximum(1, number))


def _check(
    plan: ExpertMap, ids: npt.NDArray[np.integer], parts: int, rule: str, rules: tuple[str, ...] = RULES
) -> None:
    found = []
    if parts < 1 or plan.ranks % parts:
        found.append(Fault(f"must divide the {plan.ranks} ranks", "nodes", parts))
    if rule not in rules:
        near = nearest(rule, rules)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        found.append(Fault("is no rule of picking replicas", "rule", rule, hint + ", ".join(rules)))
    elif rule == "fewest" and parts > _MOST_NODES:
        found.append(Fault("is too many for the rule fewest", "nodes", parts, f"1 to {_MOST_NODES}"))
    if ids.ndim != 3 or ids.shape[1] != plan.layers:
        found.append(Fault("must be [tokens, layers, top_k]", "ids", ids.shape, f"{plan.layers} layers"))
    elif ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < plan.num_experts:
        found.append(Fault("are not all experts of the plan", "ids", int(ids.max())))
    if found:
        raise ConfigError(found)
