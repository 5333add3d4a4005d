"""Accuracy: every row is where it was measured, and what is said of all of them is counted."""

from itertools import pairwise

import numpy as np
import pytest
from drawing import EVIL, curve, drawn, sound

from moesim.errors import ConfigError
from moesim.reporting.figures import (
    ScoreRow,
    error_cdf,
    predicted_against_measured,
    ratio_histogram,
    scoreboard,
    signed_errors,
)
from moesim.reporting.figures.given import percent

RNG = np.random.default_rng(11)
MEASURED = RNG.lognormal(-4, 1, 60)
PREDICTED = MEASURED * RNG.lognormal(0.05, 0.2, 60)


def test_rows_lie_where_they_were_measured():
    groups = [("vllm", "sglang", EVIL)[i % 3] for i in range(60)]
    figure = predicted_against_measured(
        PREDICTED, MEASURED, low=PREDICTED * 0.8, high=PREDICTED * 1.2, groups=groups, level=0.9
    )
    sound(figure, "TPOT", "60 rows")
    canvas = drawn(figure)
    x, y = curve(canvas, "vllm")
    assert sorted(x) == pytest.approx(sorted(MEASURED[::3] * 1e3))
    assert (y / x)[np.argsort(x)] == pytest.approx((PREDICTED / MEASURED)[::3][np.argsort(MEASURED[::3])])
    line = curve(canvas, "equal")
    assert line[0].tolist() == line[1].tolist()
    axes = canvas.axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    markers = {line.get_marker() for line in axes.lines if "(20)" in str(line.get_label())}
    assert len(markers) == 3
    error = np.abs(PREDICTED / MEASURED - 1)
    inside = ((MEASURED >= PREDICTED * 0.8) & (MEASURED <= PREDICTED * 1.2)).mean()
    assert f"Median error {percent(np.median(error))}" in figure.caption
    assert f"p90 {percent(np.quantile(error, 0.9))}" in figure.caption
    assert f"The 90 % intervals hold {percent(inside)}" in figure.caption
    bars = axes.collections[1].get_segments()
    assert len(bars) == 20


def test_rows_without_both_are_left_out_and_said():
    predicted = [1.0, None, 2.0, 0.0]
    figure = predicted_against_measured(predicted, [1.1, 1.0, float("nan"), 1.0])
    sound(figure)
    assert "3 rows without two positive values" in figure.caption
    assert figure.data["predicted"] == [1.0]


def test_thousands_of_rows_and_groups_stay_small_and_whole():
    measured = RNG.lognormal(-4, 1, 4000)
    figure = predicted_against_measured(
        measured * RNG.lognormal(0, 0.3, 4000), measured, groups=[f"g{i % 40:02}" for i in range(4000)]
    )
    assert len(figure.svg()) < 250_000
    labels = [text.get_text() for text in drawn(figure).legends[0].get_texts()]
    assert "33 others (3,300)" in labels
    assert len(figure.data["measured"]) == 4000


def test_other_models_are_beside():
    roofline = PREDICTED * 0.5
    figure = predicted_against_measured(PREDICTED, MEASURED, others={"roofline": roofline}, unit="us")
    sound(figure, "[us]")
    assert sorted(curve(drawn(figure), "roofline")[1]) == pytest.approx(sorted(roofline * 1e6))
    assert figure.data["roofline"] == roofline.tolist()


def test_lengths_that_differ_are_refused():
    with pytest.raises(ConfigError) as raised:
        predicted_against_measured([1.0, 2.0], [1.0], low=[1.0], groups=["a"])
    assert len(raised.value.faults) == 4
    for wrong in ([], [None]):
        with pytest.raises(ConfigError):
            predicted_against_measured(wrong, wrong)


