"""Verdicts and sweeps: every case, in the order in which they are said."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moesim.systems import TOLERANCE, VERDICTS, Assumption, Figure, Row, judge, run_row
from moesim.systems.sweep import MOST_CORNERS, POINTS, points

positive = st.floats(0.01, 1e6)


@given(positive, positive, st.lists(positive, max_size=5))
def test_reproduced_is_within_the_tolerance_and_nothing_else(published, ours, swept):
    assume(abs(abs(ours / published - 1) - TOLERANCE) > 1e-9)
    near = abs(ours / published - 1) <= TOLERANCE
    assert (judge(published, ours, swept) == "reproduced") == near


@given(positive, positive, st.lists(positive, min_size=1, max_size=5), st.floats(0.001, 1000))
def test_verdicts_do_not_depend_on_the_unit(published, ours, swept, unit):
    for value in [ours, *swept]:
        assume(abs(abs(value / published - 1) - TOLERANCE) > 1e-6)
    scaled = judge(published * unit, ours * unit, [s * unit for s in swept])
    assert scaled == judge(published, ours, swept)


@given(positive, positive, st.lists(positive, max_size=5), positive)
def test_more_sweeping_never_makes_a_verdict_worse(published, ours, swept, more):
    order = VERDICTS.index
    before = judge(published, ours, swept, neutral=1.0)
    assert order(judge(published, ours, [*swept, more], neutral=1.0)) <= order(before)


@given(positive, st.floats(0.01, 0.8), st.floats(1.2, 100))
def test_a_sweep_that_passes_over_the_figure_binds_it(published, below, above):
    assert judge(published, published * below, [published * above]) == "assumption-bound"
    assert judge(published, published * above, [published * below]) == "assumption-bound"
    assert judge(published, published * above, [published * above * 2]) == "not reproduced"


@pytest.mark.parametrize(
    ("published", "ours", "neutral", "said"),
    [
        (2.0, 1.2, 1.0, "direction"),
        (2.0, 0.9, 1.0, "not reproduced"),
        (0.5, 0.1, 0.0, "direction"),
        (0.5, -0.1, 0.0, "not reproduced"),
        (2.0, 1.2, None, "not reproduced"),
        (None, 1.2, 1.0, "not reproduced"),
        (2.0, None, 1.0, "not reproduced"),
        (-0.5, -0.52, 0.0, "reproduced"),
    ],
)
def test_directions_and_gaps(published, ours, neutral, said):
    assert judge(published, ours, (), neutral) == said


ranges = st.lists(st.tuples(st.floats(-5, 0), st.floats(0, 5)), min_size=1, max_size=7)


@given(ranges, st.integers(0, 3))
def test_points_stay_inside_and_reach_every_end(found, seed):
    assumed = [Assumption(str(i), 0.0, low, high, "test") for i, (low, high) in enumerate(found)]
    tried = list(points(assumed, seed))
    for point in tried:
        assert set(point) == {a.name for a in assumed}
        assert all(a.low <= point[a.name] <= a.high for a in assumed)
    for a in assumed:
        for end in (a.low, a.high):
            if end != a.value:
                assert any(point[a.name] == end for point in tried)
    assert tried == list(points(assumed, seed))


def test_a_hypercube_visits_every_slice_of_every_range():
    assumed = [Assumption(str(i), 0.5, 0.0, 1.0, "test") for i in range(MOST_CORNERS + 1)]
    tried = list(points(assumed))[2 * len(assumed) :]
    for a in assumed:
        assert sorted(int(point[a.name] * POINTS) for point in tried) == list(range(POINTS))


@given(st.floats(0.5, 2.0), st.floats(1.0, 3.0))
def test_a_monotone_row_is_swept_to_its_extremes(low, wide):
    row = Row(
        "x",
        "product",
        Figure("metric", "x", 1.0),
        lambda case: case["a"] * case["b"],
        "routing",
        "",
        assumed=(
            Assumption("a", low, low, low * wide, "test"),
            Assumption("b", low * wide, low, low * wide, "test"),
        ),
    )
    judged = run_row(row)
    assert min(judged.swept) == pytest.approx(low * low)
    assert max(judged.swept) == pytest.approx((low * wide) ** 2)


def test_an_assumption_lies_inside_its_range():
    with pytest.raises(ValueError, match="outside"):
        Assumption("a", 2.0, 0.0, 1.0, "test")


def test_the_neutral_value_follows_the_unit():
    assert Figure("m", "x", 2.0).neutral == 1.0
    assert Figure("m", "fraction", 0.2).neutral == 0.0
    assert Figure("m", "tok/s", 2.0).neutral is None


def test_a_row_that_names_no_cause_says_it_by_its_verdict():
    from moesim.systems import Figure, Row
    from moesim.systems.reproduce import Judged

    def cause(ours, verdict, **more):
        row = Row("S", "r", Figure("m", "x", 2.0), None, "serving", "", **more)
        return Judged(row, ours, (), verdict, "").cause

    assert cause(2.0, "reproduced", cause="our limit") == ""
    assert cause(1.5, "assumption-bound") == "missing specification"
    assert cause(1.5, "direction") == "disagreement"
    assert cause(None, "not reproduced") == "our limit"
    assert cause(None, "not reproduced", cause="missing specification") == "missing specification"
