"""What is drawn is what the documents say."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.reporting import load_figures, time_figures
from moesim.reporting.documents import LowerBound, PricePoint, RankLoads
from moesim.reporting.gather import placement_document, prediction_document


@pytest.fixture(scope="session")
def answers(predictions):
    return [prediction_document(p) for p in predictions]


def test_breakdown_bars_add_up(answers, overlapped, canvases):
    shown = [*answers, prediction_document(overlapped)]
    figure = time_figures.breakdown("t", shown, ["a", "b", "c", "d"])
    (axes,) = canvases[0].axes
    for row, answer in enumerate(reversed(shown)):
        bars = [p for p in axes.patches if p.get_y() + p.get_height() / 2 == row]
        assert sum(p.get_width() for p in bars) == pytest.approx(answer.tpot_s * 1e3, rel=1e-9)
    # Overlap hides time: it is drawn to the left of zero, so that nothing covers anything.
    hidden = sum(line.seconds for line in overlapped.breakdown if line.seconds < 0)
    assert min(p.get_x() + p.get_width() for p in axes.patches) == pytest.approx(hidden * 1e3)
    assert "Left of zero" in figure.caption
    assert len(overlapped.breakdown) > len(time_figures.CATEGORIES)


def test_breakdown_bars_do_not_cover_each_other(answers, canvases):
    time_figures.breakdown("t", answers[:1], ["a"])
    spans = sorted((p.get_x(), p.get_x() + p.get_width()) for p in canvases[0].axes[0].patches)
    assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(spans))


def test_bounds_figure_shows_value_interval_and_bound(answers, canvases):
    time_figures.against_bounds("b", answers[:1], ["a"])
    answer = answers[0]
    panels = canvases[0].axes
    for axes, name, scale in zip(
        panels, ("ttft_s", "tpot_s", "output_throughput"), (1e3, 1e3, 1.0), strict=True
    ):
        drawn = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
        assert drawn["predicted"] == [getattr(answer, name) * scale]
        assert drawn["bound: nothing beats it"] == [answer.bounds[name] * scale]
        low, high = axes.get_xlim()
        assert all(low <= x <= high for xs in drawn.values() for x in xs)
    assert [x / 1e3 for x in panels[1].lines[0].get_xdata()] == pytest.approx(answer.interval.tpot_s)


def test_far_apart_values_get_a_logarithmic_axis(answers, canvases):
    far = answers[0].model_copy(update={"bounds": {"tpot_s": answers[0].tpot_s / 1000}})
    time_figures.against_bounds("b", [far], ["a"])
    assert canvases[0].axes[1].get_xscale() == "log"
    near = answers[0].model_copy(update={"bounds": {"tpot_s": answers[0].tpot_s / 2}, "interval": None})
    time_figures.against_bounds("b", [near], ["a"])
    assert canvases[1].axes[1].get_xscale() == "linear"


def _octaves(canvas):
    return canvas.axes[0].images[0].get_array()


def test_heat_map_is_the_share_of_the_mean(canvases):
    loads = [[1.0, 1.0, 2.0, 4.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 8.0]]
    figure = load_figures.expert_load_map("m", loads, [3, 4, 5], ranks=2)
    assert np.allclose(_octaves(canvases[0]), [[-1, -1, 0, 1], [0, 0, 0, 0], [-3, -3, -3, 2]])
    assert "4.0 times" in figure.caption
    assert "n = 36 selections" in figure.caption
    scaled = [[x * 1000 for x in row] for row in loads]
    load_figures.expert_load_map("m", scaled, [3, 4, 5], ranks=2)
    assert np.allclose(_octaves(canvases[1]), _octaves(canvases[0]))


def test_heat_map_of_idle_layers(canvases):
    load_figures.expert_load_map("m", [[0.0, 0.0], [1.0, 3.0]], [0, 1], ranks=2)
    drawn = _octaves(canvases[0])
    assert np.isnan(np.asarray(drawn[0], dtype=float)).all() or np.ma.getmaskarray(drawn)[0].all()
    assert np.allclose(drawn[1], np.log2([0.5, 1.5]))
    load_figures.expert_load_map("m", [[0.0, 0.0]], [0], ranks=1)


def test_rank_bars_are_sorted_and_conserve_load(canvases):
    loads = RankLoads(layer_id=9, contiguous=[1.0, 6.0, 3.0, 2.0], plan=[3.0, 3.0, 2.0, 4.0])
    load_figures.rank_loads("r", loads)
    heights = np.array([p.get_height() for p in canvases[0].axes[0].patches]).reshape(2, 4)
    assert np.allclose(heights, [[2.0, 1.0, 2 / 3, 1 / 3], [4 / 3, 1.0, 1.0, 2 / 3]])
    assert np.allclose(heights.sum(axis=1), 4)


def test_layers_figure_draws_every_placement_and_the_bound(placed, trace, canvases):
    document = placement_document(placed, trace)
    load_figures.imbalance_by_layer(
        "l", document.load_imbalance, document.lower_bound, document.moe_layer_ids, 0
    )
    whole, near = canvases[0].axes
    drawn = {line.get_label(): line.get_ydata() for line in whole.lines}
    for name, judged in placed.judged.items():
        assert np.array_equal(drawn[name], judged.fitted.per_layer)
    assert np.array_equal(drawn["lower bound"], placed.lower_bound)
    assert all(np.all(drawn["lower bound"] <= drawn[name] * (1 + 1e-12)) for name in placed.judged)
    low, high = near.get_ylim()
    assert low < drawn["lower bound"].min()
    assert drawn["greedy"].max() < high < drawn["contiguous"].max()


def test_layers_figure_with_other_load_and_idle_layers(placed, trace, canvases):
    document = placement_document(placed, trace)
    judged = {
        name: found.model_copy(update={"evaluated": found.fitted})
        for name, found in document.load_imbalance.items()
    }
    idle = LowerBound(mean=None, per_layer=[None] * len(document.moe_layer_ids))
    load_figures.imbalance_by_layer("l", judged, idle, document.moe_layer_ids, None)
    assert len(canvases[0].axes) == 3


def _points(*rows):
    return [
        PricePoint(tokens_per_rank=float(t), before_tpot_s=b, balanced_tpot_s=m, after_tpot_s=a)
        for t, b, m, a in rows
    ]


def test_break_even_is_where_the_plan_changes_sides():
    points = _points((4, 2.0, 1.0, 1.5), (16, 3.0, 2.0, 2.0), (64, 9.0, 5.0, 4.0), (256, 9.0, None, 9.5))
    assert time_figures.break_even(points) == [(4, 16, True), (64, 256, False)]
    assert time_figures.break_even(_points((4, 2.0, 1.0, None), (16, None, None, 1.0))) == []


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.1, 10)), max_size=12))
def test_break_even_alternates(rows):
    points = _points(*((2.0**i, *row) for i, row in enumerate(rows)))
    flips = time_figures.break_even(points)
    assert all(a[2] != b[2] and a[1] <= b[0] for a, b in pairwise(flips))
    wins = [p.after_tpot_s <= min(p.before_tpot_s, p.balanced_tpot_s) for p in points]
    if wins:
        assert (len(flips) % 2 == 1) == (wins[0] != wins[-1])


def test_prices_figure(canvases):
    rows = ((4, 2.0, 1.0, 1.5), (16, 3.0, 2.0, 1.9), (64, 9.0, None, 4.0))
    figure = time_figures.prices("p", _points(*rows))
    left, right = canvases[0].axes
    times = {line.get_label(): line.get_ydata() for line in left.lines}
    assert np.allclose(times["after (the plan)"], [1500, 1900, 4000])
    assert np.isnan(times["best without redundancy"][2])
    gains = {line.get_label(): line.get_ydata() for line in right.lines}
    assert np.allclose(gains["against before (contiguous)"], [1 / 3, 3 / 1.9 - 1, 1.25])
    assert "becomes the fastest between 4 and 16" in figure.caption
    assert not math.isclose(*right.get_ylim())


def test_figures_are_deterministic(answers):
    one, two = (time_figures.breakdown("t", answers, ["a", "b", "c"]) for _ in range(2))
    assert one == two
    assert "<dc:date>" not in one.svg