def test_errors_rise_to_all_rows():
    errors = np.array([-0.05, 0.1, 0.3, -0.2, np.nan])
    figure = error_cdf({"ours": errors, EVIL: [0.5, 0.6]})
    sound(figure, "4 rows + 2 rows")
    x, y = curve(drawn(figure), "ours")
    assert x.tolist() == [0, 0.05, 0.1, 0.2, 0.3]
    assert (y[0], y[-1]) == (0, 1)
    assert (np.diff(y) >= 0).all()
    assert "ours: median 15 %, p90 27 %, 50 % within 10 %, 75 % within 25 %" in figure.caption
    assert "1 row without an error" in figure.caption
    with pytest.raises(ConfigError):
        error_cdf({"a": [np.nan]})


def test_signed_errors_lie_around_nothing():
    figure = signed_errors([1, 8, 64], [0.1, -0.2, None], groups=["a", "b", "a"], noise=0.03)
    sound(figure)
    axes = drawn(figure).axes[0]
    assert curve(drawn(figure), "b")[1].tolist() == [-0.2]
    assert axes.get_ylim() == pytest.approx((-0.22, 0.22))
    assert "from -20.0 % to +10.0 %" in figure.caption
    with pytest.raises(ConfigError):
        signed_errors([0.0], [0.1])


ROWS = [
    ScoreRow("near", 1.1, "reproduced", 0.9, 1.3),
    ScoreRow("far", 0.2, "not reproduced"),
    ScoreRow(EVIL, 30.0, "direction"),
    ScoreRow("open", 1.3, "assumption-bound", 1.0, 2.0),
    ScoreRow("silent", None, "direction"),
]


def test_systems_come_nearest_first_with_their_verdict():
    figure = scoreboard(ROWS)
    sound(figure, "4 systems")
    assert figure.data["system"] == ["near", "open", "far", EVIL]
    axes = drawn(figure).axes[0]
    points = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    # Far away is at the edge.
    assert [line.get_xdata()[0] for line in points] == [1.1, 1.3, 0.2, 10.0]
    assert [line.get_marker() for line in points] == ["o", "s", "X", "^"]
    assert "1 of 4 within 15 %" in figure.caption
    assert "1 without a ratio" in figure.caption


def test_sixty_systems_are_readable():
    rows = [ScoreRow(f"system {i}", float(r), "reproduced") for i, r in enumerate(RNG.lognormal(0, 0.2, 61))]
    figure = scoreboard(rows)
    sound(figure)
    canvas = drawn(figure)
    boxes = [tick.get_window_extent() for tick in canvas.axes[0].get_yticklabels()]
    tops = sorted((box.y0, box.y1) for box in boxes)
    assert all(above[0] >= below[1] - 1 for below, above in pairwise(tops))


def test_a_histogram_keeps_every_row():
    figure = ratio_histogram(ROWS * 3)
    sound(figure, "12 rows")
    counts = [sum(figure.data[verdict]) for verdict in ("reproduced", "assumption-bound", "direction")]
    assert counts == [3, 3, 3]
    bars = drawn(figure).axes[0].containers
    assert sum(bar.get_height() for group in bars for bar in group) == 12


def test_unknown_verdicts_are_refused():
    with pytest.raises(ConfigError):
        scoreboard([ScoreRow("a", 1.0, "splendid")])
    with pytest.raises(ConfigError):
        ratio_histogram([ScoreRow("a", None, "direction")])


def test_a_page_of_systems_draws_its_rows():
    from moesim.reporting.scoreboard import scoreboard_figures

    row = {"system": "a", "headline": True, "published": 2.0, "ours": 3.0, "ratio": 1.5, "swept": [1.0, 4.0]}
    rows = [
        {**row, "verdict": "assumption-bound"},
        {**row, "verdict": "direction", "published": None, "ratio": None, "headline": False},
    ]
    board, spread = scoreboard_figures(rows)
    assert (board.data["low"], board.data["high"]) == ([0.5], [2.0])
    assert "1 without a ratio" in spread.caption
    assert scoreboard_figures(rows[1:]) == []
