"""Requests and cache over time, against sums over requests and steps."""

import numpy as np
import pytest

from moesim.prediction import Engine
from moesim.requests import generate_requests, parse_lengths
from moesim.serving.over_time import over_time, requests_over_time
from moesim.serving.pricing import constant_prices
from moesim.serving.settings import Fleet, Scheduler
from moesim.serving.simulate import follow, rules_of
from moesim.serving.state import BLOCKS_S, LOG_BLOCKS, LOG_REPLICA, LOG_START
from moesim.serving.statistics import summarise


def run(blocks=4000):
    trace = generate_requests(
        300, "poisson:40", parse_lengths("lognormal:200:0.5"), parse_lengths("lognormal:30:0.8")
    )
    rules = rules_of(Scheduler(), Fleet(2), 1, 512, 16, trace, Engine(), 0)
    return follow(trace, rules, constant_prices(0.01), 2, blocks)


@pytest.fixture(scope="module")
def outcome():
    return run()


def test_spans_hold_what_the_requests_spent_in_them(outcome):
    found = over_time(outcome, 37)
    p, edges = outcome.state.progress, found.edges_s
    assert (edges[0], edges[-1]) == pytest.approx(outcome.span_s)
    for k in (0, 5, 36):
        low, high = edges[k : k + 2]
        for series, begin, end in (
            (found.waiting, p.sent_s, p.scheduled_s),
            (found.running, p.scheduled_s, p.last_s),
        ):
            inside = sum(max(min(b, high) - max(a, low), 0.0) for a, b in zip(begin, end, strict=True))
            assert series[k] == pytest.approx(inside / (high - low), abs=1e-9)


def test_means_are_those_of_the_summary(outcome):
    found = over_time(outcome)
    whole = summarise(outcome, warmup="none", cooldown="none").values
    assert found.running.mean() == pytest.approx(whole["running"])
    assert found.waiting.mean() == pytest.approx(whole["waiting"])
    assert found.running.max() > whole["running"]


def test_cache_is_the_blocks_of_steps(outcome):
    tally = outcome.state.tally
    found = over_time(outcome, 50)
    log = tally.log[: int(tally.logged[0])]
    fine = np.linspace(*outcome.span_s, 50 * 400 + 1)[:-1] + 1e-9
    used = np.zeros(len(fine))
    for replica in (0, 1):
        steps = log[log[:, LOG_REPLICA] == replica]
        at = np.searchsorted(steps[:, LOG_START], fine, side="right") - 1
        used += np.where(at >= 0, steps[at, LOG_BLOCKS], 0.0)
    expected = used.reshape(50, 400).mean(1) / outcome.state.lanes.capacity.sum()
    assert found.kv_share == pytest.approx(expected, abs=2e-3)
    assert found.kv_share.max() <= 1.0
    assert tally.sums[:, BLOCKS_S].sum() > 0


def test_steps_that_were_not_kept_are_gaps(outcome):
    tally = outcome.state.tally
    short = outcome.state._replace(tally=tally._replace(log=tally.log[: int(tally.logged[0]) // 2]))
    found = over_time(type(outcome)(outcome.requests, short, outcome.rules))
    gaps = np.isnan(found.kv_share)
    assert 0 < gaps.sum() < len(gaps)
    assert (np.diff(gaps.astype(int)) >= 0).all()
    assert found.to_dict()["kv_share"][-1] is None


def test_what_did_not_happen_lasts_to_the_end():
    nan = np.nan
    found = requests_over_time(
        np.array([0.0, 1.0, 2.0, nan]),
        np.array([0.0, nan, 3.0, nan]),
        np.array([2.0, nan, nan, nan]),
        0,
        4,
        4,
    )
    assert found.running.tolist() == [1, 1, 0, 1]
    assert found.waiting.tolist() == [0, 1, 2, 1]
    still = requests_over_time(np.array([nan]), np.array([nan]), np.array([nan]), 0.0, 0.0, 3)
    assert still.running.tolist() == still.waiting.tolist() == [0, 0, 0]
