"""Two slots per rank: pairs are best for their counts, bounds hold, and exact answers are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import load_trace
from moesim.layout import ExpertMap
from moesim.placement import bound_with_kind
from moesim.placement.bound_pairs import pair_bound, price_total
from moesim.placement.ilp.counts import count_search, exact_counts
from moesim.placement.ilp.pairs import decide, programme, relax
from moesim.placement.solvers.counts import pair, search_counts
from moesim.placement.solvers.greedy import replicate

SHAPES = [(3, 2, 4), (4, 3, 6), (5, 3, 6), (5, 4, 8), (6, 4, 8), (4, 4, 8)]
LOADS = st.one_of(st.integers(0, 9).map(float), st.floats(0.001, 100))


def rows(data, shape, least=1):
    experts, ranks, slots = shape
    row = np.array(data.draw(st.lists(LOADS, min_size=experts, max_size=experts)))
    row[0] += least
    return row[None], ranks, slots


def counts_of(experts, ranks, slots):
    """All replica counts, [choices, experts]."""
    every = itertools.product(range(1, ranks + 1), repeat=experts)
    return np.array([c for c in every if sum(c) == slots])


def largest(loads, counts, ranks):
    table = pair(loads, counts)
    return ExpertMap(table, loads.shape[1], ranks).rank_loads(loads).max(axis=1)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SHAPES), st.data())
def test_pairs_of_the_best_counts_are_the_best_placement(shape, data):
    loads, ranks, slots = rows(data, shape)
    every = counts_of(loads.shape[1], ranks, slots)
    best = largest(np.repeat(loads, len(every), axis=0), every, ranks).min()
    assert best == pytest.approx(optimum(loads[0], ranks, slots))


def pairings(items):
    """Every way to pair some items off, as lists of pairs."""
    if not items:
        yield []
        return
    first, *rest = items
    for i, other in enumerate(rest):
        for more in pairings(rest[:i] + rest[i + 1 :]):
            yield [(first, other), *more]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([(3, 2, 4), (4, 3, 6), (4, 4, 8), (5, 4, 8)]), st.data())
def test_no_other_pairs_of_any_counts_are_better(shape, data):
    loads, ranks, slots = rows(data, shape)
    every = counts_of(loads.shape[1], ranks, slots)
    counts = every[data.draw(st.integers(0, len(every) - 1))]
    share = loads[0] / counts
    items = np.repeat(np.arange(len(counts)), counts).tolist()
    apart = [pairs for pairs in pairings(items) if all(a != b for a, b in pairs)]
    best = min(max(share[a] + share[b] for a, b in pairs) for pairs in apart)
    assert largest(loads, counts[None], ranks)[0] == pytest.approx(best)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SHAPES), st.data())
def test_exact_counts_find_and_prove_the_optimum(shape, data):
    loads, ranks, slots = rows(data, shape)
    best = optimum(loads[0], ranks, slots)
    answer = exact_counts(loads, ranks, slots, tolerance=0.0)
    assert answer.bound[0] <= best * (1 + 1e-8)
    assert answer.value[0] >= best * (1 - 1e-9)
    assert answer.status == ("optimal",)
    assert answer.value[0] == pytest.approx(best)
    plan = ExpertMap(answer.table, loads.shape[1], ranks)
    assert plan.rank_loads(loads).max() == pytest.approx(answer.value[0])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SHAPES), st.data())
def test_no_placement_beats_prices(shape, data):
    loads, ranks, slots = rows(data, shape)
    best = optimum(loads[0], ranks, slots)
    bound = pair_bound(loads, ranks, slots, np.array([best * 1.2]))
    assert bound.values[0] <= best * (1 + 1e-9)
    assert bound.values[0] >= bound_with_kind(loads, ranks, slots).values[0]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SHAPES), st.floats(1.0, 1.5), st.data())
def test_any_prices_prove_nothing_false(shape, times, data):
    """Whatever the prices, there is no proof against a limit that a placement keeps to."""
    loads, ranks, slots = rows(data, shape)
    limit = optimum(loads[0], ranks, slots) * times
    thresholds = limit * np.sort(data.draw(st.lists(st.floats(0.5, 1.0), min_size=1, max_size=6)))[::-1]
    steps = data.draw(st.lists(st.floats(0, 5), min_size=len(thresholds), max_size=len(thresholds)))
    prices = np.cumsum(steps)[::-1]
    wage = data.draw(st.floats(-5, 5))
    assert price_total(loads[0], ranks, slots, limit, thresholds, prices, wage) <= 1e-6


def test_the_programme_decides_what_it_should():
    loads = np.array([1.1, 0.9, 1.7, 1.1, 0.7, 1.3])
    best = optimum(loads, 4, 8)
    assert decide(programme(loads, 4, 8, best * 0.9999), 10.0) is False
    counts = decide(programme(loads, 4, 8, best), 10.0)
    assert largest(loads[None], counts[None], 4)[0] == pytest.approx(best)
    assert relax(programme(loads, 4, 8, best)).shortage == pytest.approx(0.0)
    assert programme(loads, 4, 8, 0.1) is None


@pytest.fixture(scope="module")
def drawn():
    return np.random.default_rng(5).lognormal(0.0, 0.7, size=(4, 32))


def test_units_and_names_do_not_matter(drawn):
    order = np.random.default_rng(1).permutation(32)
    answer = count_search(drawn, 20, 40)
    scaled = count_search(drawn * 1e6, 20, 40)
    renamed = count_search(drawn[:, order], 20, 40)
    assert scaled.value == pytest.approx(answer.value * 1e6)
    assert scaled.bound == pytest.approx(answer.bound * 1e6, rel=1e-3)
    assert renamed.bound == pytest.approx(answer.bound, rel=1e-3)
    assert (answer.gap < 0.02).all()


def test_same_seed_same_plan_on_any_number_of_threads(drawn):
    one = count_search(drawn, 20, 40, seed=3, threads=1)
    four = count_search(drawn, 20, 40, seed=3, threads=4)
    assert (one.table == four.table).all()


def test_search_is_never_worse_than_its_start(drawn):
    start = replicate(drawn, 40, max_copies=20)
    found = search_counts(drawn, 20, 40, start=start, effort=0.01)
    assert (found.sum(axis=1) == 40).all()
    assert (largest(drawn, found, 20) <= largest(drawn, start, 20) * (1 + 1e-12)).all()


def test_progress_and_time_limits_are_honest(drawn):
    seen = []
    answer = exact_counts(drawn, 20, 40, tolerance=0.0, progress=seen.append)
    assert {state.layer for state in seen} == set(range(4))
    assert all(state.bound <= state.incumbent * (1 + 1e-9) for state in seen)
    assert set(answer.status) == {"optimal"}
    hurried = exact_counts(drawn, 20, 40, tolerance=0.0, time_limit_s=0.0)
    for gap, status in zip(hurried.gap, hurried.status, strict=True):
        assert status == ("optimal" if gap <= 1e-9 else "time limit")
    assert (hurried.bound <= answer.value * (1 + 1e-9)).all()


def test_layers_without_load():
    answer = count_search(np.zeros((2, 6)), 4, 8)
    assert answer.value.tolist() == [0.0, 0.0]
    assert answer.gap.tolist() == [0.0, 0.0]
    ExpertMap(answer.table, 6, 4)


def test_real_loads_are_within_two_percent(shared):
    loads = load_trace(shared("traces/deepseek-v3-counts/prefill_in1024.json")).load_counts().totals
    loads = loads[loads.any(axis=1)][::10]
    answer = count_search(loads, 144, 288)
    assert (answer.gap < 0.02).all()
    assert set(answer.kind) == {"prices"}
