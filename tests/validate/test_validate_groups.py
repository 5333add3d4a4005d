"""Duplicates, groups and contradictions, on rows made up for the purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_rows import ROW, sweep

from moesim.layout import Parallelism
from moesim.validate import dedupe, first_of_each, folds, group_of, inconsistent
from moesim.validate.inconsistent import rising

#: Doubling load, TPOT rising, TTFT the time that prompts queue.
PLAIN = [(4.0, 50.0, 8.0), (8.0, 70.0, 9.0), (16.0, 110.0, 11.0), (32.0, 190.0, 14.0), (64.0, 350.0, 20.0)]


def test_duplicates_differ_by_less_than_a_tenth_of_a_percent():
    same = replace(ROW, id="b", ttft_ms=100.0004, tpot_ms=9.99996)
    other = replace(ROW, id="c", ttft_ms=101.0)
    blank = replace(ROW, id="d", ttft_ms=None)
    rows = [ROW, same, other, replace(ROW, id="e", concurrency=65.0), blank, blank]
    assert first_of_each(rows).tolist() == [0, 0, 2, 3, 4, 5]
    assert [row.id for row in dedupe(rows)] == ["a", "c", "e", "d", "d"]


def test_groups_hold_what_they_are_named_after():
    longer, wider = replace(ROW, isl=8192.0), replace(ROW, layout=Parallelism(tp=4))
    assert group_of(ROW) != group_of(longer)
    assert group_of(ROW, "layout") == group_of(longer, "layout") != group_of(wider, "layout")
    assert group_of(ROW) == group_of(replace(ROW, concurrency=1.0, version="9", id="z"))
    assert group_of(ROW, "system") == "h100-sxm-8"
    assert group_of(ROW, "model") == "gpt-oss-120b"


@given(groups=st.lists(st.integers(0, 20), min_size=1, max_size=60), count=st.integers(1, 6))
def test_folds_keep_groups_whole(groups, count):
    fold = folds(groups, count)
    assert len({(g, f) for g, f in zip(groups, fold.tolist(), strict=True)}) == len(set(groups))
    assert fold.min() >= 0
    assert fold.max() < count


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_rising_is_rising_and_keeps_the_mean(values):
    fitted = rising(np.array(values))
    assert (np.diff(fitted) >= -1e-9).all()
    assert fitted.mean() == pytest.approx(np.mean(values), abs=1e-6)


def test_a_plain_sweep_is_consistent():
    assert not any(inconsistent(sweep(*PLAIN)))


@pytest.mark.parametrize(
    ("point", "metric", "words"),
    [
        ((64.0, 350.0, 6.0), "tpot", "curve that rises"),
        ((64.0, 90_000.0, 14.0), "both", "Little's law"),
        ((64.0, 350.0, 29.0), "tpot", "faster than concurrency"),
    ],
)
def test_a_point_that_contradicts_its_sweep(point, metric, words):
    flags = inconsistent(sweep(*PLAIN[:4], point))
    assert any(f.metric == metric and words in f.reason for f in flags[4])


def test_twins_that_contradict():
    rows = [*sweep(*PLAIN), *sweep((16.0, 110.0, 24.0), campaign="other")]
    flags = inconsistent(rows)
    assert "same configuration" in flags[5][0].reason
    assert flags[2]
    assert not flags[0]


def test_cold_starts():
    rows = sweep((4.0, 900.0, 8.0), *PLAIN[1:])
    assert [f.metric for f in inconsistent(rows)[0]] == ["ttft"]
    slow = sweep(*((c, 7000.0 + ttft, tpot) for c, ttft, tpot in PLAIN), campaign="first", osl=8192.0)
    flags = inconsistent([*sweep(*PLAIN), *slow])
    assert not any(flags[:5])
    assert all(any("cold start" in f.reason for f in found) for found in flags[5:])


def test_rows_without_neighbours_or_numbers_are_left_alone():
    lone = [replace(ROW, ttft_ms=1e6), replace(ROW, isl=1.0, tpot_ms=None), replace(ROW, mode="disagg")]
    assert not any(inconsistent(lone))
