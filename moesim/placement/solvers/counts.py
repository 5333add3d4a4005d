"""Two slots per rank, with spares: a placement is a choice of replica counts, and counts are searched alone.

Given how many replicas each expert has, pairing the heaviest replica with the lightest, the second heaviest
with the second lightest and so on has the least largest sum: in any other pairing two pairs can be crossed
without raising the larger of the two. Replicas of one expert lie next to each other in that order, so an
expert can meet itself only in the middle; such pairs trade a replica with the next pairs outwards.

That is best as well. Let the expert have ``r`` replicas of load ``v``, and ``M`` be the largest load of some
pairs that keep them apart. Its replicas and all above ``M - v`` need partners among the rest, so they are at
most one per rank, and the ``(ranks - r + 1)``-th heaviest of all is at most ``M - v``. That one is the
heaviest that trades.

So a plan is a point in the space of counts, and a move takes a replica from one expert and gives it to
another. The objective is that of `moesim.placement.solvers.anneal`: the sum over ranks of
``max(0, load - target)^2``, with the largest load deciding what is kept.
"""

from __future__ import annotations

import math

import numpy as np

from moesim.compiled import compiled
from moesim.placement.solvers.greedy import FloatArray, IntArray, replicate
from moesim.placement.solvers.random_bits import advance
from moesim.placement.solvers.side_by_side import each

#: Moves tried per slot, layer and round at effort 1, and the least there are.
MOVES_PER_SLOT, LEAST_MOVES = 400, 4000
#: Start temperature of each round, as a share of the mean slot load. Problems of few slots have deep local
#: optima, and moves to spare for hotter rounds.
COOL, HOT, FEW_SLOTS = (0.03, 0.1, 0.03, 0.1), (0.3, 1.0, 3.0, 0.3, 1.0, 3.0), 64
#: A layer is done when its most loaded rank is this close to the target.
ENOUGH = 1e-3


def search_counts(
    loads: FloatArray,
    ranks: int,
    slots: int,
    *,
    start: IntArray | None = None,
    target: FloatArray | None = None,
    seed: int = 0,
    effort: float = 1.0,
    threads: int = 0,
) -> IntArray:
    """Choose replica counts for two slots per rank, layer by layer.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks, slots
        Expert-parallel ranks, and physical experts per layer: twice as many.
    start
        Counts to start from, int64 ``[layers, experts]``; `replicate`'s if None.
    target
        Load that no rank need be below, such as a lower bound, float64 ``[layers]``; the mean if None.
    seed, effort, threads
        As in `moesim.placement.solvers.anneal.search`.

    Returns
    -------
    ndarray
        int64 ``[layers, experts]``; each row sums to `slots`, and is no worse than `start`.

    Examples
    --------
    >>> search_counts(np.array([[6.0, 3.0, 2.0, 1.0]]), ranks=3, slots=6)
    array([[2, 1, 2, 1]])
    """
    layers = len(loads)
    best = replicate(loads, slots, max_copies=ranks) if start is None else start.copy()
    mean = loads.sum(axis=1) / ranks
    unit = np.divide(loads, mean[:, None], out=np.zeros_like(loads), where=mean[:, None] > 0)
    ones = np.ones(layers)
    goal = ones if target is None else np.divide(target, mean, out=ones.copy(), where=mean > 0)
    heats = COOL + HOT if slots <= FEW_SLOTS else COOL
    seeds = np.random.SeedSequence(seed).generate_state(layers * len(heats), np.uint64) | np.uint64(1)
    states = seeds.reshape(layers, len(heats))
    moves = max(1, round(max(LEAST_MOVES, MOVES_PER_SLOT * slots) * effort))

    def improve(layer: int) -> None:
        lowest = math.inf
        for heat, state in zip(heats, states[layer], strict=True):
            lowest = _anneal(
                unit[layer],
                best[layer].copy(),
                _order(unit[layer], best[layer]),
                best[layer],
                lowest,
                goal[layer],
                heat / 2,
                moves,
                state,
            )
            if lowest <= goal[layer] * (1 + ENOUGH):
                break

    each(improve, range(layers), threads)
    return best


def pair(loads: FloatArray, counts: IntArray) -> IntArray:
    """Table of two slots per rank with the least largest load for given replica counts.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    counts
        int64 ``[layers, experts]``; each row sums to twice the ranks, none exceeding the ranks.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, 2 ranks]``, no expert twice on a rank.

    Examples
    --------
    >>> pair(np.array([[6.0, 3.0, 1.5, 1.0]]), np.array([[3, 1, 1, 1]]))
    array([[1, 0, 0, 2, 3, 0]])
    """
    return np.array([_table(_order(row, number)) for row, number in zip(loads, counts, strict=True)])


def pair_loads(loads: FloatArray, counts: IntArray) -> FloatArray:
    """Rank loads of `pair`'s table, float64 ``[layers, ranks]``; parameters are those of `pair`."""
    share = np.take_along_axis(loads / counts, pair(loads, counts), axis=1)
    return np.asarray(share.reshape(len(loads), -1, 2).sum(axis=2))


