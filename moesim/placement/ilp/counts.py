"""Exact replica counts for two slots per rank: a search from above, prices and a programme from below."""

from __future__ import annotations

import time

import numpy as np

from moesim.placement.bound_pairs import pair_bound
from moesim.placement.ilp.answer import Answer, Listener, Progress
from moesim.placement.ilp.pairs import decide, programme
from moesim.placement.solvers.counts import middle, pair, pair_loads, search_counts
from moesim.placement.solvers.greedy import FloatArray, IntArray, replicate


def count_search(
    loads: FloatArray, ranks: int, slots: int, *, seed: int = 0, effort: float = 1.0, threads: int = 0
) -> Answer:
    """Place experts on two slots per rank with spares by search, and prove how far it is from the best.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks, slots
        Expert-parallel ranks, and physical experts per layer: twice as many.
    seed, effort, threads
        As in `moesim.placement.solvers.anneal.search`.

    Returns
    -------
    Answer
        ``optimal`` where the value is its bound, to rounding.

    Examples
    --------
    >>> answer = count_search(np.array([[4.0, 4.0, 4.0, 4.0, 1.0, 1.0]]), ranks=4, slots=8)
    >>> answer.value
    array([4.5])
    """
    started = time.perf_counter()
    first = replicate(loads, slots, max_copies=ranks)
    bound = pair_bound(loads, ranks, slots)
    counts = search_counts(
        loads, ranks, slots, start=first, target=bound.values, seed=seed, effort=effort, threads=threads
    )
    table, value = pair(loads, counts), pair_loads(loads, counts).max(axis=1)
    status = tuple(
        "optimal" if v <= b * (1 + 1e-9) else "feasible" for v, b in zip(value, bound.values, strict=True)
    )
    return Answer(table, value, bound.values, bound.kinds, status, time.perf_counter() - started)


def exact_counts(
    loads: FloatArray,
    ranks: int,
    slots: int,
    *,
    tolerance: float = 0.005,
    time_limit_s: float = 600.0,
    seed: int = 0,
    effort: float = 1.0,
    threads: int = 0,
    progress: Listener | None = None,
) -> Answer:
    """`count_search`, then integer programmes until every layer is within a tolerance of its bound.

    A programme asks whether any counts keep all ranks within ``value / (1 + tolerance)``. If none do, that is
    the layer's bound; if some do, the value falls and the next programme asks again.

    Parameters
    ----------
    loads, ranks, slots, seed, effort, threads
        As in `count_search`.
    tolerance
        Gap to prove, relative to the bound; 0 for the optimum itself.
    time_limit_s
        Wall time of all layers. What one layer leaves is left to the others.
    progress
        Called before each layer's programmes and whenever its value or bound improves.

    Returns
    -------
    Answer
        ``optimal`` where the gap is within the tolerance.
    """
    started = time.perf_counter()
    found = count_search(loads, ranks, slots, seed=seed, effort=effort, threads=threads)
    table, value, bound = found.table.copy(), found.value.copy(), found.bound.copy()
    kinds, status = list(found.kind), list(found.status)
    for layer in np.argsort(found.gap, kind="stable").tolist():
        status[layer] = "optimal"
        apart: set[tuple[int, int]] = set()

        def tell(layer: int = layer) -> None:
            if progress is not None:
                seconds = time.perf_counter() - started
                progress(Progress(layer, float(value[layer]), float(bound[layer]), seconds))

        tell()
        while value[layer] > bound[layer] * (1 + max(tolerance, 1e-9)):
            left = time_limit_s - (time.perf_counter() - started)
            limit = value[layer] / (1 + max(tolerance, 1e-9))
            answer = _within(loads[layer], ranks, slots, limit, left, seed, apart) if left > 0 else None
            if answer is None:
                status[layer] = "time limit"
                break
            if answer is False:
                bound[layer], kinds[layer] = limit, "integer programme"
                tell()
                continue
            counts = np.asarray(answer)[None]
            new = pair_loads(loads[[layer]], counts).max()
            if new <= limit * (1 + 1e-11):
                table[layer], value[layer] = pair(loads[[layer]], counts)[0], new
                tell()
                continue
            met = middle(loads[layer], counts[0])
            if met in apart:  # only rounding keeps these counts above the limit
                status[layer] = "feasible"
                break
            apart.add(met)
    return Answer(table, value, bound, tuple(kinds), tuple(status), time.perf_counter() - started)


def _within(
    loads: FloatArray,
    ranks: int,
    slots: int,
    limit: float,
    time_limit_s: float,
    seed: int,
    apart: set[tuple[int, int]],
) -> IntArray | bool | None:
    built = programme(loads / limit, ranks, slots, 1.0)
    return False if built is None else decide(built, time_limit_s, seed, sorted(apart))
