"""A user's own runs: followed where they are, and what was known before stays elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import moesim as ms
from moesim.correction import Calibration, shipped
from moesim.errors import ConfigError
from moesim.learning.adapt import adapt, conditioned
from moesim.learning.own_runs import OwnRun, probes_of_runs

MODEL, HARDWARE = ms.load_model("qwen3-30b-a3b"), ms.load_hardware("h100-sxm-8")
LAYOUT, ENGINE = ms.Parallelism(tp=4), ms.Engine()
LOADS = (4.0, 16.0, 64.0, 128.0)


def own(concurrency, tpot=1.3, ttft=1.6, calibration=None, **changes):
    """A run that took so many times as long as is predicted."""
    workload = ms.Workload(1000, 500, concurrency)
    run = OwnRun("mine", MODEL, HARDWARE, LAYOUT, ENGINE, workload, 1.0, 1.0)
    run = replace(run, **changes)
    state = run.served(calibration or shipped()).state(run.load)
    return replace(
        run,
        tpot_s=tpot * float(state.tpot_s[0]),
        ttft_s=None if ttft is None else ttft * float(state.ttft_s[0]),
    )


def ratio(run, calibration):
    state = run.served(calibration).state(run.load)
    return run.tpot_s / float(state.tpot_s[0]), run.ttft_s / float(state.ttft_s[0])


@pytest.fixture(scope="module")
def runs():
    return [own(c) for c in LOADS]


@pytest.fixture(scope="module")
def adapted(runs):
    return adapt(shipped(), runs, "lab")


def test_runs_are_followed(runs, adapted):
    calibration, found = adapted
    for run in runs:
        tpot, ttft = ratio(run, calibration)
        assert tpot == pytest.approx(1.0, abs=0.05)
        assert ttft == pytest.approx(1.0, abs=0.1)
    assert found.before["tpot"] == pytest.approx(np.log(1.3))
    assert np.abs(found.after["tpot"]).max() < 0.08
    assert np.median(np.abs(found.after["ttft"])) < 0.15


def test_a_load_in_between_is_nearer_than_before(adapted):
    calibration, _ = adapted
    between = own(32.0)
    before, after = (abs(np.log(ratio(between, c)[0])) for c in (shipped(), calibration))
    assert after < before / 3


def test_other_engines_keep_what_was_known(adapted):
    calibration, _ = adapted
    elsewhere = own(
        16.0,
        1.0,
        1.0,
        model=ms.load_model("deepseek-r1"),
        hardware=ms.load_hardware("b200-sxm-8"),
        layout=ms.Parallelism(tp=8),
        engine=ms.Engine(backend="trtllm"),
    )
    assert ratio(elsewhere, calibration)[0] == pytest.approx(1.0, abs=0.1)
    assert calibration.traits["trtllm"] == shipped().traits["trtllm"]
    assert calibration.families["dense"] is shipped().families["dense"]


def test_an_adapted_layout_is_a_known_one(runs, adapted):
    calibration, _ = adapted
    found = runs[0].served(calibration)
    assert found.answer(runs[0].load)[1].novelty == "layout known"
    assert runs[0].served(shipped()).answer(runs[0].load)[1].novelty == "model new"


def test_runs_as_predicted_change_next_to_nothing():
    runs = [own(c, 1.0, 1.0) for c in LOADS]
    calibration, _ = adapt(shipped(), runs)
    for run in runs:
        assert ratio(run, calibration) == pytest.approx((1.0, 1.0), abs=0.03)


def test_what_the_others_say_is_what_a_fit_without_the_run_says(runs):
    """The closed form of leaving one out, against doing it."""
    process = shipped().families["moe"].tpot
    identity = runs[0].served(shipped()).identity
    loads = [run.load for run in runs]
    labels = [identity.labels()] * len(runs)
    values = np.vstack([identity.values(x.input_len, x.output_len, x.concurrency) for x in loads])
    y = np.array([0.1, 0.3, np.nan, 0.25])
    _, left = conditioned(process, labels, values, y, 0.003)
    assert np.isnan(left[2])
    for i in (0, 1, 3):
        rest = [j for j in range(4) if j != i]
        without, _ = conditioned(process, [labels[0]] * 3, values[rest], y[rest], 0.003)
        said = without.mean(without.encode([labels[i]]), values[i : i + 1])[0]
        assert y[i] - said == pytest.approx(left[i], rel=1e-6, abs=1e-9)


def test_it_survives_a_file(runs, adapted):
    calibration, _ = adapted
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again.provenance["adapted"] == {"runs": 4, "source": "lab"}
    for run in runs:
        assert ratio(run, again) == pytest.approx(ratio(run, calibration), rel=1e-3)


def test_times_to_first_token_that_tell_nothing_teach_nothing():
    runs = [own(c, 1.2, None) for c in LOADS]
    calibration, found = adapt(shipped(), runs)
    assert np.isnan(found.after["ttft"]).all()
    told = shipped().families["moe"].ttft.weights
    added = calibration.families["moe"].ttft.weights[len(told) :]
    assert not added.any()
    assert calibration.traits["vllm"].request_s == pytest.approx(shipped().traits["vllm"].request_s)


def test_one_run_leaves_none_to_judge_by():
    _, found = adapt(shipped(), [own(16.0)])
    assert np.isnan(found.after["tpot"]).all()


def test_a_calibration_of_other_kinds_refuses():
    only_dense = replace(shipped(), families={"dense": shipped().families["dense"]})
    with pytest.raises(ConfigError, match="no deployments of this kind"):
        adapt(only_dense, [own(16.0)])


def test_probes_are_the_physics_of_predictions(runs):
    probes = probes_of_runs(runs)
    exact = [run.served(shipped()).physical(run.load) for run in runs]
    linear = probes.physics(shipped().traits)
    assert linear.tpot_s == pytest.approx([float(s.tpot_s[0]) for s in exact], rel=1e-6)
    assert linear.ttft_fixed_s == pytest.approx([float(s.ttft_fixed_s[0]) for s in exact], rel=1e-6)
