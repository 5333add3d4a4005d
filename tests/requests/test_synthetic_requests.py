"""Made-up requests against the theory of the processes they are to follow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.requests import (
    ClosedLoop,
    Diurnal,
    Empirical,
    Gamma,
    Lognormal,
    generate_requests,
    parse_arrivals,
    parse_lengths,
    request_trace,
    resample,
    with_arrivals,
)

N = 200_000


def _times(arrivals, seed=0, n=N):
    return arrivals.times_s(n, np.random.default_rng(seed))


def _counts(times, window_s):
    return np.bincount((times / window_s).astype(np.int64))[:-1]


def test_poisson_counts_have_the_variance_of_their_mean():
    counts = _counts(_times(Gamma(5.0)), 10.0)
    # Mean 50 and variance 50; standard errors over 4,000 windows are 0.11 and 1.1.
    assert counts.mean() == pytest.approx(50, abs=0.45)
    assert counts.var() == pytest.approx(50, abs=4.5)
    halves = counts[:-1].astype(float), counts[1:].astype(float)
    assert abs(np.corrcoef(*halves)[0, 1]) < 4 / np.sqrt(len(counts))


@pytest.mark.parametrize("cv", [0.25, 1.0, 2.0, 4.0])
def test_gamma_gaps(cv):
    gaps = np.diff(_times(Gamma(8.0, cv)), prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 8, rel=4 * cv / np.sqrt(N))
    # The relative error of a sample's deviation is sqrt((kurtosis - 1) / 4 n), kurtosis 3 + 6 cv^2.
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=4 * np.sqrt((2 + 6 * cv**2) / (4 * N)))
    # Long windows: a renewal process' index of dispersion tends to cv^2.
    counts = _counts(np.cumsum(gaps), 200.0)
    assert counts.var() / counts.mean() == pytest.approx(cv**2, rel=0.5)


def test_fixed_rate():
    assert _times(parse_arrivals("fixed:4"), n=4).tolist() == [0.0, 0.25, 0.5, 0.75]


def test_diurnal_rate_follows_the_clock():
    process = Diurnal(20.0, 0.8, period_s=100.0)
    times = _times(process)
    assert len(times) / times[-1] == pytest.approx(20, rel=0.01)
    phase = (times % 100.0) // 10
    share = np.bincount(phase.astype(int)) / N
    edges = np.arange(0, 101, 10) / 100
    # The integral of 1 + 0.8 sin(2 pi t) over each tenth of the period.
    expected = np.diff(edges - 0.8 * np.cos(2 * np.pi * edges) / (2 * np.pi))
    np.testing.assert_allclose(share, expected, atol=4 * np.sqrt(0.1 / N))
    assert (np.diff(times) > 0).all()


def test_closed_loop():
    trace = generate_requests(10, "closed:4", 100, 10)
    assert trace.concurrency == 4
    assert not trace.arrival_s.any()
    assert isinstance(parse_arrivals("closed:4"), ClosedLoop)


def test_lognormal_lengths():
    drawn = Lognormal(900.0, 1.5).draw(N, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(900, rel=4 * 1.5 / np.sqrt(N))
    assert np.log(drawn).std() == pytest.approx(np.sqrt(np.log1p(1.5**2)), rel=0.01)
    assert drawn.min() >= 1


def test_empirical_lengths_come_from_what_was_observed():
    drawn = Empirical(np.array([3, 3, 7])).draw(30_000, np.random.default_rng(0))
    assert set(drawn.tolist()) == {3, 7}
    assert (drawn == 3).mean() == pytest.approx(2 / 3, abs=4 * np.sqrt(2 / 9 / 30_000))


def test_lengths_are_resampled_in_pairs():
    trace = request_trace([0.0, 1.0], [10, 1000], [5, 500], session=[1, 2])
    drawn = resample(trace, 1000, "poisson:3", seed=4)
    assert set(zip(drawn.input_tokens.tolist(), drawn.output_tokens.tolist(), strict=True)) == {
        (10, 5),
        (1000, 500),
    }
    assert drawn.session is None
    assert len(drawn) == 1000


def test_other_times_leave_the_requests_alone():
    trace = generate_requests(50, "poisson:3", parse_lengths("lognormal:100:1"), 9, seed=1)
    moved = with_arrivals(trace, "fixed:10", seed=1)
    assert (moved.input_tokens == trace.input_tokens).all()
    assert moved.arrival_s[-1] == pytest.approx(4.9)


def test_the_seed_is_all_that_matters():
    def make(seed, arrivals="gamma:5:2"):
        return generate_requests(100, arrivals, parse_lengths("lognormal:100:1"), 9, seed=seed)

    assert (make(1).arrival_s == make(1).arrival_s).all()
    assert (make(1).arrival_s != make(2).arrival_s).all()
    # The arrival process does not change the lengths.
    assert (make(1).input_tokens == make(1, "fixed:1").input_tokens).all()


@given(rate=st.floats(0.01, 1e4), factor=st.sampled_from([2.0, 10.0]), cv=st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=30)
def test_twice_the_rate_halves_every_time(rate, factor, cv):
    slow, fast = (_times(Gamma(r, cv), n=50) for r in (rate, rate * factor))
    np.testing.assert_allclose(slow, fast * factor, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poison:3", "is no way to arrive"),
        ("poisson:0", "RATE is wrong"),
        ("poisson:nan", "RATE is wrong"),
        ("gamma:3", "wrong number of parts"),
        ("gamma:x:-1", "2 faults"),
        ("closed:2.5", "CONCURRENCY is wrong"),
        ("diurnal:3:2", "SWING is wrong"),
    ],
)
def test_arrivals_spelled_wrong(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_arrivals(text)


@pytest.mark.parametrize("text", ["0", "fixed:x", "lognormal:100", "uniform:1:2", "2.5", ""])
def test_lengths_spelled_wrong(text):
    with pytest.raises(ConfigError, match="is no length"):
        parse_lengths(text)


def test_no_requests_is_an_error():
    with pytest.raises(ConfigError, match="at least 1"):
        generate_requests(0, "poisson:1", 1, 1)
