"""Placement rules of published systems, as far as a routing trace determines them.

FasterMoE (PPoPP 2022)
    Shadows the experts that are so popular that sending their weights to every worker is cheaper than sending
    their tokens: `shadow`, the rule of its released code. As a placement, `replicate_hottest`.
Sem-MoE (arXiv 2503.04398)
    Places experts and requests together, by turns, so that a request's rank holds its experts:
    `semantic_placement`; `schedule` then puts requests that were not seen before next to their experts, and
    `moesim.placement.traffic.local_activation` measures what it aims at. Its second half, which moves the
    tokens of tensor-parallel attention by tables of token ids, needs token ids and is not here.

LocMoE (arXiv 2401.13920) is not here: it trains the router to prefer local experts, so its gain is another
routing, not another placement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.placement.solvers.greedy import FloatArray, IntArray, pack

#: Defaults of fastmoe: 50 Gb/s, and a V100's GEMM throughput in single precision.
NETWORK, GEMM = 50e9 / 8, 11.5e12
#: Turns of experts and requests, and random swaps per expert and layer after them.
TURNS, SWAPS = 8, 100


@dataclass(frozen=True, slots=True, eq=False)
class Shadows:
    """Experts of one layer that every worker gets a copy of.

    Parameters
    ----------
    experts
        In the order they are taken, int64.
    before_s, after_s
        Predicted time of the layer, forward and backward, without and with them.
    """

    experts: IntArray
    before_s: float
    after_s: float


def shadow(
    loads: FloatArray,
    hidden: int,
    *,
    ratio: float = 2.0,
    network: float = NETWORK,
    gemm: float = GEMM,
    element_bytes: float = 4.0,
) -> Shadows:
    """Choose the experts to shadow, as `fmoe/fastermoe/shadow_policy.py` of fastmoe does.

    The busiest expert sets the time: three times ``4 a H^2 / P`` and four times ``H b / W`` per token. To
    shadow an expert costs ``2 a H^2 b / W``, and the next one is the busiest. Experts are taken hottest
    first, while the time falls. (The paper counts the copy twice, there and back.)

    Parameters
    ----------
    loads
        Tokens of each expert, float64 ``[experts]``.
    hidden
        Hidden size H.
    ratio
        Size of the expert's inner layer over H, a.
    network
        Bytes per second, W.
    gemm
        FLOP per second, P.
    element_bytes
        Bytes of a number, b.

    Examples
    --------
    >>> shadow(np.array([10.0, 1000.0, 11.0]), 1024).experts
    array([1])
    """
    order = np.argsort(-loads, kind="stable")
    falling = loads[order]
    weights = ratio * hidden**2
    token = 3 * 4 * weights / gemm + 4 * hidden * element_bytes / network
    copy = 2 * weights * element_bytes / network
    before = lowest = float(token * falling[0])
    taken = 0
    while taken + 1 < len(loads):
        after = float(token * falling[taken + 1] + copy * (taken + 1))
        if after >= lowest:
            break
        lowest, taken = after, taken + 1
    return Shadows(order[:taken], before, lowest)


def replicate_hottest(loads: FloatArray, ranks: int, redundant: int) -> IntArray:
    """Put the hottest experts on every rank, as many as the spare slots allow.

    Spare slots that are left over go to the next hottest expert; all others are packed greedily.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks, redundant
        As of a `moesim.placement.Problem`.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, experts + redundant]``.

    Examples
    --------
    >>> replicate_hottest(np.array([[9.0, 1.0, 5.0, 1.0, 1.0]]), ranks=2, redundant=1)
    array([[0, 2, 4, 0, 1, 3]])
    """
    layers, experts = loads.shape
    everywhere, left = divmod(redundant, max(1, ranks - 1))
    order = np.argsort(-loads, axis=1, kind="stable")
    copies = np.ones((layers, experts - everywhere), dtype=np.int64)
    copies[:, :1] += left
    rest = np.repeat(order[:, everywhere:].ravel(), copies.ravel()).reshape(layers, -1)
    number = np.repeat(copies.ravel(), copies.ravel()).reshape(layers, -1)
    packed = pack(np.take_along_axis(loads, rest, axis=1) / number, ranks, rest)
    others = np.take_along_axis(rest, packed.reshape(layers, -1), axis=1).reshape(layers, ranks, -1)
    hottest = np.broadcast_to(order[:, None, :everywhere], (layers, ranks, everywhere))
    return np.concatenate([hottest, others], axis=2).reshape(layers, -1)


def activations(ids: npt.NDArray[np.integer], request: npt.NDArray[np.integer], experts: int) -> FloatArray:
    """Activations of each expert by each request, in order of the request's number.

    Parameters
    ----------
    ids
        ``[tokens, layers, top_k]``.
    request
        ``[tokens]``.
    experts
        Experts per layer.

    Returns
    -------
    ndarray
        float64 ``[requests, layers, experts]``.
    """
    numbers, row = np.unique(request, return_inverse=True)
    layers = ids.shape[1]
    cell = (row[:, None, None] * layers + np.arange(layers)[None, :, None]) * experts + ids
    counts = np.bincount(cell.ravel(), minlength=len(numbers) * layers * experts)
    return counts.reshape(len(numbers), layers, experts).astype(np.float64)


def schedule(
    seen: FloatArray, sizes: FloatArray, table: IntArray, ranks: int, slack: float = 0.1
) -> IntArray:
    """Put each request on the rank that holds most of what it activates, as far as ranks have room.

    Parameters
    ----------
    seen
        What is known of the requests' activations, as of `activations`: all, or those of first tokens.
    sizes
        Tokens of each request, float64 ``[requests]``.
    table
        physical_to_logical, int64 ``[layers, slots]``.
    ranks
        Expert-parallel ranks.
    slack
        Tokens a rank takes beyond its even part; a request that fits nowhere goes to the emptiest.

    Returns
    -------
    ndarray
        Rank of each request, int64 ``[requests]``.
    """
    layers, slots = table.shape
    score = np.zeros((len(seen), ranks))
    for layer in range(layers):
        score += seen[:, layer][:, table[layer]].reshape(len(seen), ranks, slots // ranks).sum(axis=2)
    score /= np.maximum(1.0, seen.sum(axis=(1, 2)))[:, None]
    room = np.full(ranks, sizes.sum() / ranks * (1.0 + slack))
    home = np.empty(len(seen), dtype=np.int64)
    for r in np.argsort(-sizes, kind="stable").tolist():
        fits = room >= sizes[r]
        home[r] = np.where(fits, score[r], -np.inf).argmax() if fits.any() else room.argmax()
        room[home[r]] -= sizes[r]
    return home


def semantic_placement(
    seen: FloatArray,
    sizes: FloatArray,
    ranks: int,
    *,
    penalty: float = 1.0,
    slack: float = 0.1,
    seed: int = 0,
) -> IntArray:
    """Place experts next to the requests that use them, and requests next to their experts, by turns.

    An expert's score on a rank is the share of its activations by requests of that rank, less `penalty` times
    the rank's load over the mean; hottest first, each goes where it scores most and there is room. Experts
    that the same requests use meet by that, which stands for the affinity of experts to each other. In the
    end random swaps are kept where the sum of scores grows. The paper gives the terms, not their weights.

    Parameters
    ----------
    seen, sizes, slack
        As of `schedule`.
    ranks
        Expert-parallel ranks; divides the experts.
    penalty
        Weight of load against locality.
    seed
        Of the first schedule and the swaps.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, experts]``.
    """
    rng = np.random.default_rng(seed)
    requests, layers, experts = seen.shape
    loads = seen.sum(axis=0)
    home = rng.permutation(np.arange(requests) % ranks)
    part = np.zeros((layers, experts), dtype=np.int64)
    for _ in range(TURNS):
        owner = (home[:, None] == np.arange(ranks)).astype(np.float64)
        near = np.einsum("rle,rg->leg", seen, owner)
        for layer in range(layers):
            part[layer] = _assign(near[layer], loads[layer], penalty)
        table = np.argsort(part, axis=1, kind="stable")
        home = schedule(seen, sizes, table, ranks, slack)
    near = np.einsum("rle,rg->leg", seen, (home[:, None] == np.arange(ranks)).astype(np.float64))
    for layer in range(layers):
        _swap(part[layer], near[layer], loads[layer], penalty, rng)
    return np.argsort(part, axis=1, kind="stable")


def _assign(near: FloatArray, loads: FloatArray, penalty: float) -> IntArray:
    """Rank of each expert, hottest first."""
    experts, ranks = near.shape
    room = np.full(ranks, experts // ranks)
    held, mean = np.zeros(ranks), max(loads.sum(), 1.0) / ranks
    part = np.empty(experts, dtype=np.int64)
    for e in np.argsort(-loads, kind="stable").tolist():
        score = near[e] / max(loads[e], 1.0) - penalty * held / mean
        part[e] = np.where(room > 0, score, -np.inf).argmax()
        room[part[e]] -= 1
        held[part[e]] += loads[e]
    return part


def _swap(
    part: IntArray, near: FloatArray, loads: FloatArray, penalty: float, rng: np.random.Generator
) -> None:
    """Swap two experts where that makes more activations local than it adds unevenness (squared loads)."""
    ranks = near.shape[1]
    held = np.bincount(part, weights=loads, minlength=ranks)
    mean = max(loads.sum(), 1.0) / ranks
    for a, b in rng.integers(len(loads), size=(SWAPS * len(loads), 2)).tolist():
        g, h = part[a], part[b]
        if g == h:
            continue
        more = loads[b] - loads[a]
        local = near[a, h] - near[a, g] + near[b, g] - near[b, h]
        uneven = (held[g] + more) ** 2 + (held[h] - more) ** 2 - held[g] ** 2 - held[h] ** 2
        if local - penalty * uneven / (2 * mean) > 0:
            part[a], part[b] = h, g
            held[g] += more
            held[h] -= more
