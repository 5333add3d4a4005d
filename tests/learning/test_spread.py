"""Intervals of held-out rows hold as often as they say."""

from dataclasses import replace

import numpy as np
import pytest
from known_runs import table

from moesim.learning.held_out import sides
from moesim.learning.spread import (
    HAVE_UNITS,
    OWN_QUANTILES,
    TOWARDS_WORST,
    bounds_of,
    constant_bounds,
    group_quantiles,
    interval_score,
    left_out_scale,
    quantiles_of,
    residuals,
    scale_process,
    span_of,
)


def groups(n, each):
    return np.repeat([f"g{i:03d}" for i in range(n // each)], each)


def test_quantiles_are_those_of_conformal_prediction():
    # Of 19 equally likely places, 1 and 19 are the ends at 90 %: ceil(20 x 0.95) = 19.
    assert quantiles_of(np.arange(1.0, 20.0), 0.9) == (1.0, 19.0)


def test_conformal_quantiles_hold_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(3000):
        seen, new = rng.standard_t(3, 60), rng.standard_t(3)
        low, high = quantiles_of(seen, 0.9)
        held.append(low <= new <= high)
    assert 0.885 < np.mean(held) < 0.94


def test_true_quantiles_minimise_the_interval_score():
    y = np.random.default_rng(1).normal(size=20_000)
    ones = np.ones_like(y)
    best = interval_score(y, -1.645 * ones, 1.645 * ones, 0.9)
    for width in (1.2, 1.4, 1.9, 2.2):
        assert best < interval_score(y, -width * ones, width * ones, 0.9)
    # Closed form for a Gaussian: 2 x density at the quantile over the tail.
    assert best == pytest.approx(2 * 0.10313 / 0.05, rel=0.02)


def test_units_are_used_where_they_tell_and_only_there():
    rng = np.random.default_rng(2)
    scale = np.exp(rng.normal(0.0, 1.0, 4000))
    names = groups(4000, 40)
    assert span_of(scale * rng.normal(size=4000), scale, names, "layout", 0.9).strength == 1.0
    assert span_of(np.sqrt(scale) * rng.normal(size=4000), scale, names, "layout", 0.9).strength == 0.5
    assert span_of(rng.normal(size=4000), scale, names, "layout", 0.9).strength == 0.0


def test_an_interval_holds_its_prediction():
    span = span_of(np.full(50, 0.3), np.ones(50), groups(50, 10), "layout", 0.9)
    assert span.low == 0.0
    assert span.high == pytest.approx(0.3)


def test_the_worst_group_widens_the_interval_of_another():
    rng = np.random.default_rng(3)
    units = np.concatenate([rng.normal(0, 1, 500), rng.normal(4, 1, 40)])
    names = np.array(["many"] * 500 + ["few"] * 40)
    low, high = group_quantiles(units, names, 0.9)
    alone = quantiles_of(units, 0.9)
    worst = np.quantile(units[500:], 0.95)
    assert high == pytest.approx(alone[1] + TOWARDS_WORST * (worst - alone[1]))
    assert low <= alone[0]
    # A handful of rows has no quantiles to look at: only what all have, and what the many have.
    part = slice(500 + OWN_QUANTILES - 1)
    few = group_quantiles(units[part], names[part], 0.9)
    assert few == pytest.approx(quantiles_of(units[part], 0.9), abs=1e-3)


@pytest.mark.parametrize("kind", ["system", "model"])
def test_of_new_systems_and_models_one_width_serves_all(kind):
    rng = np.random.default_rng(4)
    scale = np.exp(rng.normal(0.0, 1.0, 400))
    assert span_of(scale * rng.normal(size=400), scale, groups(400, 100), kind, 0.9).strength == 0.0
    found = table()
    assert set(left_out_scale(found, rng.normal(size=len(found.rows)), kind)) == {1.0}


@pytest.mark.parametrize("kind", ["sweep", "layout", "system", "model"])
def test_intervals_of_known_truth_hold(kind):
    """Errors of four groups of one size, with units of the right size: 90 % within what chance allows."""
    held = []
    for seed in range(6):
        found = table(seed, layouts=4)
        rng = np.random.default_rng(100 + seed)
        scale = np.exp(rng.normal(0.0, 0.5, len(found.rows)))
        residual = 0.1 * scale * rng.normal(size=len(found.rows))
        low, high = bounds_of(found, residual, scale, kind, 0.9)
        held.append(np.mean((residual >= low) & (residual <= high)))
        # Right units cost less than one width for all.
        one = constant_bounds(found, residual, kind, 0.9)
        if kind in HAVE_UNITS:
            assert interval_score(residual, low, high, 0.9) < 1.1 * interval_score(residual, *one, 0.9)
    assert 0.87 < np.mean(held) < 0.96


def test_expected_errors_are_those_that_were_put_in():
    found = table(5, layouts=4)
    loads = np.array([row.concurrency for row in found.rows])
    size = np.where(loads > 32, 0.4, 0.05)
    residual = size * np.random.default_rng(5).normal(size=len(loads))
    scale = left_out_scale(found, residual, "layout")
    assert np.median(scale[loads > 32]) > 3.0 * np.median(scale[loads < 32])


def test_expected_errors_do_not_see_their_own_group():
    found = table(6)
    residual = np.random.default_rng(6).normal(0, 0.1, len(found.rows))
    side = sides(found, "layout")[0]
    before = left_out_scale(found, residual, "layout")
    after = left_out_scale(found, np.where(side, 10.0 * residual, residual), "layout")
    assert after[side].tolist() == before[side].tolist()
    assert after[~side].tolist() != before[~side].tolist()


def test_latency_is_made_of_both_times():
    found = table(7)
    off = residuals(found, (found.tpot / 2.0, found.ttft / 2.0))
    for metric in ("tpot", "ttft", "e2el"):
        assert off[metric] == pytest.approx(np.log(2.0))


def test_equal_errors_are_expected_everywhere():
    found = table(8)
    process = scale_process(found, np.full(len(found.rows), 0.2))
    at = process.mean(process.encode(found.labels), found.values)
    assert at == pytest.approx(np.log(0.2) + 0.635)


def test_a_metric_may_be_off_in_one_row_only():
    found = table(9)
    other = replace(found, ttft=found.ttft * 2.0)
    off = residuals(other, (found.tpot, found.ttft))
    assert off["tpot"] == pytest.approx(0.0)
    assert off["ttft"] == pytest.approx(np.log(2.0))
