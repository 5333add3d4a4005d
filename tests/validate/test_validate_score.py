"""Scores, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_rows import ROW, sweep

from moesim.errors import ConfigError
from moesim.validate import RowPrediction, evaluate, interval_score, score, score_by
from moesim.validate.accepted import accepted_score, read_accepted, write_accepted
from moesim.validate.roofline import Peaks, baseline, fit, peaks


def test_errors_by_hand():
    found = score([2.0, 9.0, 10.0, 15.0, 8.0], [1.0, 10.0, 10.0, 10.0, 16.0])
    # 1, 0.1, 0, 0.5, 0.5, of which one is too fast by 10 % and one by half
    assert found.n == 5
    assert found.median == pytest.approx(0.5)
    assert found.mean == pytest.approx(0.42)
    assert found.p90 == pytest.approx(0.8)
    assert found.signed == pytest.approx(0.0)
    assert math.isnan(found.coverage)


def test_intervals_by_hand():
    found = score([1.0, 1.0], [1.0, 4.0], [0.5, 0.5], [2.0, 2.0], level=0.8)
    assert found.coverage == 0.5
    assert found.width == 4.0
    assert found.interval == pytest.approx(math.log(4) + (2 / 0.2) * math.log(2) / 2)


def test_what_cannot_be_compared_is_left_out():
    found = score([1.0, np.nan, 1.0, 0.0], [1.0, 1.0, np.nan, 1.0], [np.nan] * 4, [np.nan] * 4)
    assert (found.n, found.median) == (1, 0.0)
    assert math.isnan(found.coverage)
    assert score([], []).n == 0
    assert math.isnan(score([np.nan], [1.0]).median)


def test_by_group():
    found = score_by(["b", "a", "b"], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert list(found) == ["a", "b"]
    assert (found["a"].median, found["b"].n) == (1.0, 2)


@given(
    ratio=st.floats(0.01, 100),
    low=st.floats(0.1, 1.0),
    width=st.floats(1.0, 10.0),
    scale=st.floats(1e-3, 1e3),
)
def test_interval_score_has_no_unit_and_is_least_inside(ratio, low, width, scale):
    lo, hi, m = (np.array([v]) for v in (low, low * width, ratio))
    cost = interval_score(lo, hi, m)
    assert interval_score(lo * scale, hi * scale, m * scale) == pytest.approx(cost, abs=1e-6)
    assert cost >= np.log(width) - 1e-9


def _peaks(rows):
    rng = np.random.default_rng(3)
    return Peaks(*rng.uniform(0.5, 2.0, (6, rows)))


def test_fit_finds_the_fractions_that_made_the_data():
    found = _peaks(60)
    compute, memory = fit(found, found.tpot(0.5, 0.7), "tpot")
    assert compute == pytest.approx(0.5, rel=0.1)
    assert memory == pytest.approx(0.7, rel=0.1)


def test_baseline_never_looks_at_its_own_group():
    found = _peaks(40)
    truth = found.ttft(0.5, 0.5)
    groups = [f"g{i // 2}" for i in range(40)]
    alone = baseline(found, truth, ["x"] * 40, groups, "ttft")
    changed = truth.copy()
    changed[:2] *= 50
    again = baseline(found, changed, ["x"] * 40, groups, "ttft")
    np.testing.assert_array_equal(alone[:2], again[:2])
    assert np.median(np.abs(alone / truth - 1)) < 0.1


def test_a_cell_that_others_lack_takes_the_fit_of_all():
    found = _peaks(11)
    truth = found.tpot(0.5, 0.5)
    alone = baseline(found, truth, ["x"] * 10 + ["y"], [f"g{i}" for i in range(11)], "tpot")
    assert np.isfinite(alone).all()


def test_peaks_of_rows():
    rows = [
        ROW,
        replace(ROW, concurrency=128.0),
        replace(ROW, layout=None),
        replace(ROW, status="unsupported"),
    ]
    found = peaks(rows)
    assert np.isnan(found.decode_compute[2:]).all()
    assert found.decode_compute[1] > found.decode_compute[0] > 0
    assert found.queue[0] == pytest.approx(63 / 2 / 10)
    # 8,192 tokens cannot take less than the FLOPs of the active parameters at peak.
    assert (found.tpot(1.0, 1.0)[:2] > 0).all()


def test_evaluation_keeps_kinds_of_rows_apart():
    rows = [
        *sweep((4.0, 50.0, 8.0), (8.0, 70.0, 9.0), (16.0, 110.0, 11.0), (32.0, 190.0, 14.0)),
        replace(ROW, id="twice", ttft_ms=50.0, tpot_ms=8.0, concurrency=4.0),
        replace(ROW, id="mended", repairs=("TP",), ttft_ms=99.0),
        replace(ROW, id="odd", doubtful="why", isl=9.0),
        replace(ROW, id="blank", ttft_ms=None, tpot_ms=None),
        replace(ROW, id="no", status="unsupported", reason="unknown model", model=""),
    ]
    predictions = [
        RowPrediction(r.id, 0.1, 0.01, 0.05, 0.2, 0.005, 0.02)
        if r.supported
        else RowPrediction(r.id, status="unsupported", reason=r.reason)
        for r in rows
    ]
    found = evaluate(rows, predictions)
    assert found.counts["distinct"] == 8
    assert found.scores["tpot"]["all"].n == 6
    assert found.scores["tpot"]["judged"].n == 5
    assert found.scores["tpot"]["repaired"].n == 1
    assert found.scores["tpot"]["doubtful"].n == 1
    assert found.by["tpot"]["backend"]["vllm"].n == 5
    assert found.not_predicted == {"unsupported: unknown model": 1}
    documents = found.row_documents()
    assert documents[4]["duplicate_of"] == "c4"
    assert documents[0]["pred_ttft_ms"] == pytest.approx(100.0)
    assert found.summary()["tpot"]["by"]["model"]["gpt-oss-120b"]["n"] == 5


def test_what_the_calibration_has_seen_is_scored_apart():
    rows = [
        *sweep((4.0, 50.0, 8.0), (8.0, 70.0, 9.0)),
        replace(ROW, id="again", concurrency=4.0, campaign="x"),
    ]
    rows[2] = replace(rows[2], ttft_ms=50.0, tpot_ms=8.0)
    predictions = [RowPrediction(r.id, 0.1, 0.01, seen=r.id == "c4") for r in rows]
    found = evaluate(rows, predictions)
    # The repetition was measured once, so it was seen too; it is not scored twice.
    assert found.seen.tolist() == [True, False, True]
    assert found.counts["seen"] == 2
    assert found.scores["tpot"]["judged seen"].n == 1
    assert found.scores["tpot"]["judged new"].n == 1


def test_accepted_result_is_kept_and_checked(tmp_path):
    path = tmp_path / "accepted.json"
    assert read_accepted(path) is None
    known = score([1.1, 0.9], [1.0, 1.0])
    write_accepted({"tpot": {"all": known, "none": score([], [])}}, "abc", "2026-01-02", "first", path)
    found = read_accepted(path)
    assert accepted_score(found, "tpot", "all").median == pytest.approx(0.1)
    assert math.isnan(accepted_score(found, "tpot", "all").coverage)
    assert accepted_score(found, "tpot", "none") is None
    assert found["held_out"] == {}
    learnt = {"digest": "d", "held_out": {"moe": {}}}
    write_accepted({}, "abc", "2026-01-02", "", path, provenance=learnt)
    assert (read_accepted(path)["calibration"], read_accepted(path)["held_out"]) == ("d", {"moe": {}})
    write_accepted({"tpot": {"all": known}}, "abc", "2026-01-02", "first", path)
    found = read_accepted(path)
    assert accepted_score(found, "ttft", "all") is None
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="no accepted result"):
        read_accepted(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="no accepted result"):
        read_accepted(path)
