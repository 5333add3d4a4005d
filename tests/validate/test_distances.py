"""Distances of distributions: closed forms, what they are blind to, and an oracle of plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ks_2samp

from moesim.validate.distances import Sample, distance
from moesim.validate.runs import Spread

TIMES = arrays(np.float64, st.integers(2, 30), elements=st.floats(0.001, 100))


@given(TIMES, st.floats(0.5, 3))
def test_a_scaled_distribution_is_off_by_its_scale(values, scale):
    found = distance(Sample(values * scale, paired=True), Sample(values, paired=True))
    assert found.wasserstein == pytest.approx(abs(scale - 1), abs=1e-9)
    assert found.request_error == pytest.approx(abs(scale - 1), abs=1e-9)
    if np.ptp(values) > 1e-6:
        assert found.correlation == pytest.approx(1.0)


@given(TIMES, TIMES, st.randoms())
def test_distributions_do_not_know_their_order(a, b, random):
    shuffled = a.copy()
    random.shuffle(shuffled)
    one, two = (distance(Sample(x), Sample(b)) for x in (a, shuffled))
    assert (one.wasserstein, one.ks) == pytest.approx((two.wasserstein, two.ks))
    assert one.request_error is None
    assert one.ks == pytest.approx(ks_2samp(a, b, method="asymp").statistic)


@given(TIMES, st.integers(0, 2**32 - 1))
def test_weights_are_repetitions(values, seed):
    counts = np.random.default_rng(seed).integers(0, 5, len(values))
    if not counts.any():
        return
    written = np.repeat(values, counts)
    weighted = Sample(values, counts)
    assert vars_of(Spread.of_sample(weighted)) == pytest.approx(vars_of(Spread.of(written)))
    found = distance(weighted, Sample(written))
    assert (found.wasserstein, found.ks) == pytest.approx((0.0, 0.0), abs=1e-9)


def vars_of(spread):
    return [spread.mean, spread.median, spread.p90, spread.p99]


def test_area_between_quantile_functions():
    # Half of the values have to move by 2 and half by 4, of a mean of 10.
    found = distance(Sample(np.array([7.0, 13.0])), Sample(np.array([5.0, 15.0])))
    assert found.wasserstein == pytest.approx(0.2)
    mine, true = np.array([1.0, 4.0, 9.0]), np.array([2.0, 4.0, 6.0])
    assert distance(Sample(mine), Sample(true)).wasserstein == pytest.approx((1 + 0 + 3) / 3 / 4)


def test_unknown_values_are_left_out():
    nothing = Sample(np.array([np.nan]))
    assert distance(nothing, Sample(np.ones(3))).wasserstein is None
    pairs = distance(
        Sample(np.array([1.0, np.nan, 3.0]), paired=True), Sample(np.array([2.0, 5.0, 3.0]), paired=True)
    )
    assert pairs.request_error == pytest.approx(0.25)
    # Medians, KS and area cannot tell these apart; requests can.
    swapped = distance(Sample(np.array([1.0, 2.0]), paired=True), Sample(np.array([2.0, 1.0]), paired=True))
    assert (swapped.wasserstein, swapped.ks, swapped.correlation) == (0.0, 0.0, -1.0)
