"""Statistics of runs against numpy, scipy and loops by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from moesim.errors import ConfigError
from moesim.prediction import Engine
from moesim.requests import generate_requests, parse_lengths
from moesim.serving.intervals import half_width, neighbours, over_batches, over_replications
from moesim.serving.outcome import Outcome
from moesim.serving.pricing import constant_prices
from moesim.serving.settings import Fleet, Scheduler
from moesim.serving.simulate import follow, rules_of
from moesim.serving.statistics import gaps_of, meets, summarise, tokens_within
from moesim.serving.warmup import mser, parse_cut, window_of


def run(requests=400, arrivals="poisson:6", output="lognormal:30:0.8", replicas=2, blocks=4000) -> Outcome:
    trace = generate_requests(requests, arrivals, parse_lengths("lognormal:200:0.5"), parse_lengths(output))
    rules = rules_of(Scheduler(), Fleet(replicas), 1, 512, 16, trace, Engine(), 0)
    return follow(trace, rules, constant_prices(0.01), replicas, blocks)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return run()


@given(st.lists(st.floats(-1e3, 1e3), min_size=20, max_size=120))
def test_mser_is_the_smallest_standard_error(series):
    n = len(series) // 5
    means = np.array(series[: n * 5]).reshape(n, 5).mean(axis=1)
    errors = [float(((means[d:] - means[d:].mean()) ** 2).sum()) / (n - d) ** 2 for d in range(n // 2 + 1)]
    cut, _ = mser(series)
    assert cut % 5 == 0
    assert errors[cut // 5] <= min(errors) * (1 + 1e-6) + 1e-9


def test_mser_of_a_known_series():
    # A transient of 40 samples that decays to noise: nearly all of it is cut, and little of the rest.
    rng = np.random.default_rng(3)
    series = rng.normal(10.0, 1.0, 1000) + 50.0 * np.exp(-np.arange(1000) / 10.0)
    cut, settled = mser(series)
    assert settled
    assert 30 <= cut <= 80
    assert mser(np.arange(1000.0)) == (500, False)
    assert mser(np.full(100, 7.1)) == (0, True)


def test_latencies_are_numpys(outcome):
    found = summarise(outcome, warmup="none", cooldown="none")
    p = outcome.state.progress
    ttft = p.first_s - p.sent_s
    assert outcome.done.all()
    assert found.values["ttft_s"] == pytest.approx(ttft.mean())
    assert found.values["latency"]["ttft_s"]["p95"] == pytest.approx(np.percentile(ttft, 95))
    whole = (p.last_s - p.first_s)[p.generated > 1] / (p.generated[p.generated > 1] - 1)
    assert found.values["latency"]["tpot_s"]["p99"] == pytest.approx(np.percentile(whole, 99))
    duration = p.last_s.max() - p.sent_s.min()
    assert found.values["request_throughput"] == pytest.approx(len(ttft) / duration)
    assert found.values["output_throughput"] == pytest.approx(outcome.requests.output_tokens.sum() / duration)
    both = outcome.requests.output_tokens.sum() + outcome.requests.input_tokens.sum()
    assert found.values["total_token_throughput"] == pytest.approx(both / duration)


def test_littles_law_holds_in_the_whole_run(outcome):
    found = summarise(outcome, warmup="none", cooldown="none").values
    in_system = found["waiting"] + found["running"]
    assert in_system == pytest.approx(found["request_throughput"] * found["e2el_s"], rel=1e-9)


def test_gaps_between_tokens_come_from_bins(outcome):
    found = gaps_of(outcome)
    p = outcome.state.progress
    later = np.maximum(p.generated - 1, 0)
    assert found["mean"] == pytest.approx((p.last_s - p.first_s).sum() / later.sum())
    # Every step takes 10 ms, and who decodes is in every step: all gaps are of one bin.
    assert found["p50"] == pytest.approx(0.01, rel=0.003)
    assert found["p99"] == pytest.approx(0.01, rel=0.003)


def test_goodput_counts_those_within_all_limits(outcome):
    limits = {"ttft_s": float(np.median(outcome.ttft_s)), "e2el_s": float(np.median(outcome.e2el_s))}
    good = (outcome.ttft_s <= limits["ttft_s"]) & (outcome.e2el_s <= limits["e2el_s"])
    assert (meets(outcome, limits) == good).all()
    found = summarise(outcome, goodput=limits, warmup="none", cooldown="none").values
    assert found["attainment"] == pytest.approx(good.mean())
    assert found["request_goodput"] == pytest.approx(good.sum() / found["duration_s"])


def test_one_token_meets_any_limit_between_tokens():
    alone = run(50, output="1")
    assert np.isnan(alone.tpot_s).all()
    assert meets(alone, {"tpot_s": 1e-9}).all()


def test_tokens_of_a_span_add_up(outcome):
    begin, end = outcome.span_s
    marks = np.linspace(begin, end, 8)
    # Spans are closed, so inner marks are moved off all events.
    marks[1:-1] += 1.23e-7
    parts = [tokens_within(outcome, a, b).sum() for a, b in pairwise(marks)]
    assert sum(parts) == pytest.approx(outcome.requests.output_tokens.sum(), rel=1e-9)


def test_a_window_leaves_out_what_it_says(outcome):
    sent = outcome.state.progress.sent_s
    whole = window_of(outcome, "none", "none")
    assert whole.chosen.all()
    assert (whole.from_s, whole.to_s) == outcome.span_s
    cut = window_of(outcome, parse_cut("5s", ""), parse_cut("0.25", ""))
    assert cut.cut == (int((sent < sent[0] + 5).sum()), 100)
    assert (sent[cut.chosen] >= sent[0] + 5).all()
    with pytest.raises(ConfigError, match="nothing of the run"):
        window_of(outcome, -0.6, -0.6)


def test_warm_up_of_a_queue_that_fills_is_found():
    # 16 at once, started together: at first all steps read prompts.
    found = window_of(run(600, "closed:64", replicas=2))
    assert found.cut[0] > 0
    assert found.cut[0] <= 300


@pytest.mark.parametrize("text", ["soon", "-3s", "1", "nan", "2.5", "infs"])
def test_what_is_no_cut_is_refused(text):
    with pytest.raises(ConfigError, match="--warmup"):
        parse_cut(text, "--warmup")


def test_intervals_are_scipys():
    sample = np.random.default_rng(0).normal(5.0, 2.0, 12)
    low, high = stats.t.interval(0.95, 11, sample.mean(), stats.sem(sample))
    assert over_replications(sample.tolist()) == pytest.approx((low, high))
    assert half_width([1.0]) == np.inf
    assert over_replications([1.0, None, 2.0]) is None


def test_intervals_of_batches_hold_the_mean():
    # 400 runs of independent samples: 95 % intervals miss in 20 of them, give or take 3 deviations of 4.4.
    rng = np.random.default_rng(1)
    missed = {"mean": 0, "p90": 0}
    for _ in range(400):
        sample = rng.exponential(1.0, 2000)
        low, high, _ = over_batches(sample, lambda x: float(x.mean()))
        missed["mean"] += not low <= 1.0 <= high
        low, high, _ = over_batches(sample, lambda x: float(np.percentile(x, 90)))
        missed["p90"] += not low <= np.log(10.0) <= high
    assert 7 <= missed["mean"] <= 33
    assert missed["p90"] <= 36


def test_neighbours_tell_trends_from_noise():
    assert neighbours(np.arange(20.0)) > 0.8
    assert abs(neighbours(np.random.default_rng(2).normal(size=4000))) < 0.06
    assert neighbours(np.ones(5)) == 0.0


def test_too_few_requests_have_no_interval():
    found = summarise(run(30))
    assert found.interval == {}
    assert any("--replications" in note for note in found.notes)


def test_a_trend_is_told():
    # Overload: the queue grows without end.
    found = summarise(run(2000, "poisson:500"), warmup="none", cooldown="none")
    assert any("too narrow" in note for note in found.notes)
