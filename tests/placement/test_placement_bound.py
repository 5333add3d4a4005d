"""Lower bounds hold against every placement there is, and are exact where they should be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from brute_force import optimum
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement import bound_with_kind, greedy, lower_bound
from moesim.placement.bound import KINDS

SHAPES = [
    (4, 2, 4),
    (6, 2, 6),
    (6, 3, 6),
    (8, 4, 8),
    (8, 2, 8),
    (3, 2, 4),
    (4, 2, 6),
    (5, 3, 6),
    (4, 4, 8),
    (5, 5, 10),
]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(SHAPES), st.data())
def test_no_placement_beats_the_bound(shape, data):
    experts, ranks, slots = shape
    # Shares of a load below the normal numbers are not representable, so no relation between them holds.
    load = st.one_of(st.integers(0, 9).map(float), st.floats(1e-300, 100))
    row = np.array(data.draw(st.lists(load, min_size=experts, max_size=experts)))
    assert lower_bound(row[None], ranks, slots)[0] <= optimum(row, ranks, slots) * (1 + 1e-9)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 100), min_size=8, max_size=8), st.sampled_from([4, 8]))
def test_exact_without_spares_for_one_or_two_experts_per_rank(row, ranks):
    assert lower_bound(np.array([row]), ranks, 8)[0] == pytest.approx(optimum(np.array(row), ranks, 8))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 100), min_size=6, max_size=6))
def test_exact_with_spares_for_one_slot_per_rank(row):
    loads = np.array([row])
    plan = greedy(loads, ranks=9, redundant=3)[0]
    counts = np.bincount(plan, minlength=6)
    assert lower_bound(loads, 9, 9)[0] == pytest.approx((loads[0] / counts).max())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 100), min_size=12, max_size=12), st.randoms(use_true_random=False))
def test_names_units_and_spares(row, random):
    loads = np.array([row])
    order = random.sample(range(12), 12)
    per_slots = [lower_bound(loads, 4, slots)[0] for slots in range(12, 49, 4)]
    assert lower_bound(loads[:, order], 4, 12)[0] == pytest.approx(per_slots[0])
    assert lower_bound(loads * 7.5, 4, 12)[0] == pytest.approx(per_slots[0] * 7.5)
    # More spare slots never raise the bound, and with a copy of all on every rank it is the mean.
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(per_slots))
    assert per_slots[-1] == pytest.approx(loads.sum() / 4)


@pytest.mark.parametrize(
    ("row", "ranks", "slots", "kind", "value"),
    [
        ([1, 1, 1, 1], 2, 4, "mean", 2.0),
        ([9, 1, 1, 1], 4, 4, "replica", 9.0),
        ([90, 1, 1, 1], 2, 6, "mean", 46.5),
        ([90, 1, 1, 1], 3, 6, "mean", 31.0),
        ([90, 1, 1, 1, 1], 5, 5, "replica", 90.0),
        ([100, 100, 1, 1], 5, 5, "replica", 100.0),
        ([9, 1, 1, 1], 2, 4, "companions", 10.0),
        # Five heavy experts on two ranks of three: three meet.
        ([10, 10, 10, 10, 10, 0], 2, 6, "pigeonhole", 30.0),
        # Two hot experts: apart, their ranks carry (12 + 10 + 2 + 3 + 4 + 4) / 2; together, 12 + 10 + 2.
        ([12, 10, 6, 5, 5, 4, 4, 3, 2], 3, 9, "spread", 17.5),
    ],
)
def test_each_argument_by_hand(row, ranks, slots, kind, value):
    bound = bound_with_kind(np.array([row], float), ranks, slots)
    assert bound.values[0] == pytest.approx(value)
    assert bound.kinds == (kind,)
    assert kind in KINDS
