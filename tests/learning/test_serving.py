"""A calibration to runs of known truth, from rows to text."""

from dataclasses import replace
from json import dumps

import numpy as np
import pytest
from known_runs import ROW

from moesim.engine.traits import Traits
from moesim.errors import ConfigError
from moesim.layout import Parallelism
from moesim.learning import calibrate_serving
from moesim.learning.summary import apart, summary
from moesim.validate import predict_rows
from moesim.validate.physics import physics_of

TRUTH = {"vllm": Traits(request_s=0.005, first_steps=5.0, start_up=0.15)}
#: What runs of one layout have beyond physics, in logarithm.
BEYOND = 0.3


@pytest.fixture(scope="module")
def rows():
    found = [
        replace(
            ROW,
            id=f"{model}{hardware}{tp}{load}",
            model=model,
            hardware=hardware,
            layout=Parallelism(tp=tp),
            concurrency=load,
        )
        for model in ("gpt-oss-120b", "qwen3-235b-a22b")
        for hardware in ("h100-sxm-8", "h200-sxm-8")
        for tp in (8, 4)
        for load in (2.0, 8.0, 32.0)
    ]
    physics = physics_of(found, TRUTH)
    noise = 0.01 * np.random.default_rng(0).normal(size=len(found))
    tpot = physics.tpot_s * np.exp(BEYOND + noise)
    ttft = physics.ttft_fixed_s + physics.ttft_steps * tpot
    return [
        replace(row, tpot_ms=1e3 * float(a), ttft_ms=1e3 * float(b))
        for row, a, b, ok in zip(found, tpot, ttft, physics.predicted, strict=True)
        if ok
    ]


@pytest.fixture(scope="module")
def fitted(rows):
    return calibrate_serving(rows, source="made up")


def test_what_all_runs_share_is_learnt_for_new_ones(rows, fitted):
    calibration, reports = fitted
    assert set(reports) == {"moe"}
    lines = summary(reports["moe"])
    assert lines["sweep"]["tpot"]["n"] == len(rows)
    # Without any effects, all are 26 % off; one other group cannot tell much of what groups share.
    for kind, most in (("sweep", 0.05), ("layout", 0.1), ("system", 0.2), ("model", 0.2)):
        assert lines[kind]["tpot"]["median"] < most
    seen = predict_rows(rows, calibration)
    error = [abs(p.tpot_s * 1e3 / r.tpot_ms - 1.0) for p, r in zip(seen, rows, strict=True)]
    assert np.median(error) < 0.02


def test_equal_rows_equal_text(rows, fitted):
    again, _ = calibrate_serving(rows, source="made up")
    assert dumps(again.to_dict()) == dumps(fitted[0].to_dict())


def test_repeated_measurements_count_once(rows, fitted):
    twice, _ = calibrate_serving([*rows, *(replace(r, id=f"{r.id} again") for r in rows)], source="made up")
    assert twice.to_dict()["families"] == fitted[0].to_dict()["families"]


def test_rows_are_set_apart_by_data_alone(rows, fitted):
    report = fitted[1]["moe"]
    assert set(apart(report)) <= {"consistent", "contradicted", "repaired", "doubtful"}
    parts = apart(report)
    n = parts["consistent"]["sweep"]["tpot"]["n"]
    assert n + parts.get("contradicted", {}).get("sweep", {}).get("tpot", {"n": 0})["n"] == len(rows)


def test_too_few_runs_teach_nothing(rows):
    with pytest.raises(ConfigError, match="fewer than 20"):
        calibrate_serving(rows[:5])
