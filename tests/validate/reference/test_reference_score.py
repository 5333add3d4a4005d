"""Laws that are planted must come out: none, a wrong one, noise, drift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.validate.reference import Described, predict, scored
from moesim.validate.reference.score import errors_of


@pytest.fixture
def law(machine):
    return lambda work, _run: predict(work, machine).seconds


def test_a_perfect_law_has_no_error(runs_of, machine):
    opened = []
    runs = runs_of(opened=opened)
    found = scored(runs, Described(machine))
    summary = found["summary"]
    assert summary["n"] == 10 == len(found["rows"])
    assert summary["verdict"] == "passed"
    assert summary["statistic"] == "paired"
    assert not summary["frozen"]
    for name in ("median", "p90", "p95", "max"):
        assert summary[f"{name}_abs_error"] == pytest.approx(0.0, abs=1e-12)
    assert summary["floor"]["median"] == 0.0
    assert summary["coverage"] == 1.0
    assert summary["drift"]["median"] == pytest.approx(1.0)
    assert summary["beaten"] == 0
    assert summary["loads_as_predicted"] == 10
    # A roofline knows no launches, no wasted time: it is below.
    assert summary["roofline"]["median_signed_error"] < -0.1
    # One warm-up, eight rounds, and all memory given back.
    assert opened[0].runs == 9 * 13
    assert opened[0].open == 0


@pytest.mark.parametrize(("factor", "verdict"), [(1.05, "passed"), (1.25, "failed"), (0.8, "failed")])
def test_a_law_that_is_off_is_found_out(runs_of, machine, law, factor, verdict):
    anchors = {"anchor"}
    runs = runs_of(lambda work, run: law(work, run) * (1.0 if work.case.shape.name in anchors else factor))
    summary = scored(runs, Described(machine))["summary"]
    assert summary["verdict"] == verdict
    assert summary["median_abs_error"] == pytest.approx(abs(1 / factor - 1))
    assert summary["median_signed_error"] == pytest.approx(1 / factor - 1)
    assert summary["raw"]["median_abs_error"] == pytest.approx(abs(1 / factor - 1))
    # Intervals are some 10 % wide each side.
    assert summary["coverage"] == (1.0 if verdict == "passed" else 0.0)


def test_noise_is_inconclusive(runs_of, machine, law):
    rng = np.random.default_rng(5)
    runs = runs_of(lambda work, run: law(work, run) * rng.lognormal(0.0, 0.5))
    summary = scored(runs, Described(machine))["summary"]
    assert summary["floor"]["median"] > 0.1
    assert summary["verdict"] == "inconclusive"


def test_a_noisy_calibration_is_inconclusive(runs_of, machine):
    assert scored(runs_of(), Described(machine, quiet=False))["summary"]["verdict"] == "inconclusive"


def test_pairing_takes_out_drift(runs_of, machine, law):
    # Slower and slower, by a third in the end: 13 cases a round, nine rounds with the warm-up.
    runs = runs_of(lambda work, run: law(work, run) * (1 + 0.1 * ((run - 1) // 13)))
    summary = scored(runs, Described(machine))["summary"]
    assert summary["raw"]["median_signed_error"] == pytest.approx(1 / 1.45 - 1)
    assert summary["median_abs_error"] == pytest.approx(0.0, abs=1e-12)
    assert summary["floor"]["median"] > 0.01
    assert summary["paired_floor"]["median"] == pytest.approx(0.0, abs=1e-12)
    assert summary["drift"]["least"] == pytest.approx(1.1)
    assert summary["drift"]["most"] == pytest.approx(1.8)
    assert summary["verdict"] == "passed"


def test_without_anchors_the_raw_error_counts(runs_of, machine, law):
    summary = scored(runs_of(lambda w, run: 1.02 * law(w, run), anchors=False), Described(machine))["summary"]
    assert summary["statistic"] == "raw"
    assert summary["paired"] is None
    assert summary["drift"] is None
    assert summary["median_abs_error"] == pytest.approx(1 - 1 / 1.02)


def test_faster_than_the_bound_is_reported(runs_of, machine):
    bounds = lambda work, _run: 0.9 * predict(work, machine).bound_s  # noqa: E731
    found = scored(runs_of(bounds, anchors=False), Described(machine))
    assert found["summary"]["beaten"] == 10
    assert found["summary"]["beaten_by"] == pytest.approx(0.1)
    assert all(row["beaten"] for row in found["rows"])


def test_loads_that_differ_are_counted(runs_of, machine):
    found = scored(runs_of(stray_loads=1), Described(machine))
    assert found["summary"]["loads_as_predicted"] == 0
    away = [row for row in found["rows"] if row["offloaded"]]
    assert len(away) == 4
    assert all(row["predicted_loads"] > 0 for row in away)


def test_cuda_groups_layers_and_keeps_a_narrower_gate(runs_of, machine, law):
    opened = []
    factor = lambda work: 1.0 if work.case.shape.name == "anchor" else 1.04  # noqa: E731
    runs = runs_of(lambda work, run: factor(work) * law(work, run), device="cuda", opened=opened)
    # Anchors are run with each of the two layers.
    assert len(runs.works) == 10 + 2 * 3
    assert sorted(set(runs.groups.tolist())) == [0, 1]
    summary = scored(runs, Described(machine))["summary"]
    assert summary["n"] == 10
    assert summary["gate"] == {"median": 0.05, "p95": 0.10, "signed": 0.02}
    # Within 5 %, yet all on one side.
    assert summary["median_abs_error"] < 0.05
    assert summary["verdict"] == "failed"


def test_parts_and_groups_are_told(runs_of, machine):
    found = scored(runs_of(), Described(machine))
    by = found["summary"]["by"]
    assert {name: part["n"] for name, part in by["dtype"].items()} == {"bf16": 2, "fp32": 8}
    assert {name: part["n"] for name, part in by["offloaded"].items()} == {"0%": 6, "50%": 2, "75%": 2}
    assert {name: part["n"] for name, part in by["layer"].items()} == {"few": 5, "many": 5}
    row = found["rows"][0]
    assert row["parts"]["experts"]["measured_s"] == pytest.approx(row["measured_s"])
    assert row["parts"]["router"]["measured_s"] is None


@given(st.lists(st.floats(-0.9, 5.0), min_size=1, max_size=40))
def test_quantiles_are_ordered(errors):
    found = errors_of(errors)
    sizes = [found[f"{name}_abs_error"] for name in ("median", "p90", "p95", "max")]
    assert sizes == sorted(sizes)
    assert sizes[-1] == max(map(abs, errors))
    assert min(errors) <= found["median_signed_error"] <= max(errors)
