"""Bars, intervals, curves and lanes are as long as the times they stand for."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from drawing import drawn, texts
from hypothesis import given
from hypothesis import strategies as st

import moesim as ms
from moesim.errors import ConfigError
from moesim.prediction import step_timeline
from moesim.reporting.figures import (
    Slice,
    bounds_and_intervals,
    break_even,
    gain_by_batch,
    time_breakdown,
    timeline,
)
from moesim.reporting.figures.theme import HATCHES


def _parts(answer):
    return {line.op: line.seconds for line in answer.breakdown}


def _bars(axes, row):
    return [bar for bar in axes.patches if bar.get_y() + bar.get_height() / 2 == pytest.approx(row)]


def test_breakdown_bars_add_up(predictions, overlapped):
    shown = [*predictions, overlapped]
    figure = time_breakdown([_parts(a) for a in shown], list("abcd"), totals_s=[a.tpot_s for a in shown])
    canvas = drawn(figure)
    (axes,) = canvas.axes
    for row, answer in enumerate(reversed(shown)):
        bars = _bars(axes, row)
        assert sum(bar.get_width() for bar in bars) == pytest.approx(answer.tpot_s * 1e3, rel=1e-9)
        # Nothing covers anything.
        spans = sorted(sorted((b.get_x(), b.get_x() + b.get_width())) for b in bars if b.get_width())
        assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(spans))
    # Overlap hides time: it is drawn to the left of zero, even where there are more operations than colours.
    hidden = sum(line.seconds for line in overlapped.breakdown if line.seconds < 0)
    assert min(bar.get_x() + bar.get_width() for bar in axes.patches) == pytest.approx(hidden * 1e3)
    assert "Left of zero: what overlap hides" in figure.caption
    assert len(overlapped.breakdown) > len(HATCHES)
    assert [text for text in texts(canvas) if text.endswith(" ms")] == [
        f"{a.tpot_s * 1e3:.4g} ms" for a in shown
    ]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abcdefghijklmnop"), st.floats(-1, 10) | st.just(math.nan), max_size=16
        ),
        min_size=1,
        max_size=4,
    )
)
def test_every_second_is_in_the_data(parts):
    figure = time_breakdown(parts, [str(nth) for nth in range(len(parts))])
    for nth, part in enumerate(parts):
        kept = sorted(s for s in part.values() if not math.isnan(s))
        assert kept == sorted(
            s
            for s, label in zip(figure.data["seconds"], figure.data["label"], strict=True)
            if label == str(nth)
        )
    lost = sum(math.isnan(s) for part in parts for s in part.values())
    assert ("without a number" in figure.caption) == bool(lost)


def test_looks_of_operations_repeat_nowhere():
    (axes,) = drawn(time_breakdown([{f"op {i}": 1.0 + i for i in range(14)}], ["a"])).axes
    looks = [(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches]
    assert len(looks) == len(HATCHES) + 1
    assert len({colour for colour, _ in looks}) == len(looks)
    assert len({hatch for _, hatch in looks[:-1]}) == len(HATCHES)
    # The rest is what is left: the five shortest.
    assert axes.patches[-1].get_width() == pytest.approx(sum(1.0 + i for i in range(5)))


@pytest.mark.parametrize(
    ("seconds", "unit", "text"), [(3e-6, "us", "3 us"), (0.02, "ms", "20 ms"), (4e4, "s", "40,000 s")]
)
def test_unit_suits_the_time(seconds, unit, text):
    figure = time_breakdown([{"a": seconds}], ["x"])
    assert figure.unit == unit
    assert text in texts(drawn(figure))
    assert f"[{unit}]" in figure.facts


def test_breakdown_refuses_what_does_not_match():
    with pytest.raises(ConfigError) as caught:
        time_breakdown([{"a": 1.0}], ["x", "y"], totals_s=[1.0, 2.0, 3.0])
    assert [(fault.where, fault.value) for fault in caught.value.faults] == [
        ("parts", 1),
        ("labels", 2),
        ("totals_s", 3),
    ]
    with pytest.raises(ConfigError):
        time_breakdown([], [])


def test_more_rows_than_fit_are_left_out():
    labels = [str(nth) for nth in range(200)]
    for figure in (
        time_breakdown([{"a": 1.0}] * 200, labels),
        bounds_and_intervals([{"tpot_s": 1.0}] * 200, labels, bounds=[{}] * 200, intervals=[None] * 200),
    ):
        assert figure.n == "200 predictions"
        assert "The first 60 of 200." in figure.caption
        assert set(figure.data["label"]) == set(labels[:60])
        assert len(figure.svg()) < 300_000


PANELS = (("ttft_s", 1e3), ("tpot_s", 1e3), ("output_throughput", 1.0))


def _row(answer):
    return {name: getattr(answer, name) for name, _ in PANELS}


def test_bounds_figure_shows_value_interval_and_bound(predictions):
    answer = predictions[0]
    figure = bounds_and_intervals(
        [_row(answer)],
        ["a"],
        bounds=[answer.bounds],
        intervals=[answer.interval],
        level=answer.interval["level"],
    )
    for axes, (name, scale) in zip(drawn(figure).axes, PANELS, strict=True):
        lines = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
        assert lines["predicted"] == [getattr(answer, name) * scale]
        assert lines["bound: nothing beats it"] == [answer.bounds[name] * scale]
        if name in answer.interval:
            assert lines["interval"] == pytest.approx([end * scale for end in answer.interval[name]])
        low, high = axes.get_xlim()
        assert all(low <= x <= high for xs in lines.values() for x in xs)
    assert f"{answer.interval['level']:.0%} interval" in figure.caption
    assert figure.facts.endswith("n = 1 prediction; no randomness")


def test_far_apart_values_get_a_logarithmic_axis(predictions):
    value = _row(predictions[0])
    for share, scale in ((1000, "log"), (2, "linear")):
        figure = bounds_and_intervals(
            [value], ["a"], bounds=[{"tpot_s": value["tpot_s"] / share}], intervals=[None]
        )
        axes = drawn(figure).axes[1]
        assert axes.get_xscale() == scale
        assert 2 <= sum(axes.get_xlim()[0] <= tick <= axes.get_xlim()[1] for tick in axes.get_xticks()) <= 5


def test_what_is_not_known_is_not_drawn():
    figure = bounds_and_intervals(
        [{"ttft_s": math.nan, "output_throughput": 5.0}],
        ["a"],
        bounds=[{}],
        intervals=[{"tpot_s": (math.nan, 1.0)}],
    )
    canvas = drawn(figure)
    assert [len(axes.lines) for axes in canvas.axes] == [0, 0, 1]
    assert "unknown" in figure.alt


ROWS = {"before": [2.0, 3.0, 9.0], "balanced": [1.0, 2.0, None], "after": [1.5, 1.9, 4.0]}


def test_gain_by_batch():
    figure = gain_by_batch([4, 16, 64], ROWS)
    left, right = drawn(figure).axes
    times = {line.get_label(): line.get_ydata() for line in left.lines}
    assert np.allclose(times["after (the plan)"], [1500, 1900, 4000])
    assert np.isnan(times["best without redundancy"][2])
    gains = {line.get_label(): line.get_ydata() for line in right.lines}
    assert np.allclose(gains["before"], [1 / 3, 3 / 1.9 - 1, 1.25])
    assert figure.data["gain over before"] == pytest.approx([1 / 3, 3 / 1.9 - 1, 1.25])
    assert figure.data["gain over balanced"][2] is None
    assert "becomes the fastest between 4 and 16" in figure.caption
    (span,) = right.patches
    assert (span.get_x(), span.get_width()) == (4, 12)


def test_a_curve_alone_has_no_gains():
    figure = gain_by_batch([4, 16], {"before": [1.0, 2.0], "after": [None, None]})
    left, right = drawn(figure).axes
    assert len(left.lines) == 1
    # The line at nought.
    assert len(right.lines) == 1
    with pytest.raises(ConfigError, match="before"):
        gain_by_batch([4, 16], {"before": [1.0]})


def test_break_even_is_where_the_plan_changes_sides():
    curves = {
        "before": [2.0, 3.0, 9.0, 9.0],
        "balanced": [1.0, 2.0, 5.0, None],
        "after": [1.5, 2.0, 4.0, 9.5],
    }
    assert break_even([4, 16, 64, 256], curves) == [(4, 16, True), (64, 256, False)]
    assert break_even([4, 16], {"before": [2.0, None], "balanced": [1.0, None], "after": [None, 1.0]}) == []


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.1, 10)), max_size=12))
def test_break_even_alternates(rows):
    curves = dict(zip(ROWS, map(list, zip(*rows, strict=True)), strict=False))
    flips = break_even([2.0**i for i in range(len(rows))], curves)
    assert all(one[2] != other[2] and one[1] <= other[0] for one, other in pairwise(flips))
    wins = [after <= min(before, balanced) for before, balanced, after in rows]
    if wins:
        assert (len(flips) % 2 == 1) == (wins[0] != wins[-1])


def test_lanes_hold_slices_where_they_ran():
    slices = [Slice("compute", "attention", 0.0, 0.002), Slice("links", "dispatch", 0.001, 0.003, "exchange"),
              Slice("compute", "experts", 0.004, 0.001)]  # fmt: skip
    figure = timeline(slices)
    (axes,) = drawn(figure).axes
    spans = sorted((bar.get_y() + 0.4, bar.get_x(), bar.get_width()) for bar in axes.patches)
    assert np.allclose(spans, [(0, 0, 2), (0, 4, 1), (1, 1, 3)])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["compute", "links"]
    assert "Busy: compute 60%, links 60%" in figure.caption
    assert figure.data["kind"] == ["attention", "exchange", "experts"]


def test_a_step_of_the_engine_is_drawn_whole():
    question = (
        ms.load_model("gpt-oss-20b"),
        ms.load_hardware("h100-sxm-8"),
        ms.Parallelism(dp=8, ep=8),
        ms.Workload(1024, 1024, 64),
    )
    _, decode = step_timeline(*question).steps
    figure = timeline(decode.slices())
    assert set(figure.data["track"]) == {"host", "compute", "scale-up"}
    starts, seconds = np.array(figure.data["start_s"]), np.array(figure.data["seconds"])
    assert (starts + seconds).max() - starts.min() == pytest.approx(decode.unrolled.seconds)
    assert sum(seconds) == pytest.approx(sum(s.seconds for s in decode.slices()))


def test_names_are_written_where_they_fit():
    slices = [Slice("a", "long", 0.0, 1.0), Slice("a", "short", 1.0, 0.001), Slice("a", "x" * 40, 1.1, 0.1)]
    (axes,) = drawn(timeline(slices)).axes
    assert [text.get_text() for text in axes.texts if text.get_visible()] == ["long"]


def _many(n, tracks=3, kinds=12):
    rng = np.random.default_rng(1)
    starts = np.sort(rng.random(n))
    return [
        Slice(f"track {i % tracks}", f"op {i}", float(start), float(length), f"kind {i % kinds}")
        for i, (start, length) in enumerate(zip(starts, rng.exponential(1e-3, n), strict=True))
    ]


def test_too_many_slices_become_shares_of_time():
    slices = _many(5000)
    figure = timeline(slices)
    assert "Heights are shares of stretches" in figure.caption
    assert figure.n == "5,000 slices on 3 tracks"
    for track in {s.track for s in slices}:
        spent = sum(s.seconds for s in slices if s.track == track)
        shown = sum(
            s for s, of in zip(figure.data["seconds"], figure.data["track"], strict=True) if of == track
        )
        assert shown == pytest.approx(spent, rel=1e-9)
    assert len(figure.svg()) < 300_000
    # Nine kinds have a colour, and the others one together; each is named once.
    (axes,) = drawn(figure).axes
    names = axes.get_legend_handles_labels()[1]
    assert len(names) == len(set(names)) == 10
    # No lane reaches into another.
    for outline in axes.patches:
        heights = outline.get_data()
        lane = round(float(np.max(heights.baseline)))
        assert lane - 0.41 <= np.min(heights.values)
        assert np.max(heights.baseline) <= lane + 0.41


def test_few_slices_and_many_tracks_stay_bounded():
    figure = timeline(_many(900, tracks=60))
    assert "The first 40 of 60 tracks" in figure.caption
    assert len(figure.svg()) < 300_000
    with pytest.raises(ConfigError, match="takes no time"):
        timeline([Slice("a", "b", 0.0, 0.0), Slice("a", "b", math.nan, 1.0)])
