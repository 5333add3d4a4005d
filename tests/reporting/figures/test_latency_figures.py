"""Latencies are drawn as they are spread, tails too."""

import time

import numpy as np
import pytest
from drawing import EVIL, curve, drawn, sound, texts

from moesim.errors import ConfigError
from moesim.reporting.figures import Quantiles, latency_cdf, serving_over_time
from moesim.reporting.figures.given import percent

RNG = np.random.default_rng(3)
LEVELS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)


@pytest.mark.parametrize("n", [1, 2, 100, 401, 5000, 1_000_000])
def test_quantiles_are_numpys(n):
    values = RNG.lognormal(-1.0, 1.0, n)
    found = Quantiles.of(values)
    assert len(found.levels) <= 400
    assert found.n == n
    for level in LEVELS:
        assert found.at(level) == pytest.approx(np.quantile(values, level), rel=1e-12)
    assert found.values_s[-1] == values.max()
    for limit in np.quantile(values, [0.03, 0.5, 0.97, 0.9995]):
        assert found.share_within(limit) == pytest.approx((values <= limit).mean(), abs=2e-3)
    assert found.share_within(0.0) == 0.0
    assert found.share_within(values.max()) == 1.0


def test_a_million_values_take_a_moment():
    values = RNG.lognormal(-1.0, 1.0, 1_000_000)
    began = time.process_time()
    Quantiles.of(values)
    # 0.1 s; more where others are busy.
    assert time.process_time() - began < 1.0


def test_what_is_not_finite_is_counted_and_left_out():
    values = np.array([0.1, np.nan, 0.3, np.inf, 0.2])
    found = Quantiles.of(values)
    assert (found.n, found.missing, found.values_s.tolist()) == (3, 2, [0.1, 0.2, 0.3])
    figure = latency_cdf({"run": values})
    assert "run 2" in figure.caption
    assert "3 requests" in figure.facts


def test_runs_give_a_mean_and_between_what_they_lie():
    runs = [Quantiles.of(RNG.exponential(1.0, 500)) for _ in range(4)]
    whole = Quantiles.over(runs)
    assert whole.n == 2000
    for level in (0.5, 0.99):
        ends = [run.at(level) for run in runs]
        at = np.argmin(abs(whole.levels - level))
        assert whole.at(level) == pytest.approx(np.mean(ends), rel=1e-2)
        assert whole.low_s[at] <= whole.values_s[at] <= whole.high_s[at]
    figure = latency_cdf({"four runs": whole})
    sound(figure)
    assert "Bands" in figure.caption
    assert {"low", "high"} <= set(figure.data)
    assert drawn(figure).axes[0].collections


def test_curves_rise_through_exact_quantiles_and_the_share_in_time_is_counted():
    values = RNG.lognormal(-1.0, 1.0, 5000)
    figure = latency_cdf({"a": values, "b": values * 2}, limit_s=0.5, attainment=0.5, seed=3)
    sound(figure, "seed 3", "5,000 requests + 5,000 requests")
    canvas = drawn(figure)
    x, y = curve(canvas, "a")
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) > 0).all()
    # Drawn in milliseconds.
    for level in LEVELS:
        assert np.interp(level, y, x) == pytest.approx(1e3 * np.quantile(values, level))
    slow, share = curve(canvas, "a", panel=1)
    assert slow.tolist() == x.tolist()
    assert share.tolist() == (1 - y).tolist()
    inside = [(values * k <= 0.5).mean() for k in (1, 2)]
    assert f"a {percent(inside[0])}; b {percent(inside[1])}" in figure.caption
    assert inside[0] > 0.5 > inside[1]
    assert "kept by a." in figure.caption
    marks = [
        line for line in canvas.axes[0].lines if line.get_xdata()[0] == 500 and len(line.get_xdata()) == 1
    ]
    assert [mark.get_ydata()[0] for mark in marks] == inside
    assert any(np.ravel(line.get_xdata()).tolist() == [500, 500] for line in canvas.axes[0].lines)
    assert "limit 500 ms" in texts(canvas)


