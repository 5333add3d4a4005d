"""The mean of a process against its definition, and what it never depends on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.correction import Component, Process

EFFECTS = (
    Component((), (), 0.5),
    Component((0,), (), 0.3),
    Component((0, 1), ((0, 2.0),), 0.2),
    Component((1,), ((0, 1.0), (1, 3.0)), 0.1),
)


def make(seed: int, rows: int = 40) -> Process:
    rng = np.random.default_rng(seed)
    return Process(
        EFFECTS,
        (("a", "b", "c"), ("x", "y")),
        np.column_stack([rng.integers(0, 3, rows), rng.integers(0, 2, rows)]),
        rng.normal(size=(rows, 2)),
        rng.normal(size=rows),
        offset=0.25,
    )


def by_definition(p: Process, codes, values):
    total = np.zeros(len(codes))
    for c in p.components:
        same = np.ones((len(codes), len(p.codes)), dtype=bool)
        for i in c.categories:
            same &= (codes[:, i][:, None] == p.codes[:, i][None]) & (codes[:, i][:, None] >= 0)
        far = sum((values[:, i][:, None] - p.values[:, i][None]) ** 2 / (2 * s * s) for i, s in c.scales)
        total += (c.variance * same * np.exp(-np.asarray(far))) @ p.weights
    return total + p.offset


@given(st.integers(0, 1000))
def test_mean_is_its_definition(seed):
    p = make(seed)
    rng = np.random.default_rng(seed + 1)
    codes = np.column_stack([rng.integers(-1, 3, 6), rng.integers(-1, 2, 6)])
    values = rng.normal(size=(6, 2))
    assert p.mean(codes, values) == pytest.approx(by_definition(p, codes, values), abs=1e-7)


def test_what_is_unknown_is_corrected_by_what_all_share():
    p = make(3)
    codes = p.encode([("never seen", "neither")])
    assert codes.tolist() == [[-1, -1]]
    alone = 0.5 * p.weights.sum() + p.offset
    assert p.mean(codes, np.zeros((1, 2)))[0] == pytest.approx(alone)


def test_a_value_that_is_not_known_is_far_from_all():
    p = make(4)
    codes = p.encode([("a", "x")])
    far = p.mean(codes, np.array([[1e6, 1e6]]))
    assert p.mean(codes, np.array([[np.nan, np.nan]])) == pytest.approx(far)


def test_written_and_read_it_is_the_same():
    p = make(5)
    again = Process.from_dicts(p.rows_dict(), p.effects_dict())
    codes, values = p.codes[:5], p.values[:5] + 0.1
    assert again.mean(codes, values) == pytest.approx(p.mean(codes, values), abs=1e-3)
