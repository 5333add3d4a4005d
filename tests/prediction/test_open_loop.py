"""Requests at a rate: Little's law, the wait for other prompts, and what cannot be kept up with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import moesim as ms
from moesim.correction import calibration_of
from moesim.engine.traits import Traits
from moesim.errors import InfeasibleError

PHYSICS = calibration_of("none")
MODEL, HARDWARE = ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")
LAYOUT = ms.Parallelism(dp=8, ep=8)


def ask(
    rate=None, concurrency=None, inputs=1024, outputs=256, calibration=PHYSICS, layout=LAYOUT, **settings
):
    workload = ms.Workload(inputs, outputs, concurrency, rate)
    return ms.predict(
        MODEL, HARDWARE, layout, workload, calibration=calibration, engine=ms.Engine(**settings)
    )


@pytest.mark.parametrize("rate", [0.5, 20.0, 100.0])
@pytest.mark.parametrize("calibration", [PHYSICS, None])
def test_littles_law(rate, calibration):
    answer = ask(rate, calibration=calibration)
    assert answer.request_throughput == rate
    assert answer.concurrency == pytest.approx(rate * answer.e2el_s)
    assert answer.output_throughput == pytest.approx(256 * rate)
    assert answer.request_rate == rate


@pytest.mark.parametrize("rate", [5.0, 50.0, 150.0])
def test_a_closed_loop_of_one_more_differs_by_the_queue_alone(rate):
    """An arrival finds the mean (PASTA); it waits as in M/D/1, not for prompts that start together."""
    there = ask(rate)
    here = ask(concurrency=there.concurrency + 1)
    assert here.tpot_s == pytest.approx(there.tpot_s, rel=1e-3)
    busy = rate * there.prefill_s
    arrivals = busy / (2 * (1 - busy)) * there.prefill_s
    together = Traits().start_up * there.concurrency / 2 * there.prefill_s
    assert there.ttft_s - arrivals == pytest.approx(here.ttft_s - together, rel=5e-3)


def test_few_requests_are_served_alone():
    seldom, lone = ask(1e-3), ask(concurrency=1)
    assert seldom.concurrency < 0.01
    assert seldom.tpot_s == pytest.approx(lone.tpot_s, rel=1e-3)
    assert seldom.ttft_s == pytest.approx(lone.ttft_s, rel=1e-2)


def test_latency_rises_with_the_rate_until_nothing_keeps_up():
    with pytest.raises(InfeasibleError, match="queue grows") as caught:
        ask(1e5)
    most = caught.value.details["most_request_rate"]
    times = [ask(share * most) for share in (0.1, 0.3, 0.6, 0.9)]
    assert all(a.tpot_s < b.tpot_s and a.ttft_s < b.ttft_s for a, b in pairwise(times))
    with pytest.raises(InfeasibleError):
        ask(1.01 * most)


def test_the_most_is_what_a_closed_loop_reaches():
    with pytest.raises(InfeasibleError) as caught:
        ask(1e5, max_sequences=64)
    most = caught.value.details["most_request_rate"]
    full = ask(concurrency=64 * 8, max_sequences=64)
    # The closed loop's start-up queue and the first tokens' way apart, it is the same engine.
    assert most == pytest.approx(full.request_throughput, rel=0.05)


def test_a_sweep_of_rates_is_many_predictions():
    workloads = [ms.Workload(1024, 256, request_rate=r) for r in (0.01, 10.0, 80.0, 1e6)]
    table = ms.sweep(MODEL, HARDWARE, [LAYOUT], workloads)
    assert table.feasible[0].tolist() == [True, True, True, False]
    assert np.isnan(table["ttft_s"][0, 3])
    for j, workload in enumerate(workloads[:3]):
        one = ms.predict(MODEL, HARDWARE, LAYOUT, workload)
        for metric in ("ttft_s", "tpot_s", "e2el_s", "request_throughput"):
            assert table[metric][0, j] == pytest.approx(getattr(one, metric), rel=1e-9)


def test_traffic_is_said_once():
    both, none = ms.Workload(8, 8, 1, 1.0), ms.Workload(8, 8)
    for workload in (both, none):
        with pytest.raises(ms.ConfigError, match="--concurrency or --request-rate"):
            ms.predict(MODEL, HARDWARE, LAYOUT, workload)
    with pytest.raises(ms.ConfigError, match="request rate and others"):
        ms.sweep(MODEL, HARDWARE, [LAYOUT], [ms.Workload(8, 8, 1), ms.Workload(8, 8, request_rate=1.0)])


def test_two_pools_keep_up_with_a_rate_and_say_when_not():
    pools = ms.Disaggregated(ms.Workers(ms.Parallelism(tp=2), 2), ms.Workers(ms.Parallelism(dp=4, ep=4)))
    answer = ask(20.0, layout=pools)
    assert answer.devices == 8
    assert answer.output_throughput_per_device == pytest.approx(20.0 * 256 / 8)
    with pytest.raises(InfeasibleError, match="queue grows") as caught:
        ask(1e5, layout=pools)
    # No more prompts than the prefill workers take.
    assert caught.value.details["most_request_rate"] <= 1.0 / answer.prefill_s * (1 + 1e-6)


def test_pools_lay_out_or_say_why_not():
    workers = ms.Workers(ms.Parallelism(tp=3), 0), ms.Workers(ms.Parallelism(dp=64, ep=64))
    with pytest.raises(ms.ConfigError) as caught:
        ask(concurrency=8, layout=ms.Disaggregated(*workers))
    text = str(caught.value)
    assert "prefill workers: does not divide" in text
    assert "--prefill-workers" in text
    assert "decode workers: does not divide the 32 experts" in text
    large = ms.Disaggregated(ms.Workers(ms.Parallelism(tp=8)), ms.Workers(ms.Parallelism(tp=8)))
    with pytest.raises(ms.ConfigError, match="16 devices are asked for"):
        ask(concurrency=8, layout=large)


def test_decode_without_prefills_in_the_way():
    """What disaggregation is for: as many decoders, no interference."""
    pools = ms.Disaggregated(ms.Workers(ms.Parallelism(tp=1), 4), ms.Workers(ms.Parallelism(dp=4, ep=4)))
    apart = ask(concurrency=128, layout=pools, inputs=8192)
    together = ask(concurrency=128, layout=ms.Parallelism(dp=4, ep=4), inputs=8192)
    assert apart.tpot_s < together.tpot_s
    assert not any(line.op == "prefill" for line in apart.breakdown)


def test_what_comes_in_goes_out_as_long_as_it_is_kept_up_with():
    easy, hard = ask(20.0, calibration=None), ask(20.0, calibration=None, max_sequences=4)
    assert easy.interval["request_throughput"] == pytest.approx([20.0, 20.0])
    low, high = hard.interval["request_throughput"]
    # 32 requests run at once: where each takes its longest, fewer leave than come.
    assert high == 20.0
    assert low == pytest.approx(min(20.0, 4 * 8 / hard.interval["e2el_s"][1]))
    assert low < 20.0


def test_pools_look_for_requests_as_seldom_as_they_are_told():
    pools = ms.Disaggregated(ms.Workers(ms.Parallelism(tp=2), 2), ms.Workers(ms.Parallelism(dp=4, ep=4)))
    one, seldom = (ask(concurrency=16, layout=pools, scheduler_recv_interval=n) for n in (1, 11))
    assert seldom.ttft_s == pytest.approx(one.ttft_s + 5 * one.tpot_s)