def test_a_limit_far_from_all_requests_is_said_at_the_edge():
    values = RNG.uniform(0.05, 0.1, 100)
    without, above, below = (drawn(latency_cdf({"a": values}, limit_s=limit)) for limit in (None, 1.0, 0.0))
    assert without.axes[0].get_xlim() == above.axes[0].get_xlim() == below.axes[0].get_xlim()
    assert "limit 1,000 ms \N{RIGHTWARDS ARROW}" in texts(above)
    assert "limit 0 ms \N{LEFTWARDS ARROW}" in texts(below)
    assert "a 100 %" in latency_cdf({"a": values}, limit_s=1.0).caption


def test_intervals_of_percentiles_and_counted_shares_are_drawn():
    values = RNG.exponential(1.0, 800)
    spans = {0.5: (0.6, 0.8), 0.99: (4.0, 6.0)}
    figure = latency_cdf(
        {"a": values, "b": values, "c": values}, limit_s=2.0, counted={"a": 0.8}, intervals={"a": spans}
    )
    sound(figure, "2,400 requests of 3 runs")
    bars = [line for line in drawn(figure).axes[0].lines if line.get_linewidth() == 4]
    assert [bar.get_xdata().tolist() for bar in bars] == [[600, 800], [4000, 6000]]
    assert [list(bar.get_ydata()) for bar in bars] == [[0.5, 0.5], [0.99, 0.99]]
    assert "a 80 %; b 8" in figure.caption
    assert "Bars: intervals" in figure.caption
    rows = list(zip(*figure.data.values(), strict=True))
    assert ("a", 0.5, pytest.approx(np.median(values)), 0.6, 0.8) in rows
    with pytest.raises(ConfigError) as raised:
        latency_cdf({"a": values}, counted={"a": 2.0}, intervals={"a": {1.5: (0.1, np.nan)}})
    assert len(raised.value.faults) == 3


def test_percentiles_alone_are_marked():
    figure = latency_cdf({"summary": Quantiles([0.5, 0.9, 0.99], [0.1, 0.2, 0.4], 1000)}, "tpot_s")
    sound(figure, "1,000 requests", "TPOT")
    assert drawn(figure).axes[0].lines[0].get_marker() == "o"


def test_names_are_text():
    sound(latency_cdf({EVIL: [0.1, 0.2]}))


def test_nothing_and_less_than_no_time_are_refused():
    with pytest.raises(ConfigError) as raised:
        latency_cdf({"a": [], "b": [-1.0], "c": [np.nan]}, limit_s=-1.0, attainment=2.0)
    assert len(raised.value.faults) == 5
    with pytest.raises(ConfigError):
        latency_cdf({})
    with pytest.raises(ConfigError):
        Quantiles([0.5, 0.4], [1.0, 0.5], 0)
    with pytest.raises(ConfigError):
        Quantiles.over([])


def test_queues_are_drawn_span_by_span():
    edges = np.linspace(0, 100, 51)
    running, waiting = RNG.uniform(0, 9, 50), RNG.uniform(0, 5, 50)
    cache = np.where(np.arange(50) < 3, np.nan, 0.5)
    figure = serving_over_time(edges, running, waiting, kv_share=cache, window_s=(10, 90), seed=1)
    sound(figure, "seed 1")
    steps = drawn(figure).axes[0].patches
    assert steps[1].get_data().values.tolist() == running.tolist() == figure.data["running"]
    assert steps[2].get_data().values.tolist() == waiting.tolist() == figure.data["waiting"]
    assert steps[1].get_data().edges.tolist() == edges.tolist()
    assert figure.data["kv_share"][0] is None
    assert f"{running.mean():.3g} run" in figure.caption
    assert "50 %" in figure.caption


def test_times_that_do_not_ascend_are_refused():
    for edges in ([0, 0, 1], [0], []):
        with pytest.raises(ConfigError):
            serving_over_time(edges, [1, 1], [0, 0])
