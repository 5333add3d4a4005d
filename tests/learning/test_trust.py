"""How far effects are believed: closed forms, and truth that is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_runs import table

from moesim.learning.held_out import Means, sides
from moesim.learning.trust import share, trust, trusted, weighted_median


@given(st.integers(0, 500))
def test_the_share_leaves_the_least_absolute_error(seed):
    rng = np.random.default_rng(seed)
    said, measured, weights = rng.normal(size=15), rng.normal(size=15), rng.uniform(0.1, 1.0, 15)

    def loss(a):
        return float(np.sum(weights * np.abs(measured - a * said)))

    found = share(measured, said, weights)
    assert loss(found) <= min(loss(a) for a in np.linspace(0.0, 1.0, 201)) + 1e-9


def test_what_is_right_is_believed_and_what_is_noise_is_not():
    rng = np.random.default_rng(0)
    said = rng.normal(size=400)
    ones = np.ones(400)
    assert share(said, said, ones) == 1.0
    assert share(0.5 * said, said, ones) == pytest.approx(0.5)
    assert share(-said, said, ones) == 0.0
    assert share(rng.normal(size=400), said, ones) < 0.2
    assert share(said, np.zeros(400), ones) == 1.0


def test_a_median_of_equal_weights_is_the_median():
    values = np.array([3.0, 1.0, 2.0, 9.0, 4.0])
    assert weighted_median(values, np.ones(5)) == np.median(values)


def means_of(found, share_of_truth):
    physics = found.physics
    said = share_of_truth * np.log(found.tpot / physics.tpot_s)
    return Means(physics.tpot_s, physics.ttft_fixed_s, physics.ttft_steps, said, np.zeros(len(found.rows)))


def test_effects_twice_too_large_are_halved():
    found = table()
    every = np.ones(len(found.rows), dtype=bool)
    assert trust(found, means_of(found, 2.0), "model", every)[0] == pytest.approx(0.5)
    tpot, _ = trusted(found, means_of(found, 2.0), "model")
    assert tpot == pytest.approx(found.tpot)


def test_a_group_has_no_say_in_its_own_trust():
    found = table(1)
    side = sides(found, "model")[0]
    means = means_of(found, 2.0)
    wild = Means(
        means.physical, means.fixed, means.steps, np.where(side, 9.0 * means.tpot, means.tpot), means.ttft
    )
    own = wild.predicted(0.5)[0]
    assert trusted(found, wild, "model")[0][side] == pytest.approx(own[side])
