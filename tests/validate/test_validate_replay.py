"""Runs replayed step by step: by hand with a fixed step, and against the replay's own output."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from bench_files import folder_rows, run_folder, sglang_result, vllm_result, without_details

from moesim.correction import calibration_of
from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.prediction import Engine
from moesim.requests import request_trace
from moesim.serving.pricing import constant_prices
from moesim.serving.simulate import simulate
from moesim.validate.find_runs import read_runs
from moesim.validate.replay import Setup, replay
from moesim.validate.run_report import Given, predict_run, summarise_runs
from moesim.validate.runs import PER_TOKEN_MEAN, PICKED, RUN_METRICS, STATISTICS, RunEngine


def setup(layout=None, backend="vllm", **engine):
    layout = layout or Parallelism()
    return Setup(load_model("gpt-oss-20b"), load_hardware("h100-sxm-8"), layout, Engine(**engine), backend)


@pytest.fixture
def second(monkeypatch):
    """Every step takes a second."""
    seconds = partial(simulate, pricing=lambda *_: constant_prices(1.0))
    monkeypatch.setattr("moesim.validate.replay.simulate", seconds)


@pytest.mark.usefixtures("second")
def test_by_hand():
    # 4 tokens a step: the first request's 3 and 1 of the second's 2; then its token and the second's last.
    found = replay(request_trace([0.0, 0.0], [3, 2], [3, 2]), setup(chunk_tokens=4))
    assert found.first_s.tolist() == [1.0, 2.0]
    assert found.last_s.tolist() == [3.0, 3.0]
    assert found.gaps.weights.sum() == 3
    assert found.gaps.values == pytest.approx(np.ones(len(found.gaps.values)), rel=0.005)
    metrics = found.metrics()
    assert metrics["ttft"].mean == 1.5
    assert metrics["tpot"].mean == 1.0
    assert metrics["e2el"].mean == 3.0


@pytest.mark.usefixtures("second")
def test_arrivals_count():
    found = replay(request_trace([0.0, 5.0], [3, 2], [1, 1]), setup())
    assert found.sent_s.tolist() == [0.0, 5.0]
    assert found.first_s.tolist() == [1.0, 6.0]
    assert len(found.gaps.values) == 0
    assert found.metrics()["tpot"].mean is None


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize(("version", "steps"), [("0.13.0", 1.0), ("0.19.0", 2.0)])
def test_the_engine_looks_for_requests_between_steps(version, steps):
    requests = request_trace([0.0, 0.25, 9.5], [3, 2, 2], [3, 2, 1])
    found = replay(requests, replace(setup(), version=version))
    # The second comes while the first is read; the third comes to an idle engine.
    assert found.picked_s.tolist() == [0.0, 1.0, 9.5]
    ttft = found.samples(counted_from=PICKED)["ttft"].values
    # Since 0.14 the next step is planned by then.
    assert ttft.tolist() == [1.0, steps, 1.0]
    assert found.samples()["ttft"].values.tolist() == [1.0, steps + 0.75, 1.0]


@pytest.mark.usefixtures("second")
def test_closed_loop_sends_when_one_ends():
    trace = request_trace(np.zeros(4), np.full(4, 2), np.full(4, 3), concurrency=1)
    found = replay(trace, setup())
    assert found.sent_s.tolist() == [0.0, 3.0, 6.0, 9.0]
    assert (found.first_s - found.sent_s).tolist() == [1.0] * 4
    assert found.duration_s == 12.0


@pytest.mark.usefixtures("second")
def test_ranks_share_requests():
    trace = request_trace(np.zeros(4), np.full(4, 2), np.full(4, 3))
    one = replay(trace, setup(chunk_tokens=2))
    two = replay(trace, setup(Parallelism(dp=2, ep=2), chunk_tokens=2))
    assert one.first_s.tolist() != two.first_s.tolist()
    assert sorted(two.first_s.tolist())[:2] == [1.0, 1.0]
    assert two.last_s.max() < one.last_s.max()


def test_ranks_step_together():
    # A rank that decodes alone waits for the one that reads: their experts run as one step.
    trace = request_trace([0.0, 0.0], [4000, 10], [50, 50])
    found = replay(trace, setup(Parallelism(dp=2, ep=2), chunk_tokens=1024))
    alone = replay(request_trace([0.0], [10], [50]), setup(Parallelism(dp=2, ep=2), chunk_tokens=1024))
    assert found.first_s[1] > 1.5 * alone.first_s[0]


@pytest.mark.usefixtures("second")
def test_sglang_reads_prompts_first():
    trace = request_trace([0.0, 1.0], [2, 6], [5, 2])
    mixed = replay(trace, setup(chunk_tokens=3))
    first = replay(trace, setup(backend="sglang", chunk_tokens=3))
    assert first.first_s[1] <= mixed.first_s[1]


@pytest.mark.usefixtures("second")
def test_weighted_means():
    found = replay(request_trace([0.0, 0.0], [3, 2], [3, 2]), setup(chunk_tokens=4))
    assert found.metrics(PER_TOKEN_MEAN)["itl"].mean == pytest.approx(1.0)


def test_a_model_that_does_not_fit():
    huge = Setup(load_model("deepseek-v3"), load_hardware("h100-sxm-8"), Parallelism(tp=8), Engine())
    with pytest.raises(InfeasibleError):
        replay(request_trace([0.0], [3], [3]), huge)
    with pytest.raises(ConfigError):
        replay(request_trace([0.0], [3], [3]), setup(Parallelism(tp=3)))


def test_a_run_that_the_model_made_is_predicted_without_error(tmp_path):
    rng = np.random.default_rng(5)
    trace = request_trace(
        np.sort(rng.uniform(0, 20, 60)), rng.integers(50, 900, 60), rng.integers(2, 200, 60)
    )
    found = replay(trace, setup(Parallelism(tp=2, ep=2), chunk_tokens=2048, max_sequences=64))
    rows = [
        {
            "input_toks": int(i),
            "output_toks": int(o),
            "arrival_time": a,
            "queued_ts": a,
            "first_token_ts": f,
            "last_token_ts": e,
        }
        for i, o, a, f, e in zip(
            trace.input_tokens, trace.output_tokens, trace.arrival_s, found.first_s, found.last_s, strict=True
        )
    ]
    (run,) = read_runs(run_folder(tmp_path / "H100" / "made", rows))
    result = predict_run(run, calibration=calibration_of("none"))
    summary = summarise_runs([result])
    for metric in RUN_METRICS:
        errors = summary[metric]
        assert [errors[f"{name}_error"] for name in STATISTICS] == pytest.approx([0.0] * 4, abs=1e-6)
        # Equal but for the last digit, which puts a value on the other side of its twin.
        assert errors["wasserstein"] == pytest.approx(0.0, abs=1e-6)
        assert errors["ks"] <= 0.05
        if metric != "itl":
            assert errors["request_error"] == pytest.approx(0.0, abs=1e-6)
            assert errors["correlation"] == pytest.approx(1.0)
    assert result.assumed == ()


def test_statistics_alone_are_replayed_with_mean_lengths(tmp_path):
    path = tmp_path / "h200.jsonl"
    path.write_text(json.dumps(sglang_result()) + "\n")
    (run,) = read_runs(path)
    result = predict_run(run)
    assert len(result.replayed.sent_s) == 64
    assert result.setup.layout == Parallelism(tp=2)
    assert result.setup.backend == "sglang"
    assert result.errors["ttft"].p90 is None
    assert result.errors["ttft"].mean is not None
    assert result.document()["predicted"]["output_throughput"] > 0


def test_no_more_requests_are_made_up_than_are_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("moesim.validate.run_report.MOST_MADE", 50)
    path = tmp_path / "h200.jsonl"
    path.write_text(json.dumps(sglang_result(completed=10**12, total_input_tokens=10**14)) + "\n")
    (run,) = read_runs(path)
    result = predict_run(run)
    assert len(result.replayed.sent_s) == 50
    assert "the first 50 requests stand for all" in result.assumed


def test_a_rate_without_arrivals_is_poisson(tmp_path):
    path = tmp_path / "h200.json"
    path.write_text(json.dumps(without_details(vllm_result(completed=20, total_output_tokens=200))))
    (run,) = read_runs(path)
    result = predict_run(run, seed=1)
    assert any("Poisson" in text for text in result.assumed)
    assert any("layout" in text for text in result.assumed)
    assert result.replayed.sent_s.tolist() == predict_run(run, seed=1).replayed.sent_s.tolist()
    assert result.replayed.sent_s.tolist() != predict_run(run, seed=2).replayed.sent_s.tolist()


def test_what_the_user_says_counts_more(tmp_path):
    (run,) = read_runs(run_folder(tmp_path / "H100" / "a", folder_rows()))
    given = Given("gpt-oss-120b", "h200", None, "sglang", RunEngine(tp=4, ep=1, chunk_tokens=512))
    result = predict_run(run, given)
    assert result.setup.model.name == "gpt-oss-120b"
    assert result.setup.hardware.name == "h200-sxm-8"
    assert result.setup.layout == Parallelism(tp=4)
    assert (result.setup.engine.chunk_tokens, result.setup.engine.max_sequences) == (512, 64)


def test_what_nobody_says_is_asked_for(tmp_path):
    rows = folder_rows()
    (run,) = read_runs(run_folder(tmp_path / "nowhere", rows))
    with pytest.raises(ConfigError, match="--hardware"):
        predict_run(run)


def test_twice_the_bandwidth_is_faster(tmp_path):
    (run,) = read_runs(run_folder(tmp_path / "a", folder_rows(40)))
    slow, fast = (predict_run(run, Given(hardware=name)) for name in ("h100-sxm-8", "b200-sxm-8"))
    assert fast.predicted["tpot"].mean < slow.predicted["tpot"].mean


def test_real_runs(shared):
    runs = read_runs(shared("vllm-runs"))
    assert [run.completed for run in runs] == [300, 300]
    assert {run.hardware for run in runs} == {"rtx-pro-6000-8"}
    results = [predict_run(run) for run in runs]
    for result in results:
        assert abs(result.errors["tpot"].mean) < 0.05
        assert abs(result.errors["ttft"].mean) < 0.15
        assert abs(result.errors["e2el"].mean) < 0.05
        assert result.distances["tpot"].wasserstein < 0.05
