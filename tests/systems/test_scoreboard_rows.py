"""The scoreboard as a whole: every system and claim has its row, and whatever is off has a cause."""

from collections import Counter

import pytest

from moesim.systems import CAUSES, Figure, Row, claims, headlines, rows, run_row, systems


def test_every_system_and_every_claim_is_answered():
    assert set(systems()) == set(headlines())
    answered = Counter(claim for row in rows() for claim in row.claims)
    assert set(answered) == set(claims())
    for row in rows():
        for claim in row.claims:
            assert claims()[claim].system == row.system


def test_rows_without_a_model_say_why():
    for row in rows():
        assert row.cause in ("", *CAUSES), (row.system, row.name)
        if row.compute is None:
            assert row.reason, (row.system, row.name)
            assert row.cause, (row.system, row.name)


def test_no_figure_is_recalled():
    for row in rows():
        assert "recalled" not in row.figure.source.lower(), (row.system, row.name)
        assert not row.figure.grade.startswith("R"), (row.system, row.name)


@pytest.mark.parametrize(
    ("unit", "published", "ours", "share"),
    [("x", 1.1, 1.05, 0.5), ("fraction", 0.2, 0.1, 0.5), ("ms", 3, 2, None)],
)
def test_the_share_of_the_gain(unit, published, ours, share):
    row = Row("S", "r", Figure("m", unit, published), lambda _: ours, "offload", "")
    found = run_row(row).gain_ratio
    assert found == (None if share is None else pytest.approx(share))


def test_steady_needs_a_sweep_wherever_something_is_assumed():
    from moesim.systems import Assumption

    figure = Figure("m", "s", 1.0)
    bare = Row("S", "r", figure, lambda _: 1.1, "offload", "")
    assert run_row(bare).steady
    wide = Row(
        "S",
        "r",
        figure,
        lambda case: case["a"],
        "offload",
        "",
        assumed=(Assumption("a", 1.0, 0.5, 2.0, "why"),),
    )
    assert not run_row(wide).steady
    narrow = Row(
        "S",
        "r",
        figure,
        lambda case: case["a"],
        "offload",
        "",
        assumed=(Assumption("a", 1.0, 0.9, 1.1, "why"),),
    )
    assert run_row(narrow).steady
    assert not run_row(narrow, sweep=False).steady