def middle(loads: FloatArray, counts: IntArray) -> tuple[int, int]:
    """Expert in the middle of the order of one layer, and its replicas; it alone can meet itself."""
    order = _order(loads, counts)
    expert = int(order[len(order) // 2])
    return expert, int(counts[expert])


def _order(loads: FloatArray, counts: IntArray) -> IntArray:
    """Experts of one layer by falling load of their replicas, each as often as it has some."""
    falling = np.argsort(-loads / counts, kind="stable")
    return np.repeat(falling, counts[falling])


def _table(order: IntArray) -> IntArray:
    """Pairs of one layer, int64 ``[slots]``, from experts in the order of falling replicas."""
    half = len(order) // 2
    pairs = np.stack([order[:half], order[: half - 1 : -1]], axis=1)
    selves, reach = _selves(order)
    inner, outer = slice(half - selves, half), slice(half - reach - selves, half - reach)
    pairs[inner, 0], pairs[outer, 1] = pairs[outer, 1].copy(), pairs[inner, 0].copy()
    return pairs.ravel()


@compiled
def _selves(order: IntArray) -> tuple[int, int]:
    """How many pairs from the middle outwards are of one expert, and how many hold it at least once."""
    half = len(order) // 2
    middle = order[half]
    selves = 0
    while selves < half and order[half - 1 - selves] == middle == order[half + selves]:
        selves += 1
    reach = selves
    if selves:
        while reach < half and middle in (order[half - 1 - reach], order[half + reach]):
            reach += 1
    return selves, reach


def _kernel(
    loads: FloatArray,
    counts: IntArray,
    order: IntArray,
    best: IntArray,
    lowest: float,
    target: float,
    warm: float,
    moves: int,
    state: np.uint64,
) -> float:
    """Anneal the counts of one layer, and return the lowest maximum seen; `best` are its counts.

    Parameters
    ----------
    loads
        ``[experts]``, in units of the mean rank load.
    counts
        To start from, used up, ``[experts]``; they sum to an even number of slots.
    order
        Experts by falling load of their replicas, each as often as it has some, ``[slots]``; used up.
    best, lowest
        The best counts so far ``[experts]`` and their largest load; `best` is updated.
    target
        Load above which a rank counts as too hot.
    warm
        Excess over `target` whose square is the first temperature.
    moves
        Moves to try.
    state
        Of the xorshift64* generator, not 0.
    """
    experts = len(loads)
    n = len(order)
    half = n // 2
    share = loads / counts
    trial = order.copy()
    cost, top = _judge(order, share, target)
    if top < lowest:
        lowest = top
        best[:] = counts
    cooling = (2e-5 / warm) ** (2.0 * 256 / moves)
    temperature = warm * warm
    for step in range(moves):
        if lowest <= target * (1.0 + 1e-12):
            break
        if step % 256 == 0:
            temperature *= cooling
        state = advance(state)
        draw = state * np.uint64(2685821657736338717)
        a = order[np.int64(((draw & np.uint64(0xFFFFFF)) * np.uint64(n)) >> np.uint64(24))]
        b = np.int64(((draw >> np.uint64(40)) * np.uint64(experts)) >> np.uint64(24))
        if a == b or counts[a] == 1 or counts[b] == half:
            continue
        less, more = counts[a] - 1, counts[b] + 1
        old_a, old_b = share[a], share[b]
        share[a], share[b] = loads[a] / less, loads[b] / more
        _reorder(order, trial, share, a, less, b, more)
        new, top = _judge(trial, share, target)
        if new > cost:
            state = advance(state)
            if math.exp((cost - new) / temperature) < (state >> np.uint64(11)) * 2.0**-53:
                share[a], share[b] = old_a, old_b
                continue
        counts[a], counts[b] = less, more
        order, trial = trial, order
        cost = new
        if top < lowest:
            lowest = top
            best[:] = counts
    return lowest


@compiled
def _reorder(
    order: IntArray,
    into: IntArray,
    share: FloatArray,
    a: np.int64,
    of_a: np.int64,
    b: np.int64,
    of_b: np.int64,
) -> None:
    """Write `order` into `into` with `of_a` and `of_b` replicas of experts a and b at their new places."""
    if share[b] > share[a]:
        a, of_a, b, of_b = b, of_b, a, of_a
    place = 0
    for e in order:
        if e in (a, b):
            continue
        while of_a > 0 and share[a] >= share[e]:
            into[place] = a
            place += 1
            of_a -= 1
        while of_b > 0 and share[b] >= share[e] and of_a == 0:
            into[place] = b
            place += 1
            of_b -= 1
        into[place] = e
        place += 1
    for _ in range(of_a):
        into[place] = a
        place += 1
    for _ in range(of_b):
        into[place] = b
        place += 1


@compiled
def _judge(order: IntArray, share: FloatArray, target: float) -> tuple[float, float]:
    """Sum of squared excess over `target`, and the largest pair, of `_table`'s pairs."""
    n = len(order)
    half = n // 2
    selves, reach = _selves(order)
    cost, top = 0.0, 0.0
    for i in range(half):
        first, last = share[order[i]], share[order[n - 1 - i]]
        if i >= half - selves:
            first = share[order[n - 1 - i + reach]]
        elif half - reach - selves <= i < half - reach:
            last = share[order[half]]
        both = first + last
        top = max(top, both)
        if both > target:
            cost += (both - target) ** 2
    return cost, top


_anneal = compiled(_kernel)
