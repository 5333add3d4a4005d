"""Steps priced by the cost model, against the steady state of the same model."""

from __future__ import annotations

import json

import numpy as np
import pytest

import moesim as ms
from moesim.batching import Batcher, EngineClock, StepLoad, schedule
from moesim.correction import calibration_of
from moesim.engine.deployment import Deployment
from moesim.errors import ConfigError
from moesim.ops import Batch, Precision
from moesim.requests import generate_requests, load_requests

LAYOUT = ms.Parallelism(tp=8, ep=8)


@pytest.fixture(scope="module")
def deployment():
    model = ms.load_model("gpt-oss-20b")
    return Deployment(model, ms.load_hardware("h100-sxm-8"), LAYOUT, Precision.of(model, "auto", "auto"))


def test_a_load_on_the_grid_is_priced_exactly(deployment):
    clock = EngineClock(deployment, resolution=0.05)
    one = StepLoad(prompts=1, prefill_tokens=1, past_tokens=1, decode_tokens=1, context_tokens=1)
    batch = Batch.of(sequences=1.0, context=1.0, prompts=1.0, chunk=1.0, past=1.0)
    assert clock(one) == float(deployment.step(batch).seconds[0])
    assert clock(one) == clock(one)
    assert clock.priced == 1


def test_more_to_do_takes_longer(deployment):
    clock = EngineClock(deployment)
    reads = [clock(StepLoad(1, n, 0, 0, 0)) for n in (512, 2048, 8192)]
    decodes = [clock(StepLoad(0, 0, 0, n, n * 1000)) for n in (1, 16, 256)]
    contexts = [clock(StepLoad(0, 0, 0, 64, 64 * n)) for n in (100, 10_000, 100_000)]
    for times in (reads, decodes, contexts):
        assert times == sorted(set(times))


def test_a_finer_grid_changes_little(deployment):
    requests = generate_requests(60, "poisson:40", 700, 60)
    ends = [
        schedule(requests, Batcher(2048, 64), EngineClock(deployment, resolution=resolution)).seconds.mean()
        for resolution in (0.2, 0.02)
    ]
    assert ends[0] == pytest.approx(ends[1], rel=0.02)
    with pytest.raises(ConfigError, match="out of range"):
        EngineClock(deployment, resolution=0)


@pytest.mark.parametrize(("concurrency", "read", "written"), [(16, 512, 256), (64, 512, 128)])
def test_step_by_step_agrees_with_the_steady_state(deployment, concurrency, read, written):
    n = 10 * concurrency
    plan = schedule(
        generate_requests(n, f"closed:{concurrency}", read, written),
        Batcher(8192, 256),
        EngineClock(deployment),
    )
    step = np.repeat(np.arange(len(plan.start_s)), np.diff(plan.step_ptr))
    ends = (plan.start_s + plan.seconds)[step]
    first = ends[plan.position == read - 1]
    last = ends[plan.position == read + written - 2]
    order = np.argsort(plan.request[plan.position == read - 1])
    order_last = np.argsort(plan.request[plan.position == read + written - 2])
    tpot_s = ((last[order_last] - first[order]) / (written - 1)).mean()
    workload = ms.Workload(input_len=read, output_len=written, concurrency=concurrency)
    # The clock knows no measured runs.
    physics = calibration_of("none")
    steady = ms.predict(deployment.model, deployment.hardware, LAYOUT, workload, calibration=physics)
    assert n * written / ends[-1] == pytest.approx(steady.output_throughput, rel=0.05)
    # The steady state charges exchanges of prefill and of decode; a step with both pays their latency once.
    assert tpot_s == pytest.approx(steady.tpot_s, rel=0.10)


def test_a_measured_run_of_vllm(shared):
    """300 requests at 10 per second overload the engine, so queueing decides; nothing is fitted to it."""
    path = shared("vllm-runs/RTXPRO6000/Llama-3.1-8B/requests.jsonl")
    requests, model = load_requests(path), ms.load_model("llama-3.1-8b")
    hardware, precision = ms.load_hardware("rtx-pro-6000-8"), Precision.of(model, "auto", "auto")
    clock = EngineClock(Deployment(model, hardware, ms.Parallelism(), precision, backend="vllm"))
    plan = schedule(requests, Batcher(2048, 128), clock)
    ends = np.repeat(plan.start_s + plan.seconds, np.diff(plan.step_ptr))
    first = np.empty(len(requests))
    of = plan.position == (requests.input_tokens - 1)[plan.request]
    first[plan.request[of]] = ends[of]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    waited = np.array([row["first_token_ts"] - row["queued_ts"] for row in rows])
    assert (first - requests.arrival_s).mean() == pytest.approx(waited.mean(), rel=0.1)
    whole = max(row["last_token_ts"] for row in rows) - min(row["queued_ts"] for row in rows)
    assert ends[-1] == pytest.approx(whole, rel=0.05)
    # Who waited long waits long.
    assert np.corrcoef(first - requests.arrival_s, waited)[0, 1] > 0.97
