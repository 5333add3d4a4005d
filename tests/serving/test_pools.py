"""Disaggregated serving over time, from a model and a machine to what every request saw."""

from __future__ import annotations

import numpy as np
import pytest

import moesim as ms
from moesim.correction import calibration_of
from moesim.errors import ConfigError
from moesim.requests import RequestTrace, generate_requests
from moesim.serving.failures import Failures
from moesim.serving.handover import HandOver
from moesim.serving.pools import simulate_pools

POOLS = ms.Disaggregated(ms.Workers(ms.Parallelism(), 2), ms.Workers(ms.Parallelism(tp=2), 1))


@pytest.fixture(scope="module")
def world():
    return ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")


def test_every_request_is_handed_over(world):
    requests = generate_requests(200, "poisson:20", 512, 64)
    outcome = simulate_pools(*world, POOLS, requests)
    assert outcome.done.all()
    table = outcome.table()
    assert set(table["replica"].tolist()) == {2}
    assert np.all(table["handed_s"] > 0.0)
    assert outcome.crossed_bytes.sum() == pytest.approx(outcome.carried_bytes[:2].sum())
    assert np.all((outcome.link_utilisation >= 0.0) & (outcome.link_utilisation < 1.0))
    assert np.all(outcome.state.progress["last_s"] >= outcome.state.progress["first_s"])
    # Tokens that were given are gaps and first tokens.
    assert outcome.state.tally.gaps.sum() == (requests.output_tokens - 1).sum()


def test_the_same_seed_gives_the_same(world):
    requests = generate_requests(100, "poisson:20", 512, 64)
    one, other = (
        simulate_pools(*world, POOLS, requests, failures=Failures(mtbf_s=3.0, repair_s=0.5, reload="none"))
        for _ in range(2)
    )
    for name, column in one.table().items():
        np.testing.assert_array_equal(column, other.table()[name])


def test_every_fault_is_told_at_once(world):
    wrong = HandOver(over="pigeon", oversubscription=0.0, first_token="nobody")
    with pytest.raises(ConfigError) as caught:
        simulate_pools(
            *world,
            POOLS,
            generate_requests(5, "poisson:1", 64, 8),
            hand_over=wrong,
            failures=Failures(mtbf_s=-1.0),
        )
    where = {fault.where for fault in caught.value.faults}
    assert where == {"--kv-link", "--kv-oversubscription", "--first-token-from", "--mtbf"}


@pytest.mark.parametrize("concurrency", [16, 64])
def test_a_closed_loop_settles_where_the_steady_state_does(world, concurrency):
    # Of equal requests many end together, so that prompts queue in bursts: more in TTFT than in throughput.
    pools = ms.Disaggregated(ms.Workers(ms.Parallelism(), 2), ms.Workers(ms.Parallelism(), 1))
    physics, n = calibration_of("none"), 12 * concurrency
    requests = RequestTrace(
        np.zeros(n), np.full(n, 1024, np.int32), np.full(n, 256, np.int32), concurrency=concurrency
    )
    steady = ms.predict(
        *world,
        pools,
        ms.Workload(input_len=1024, output_len=256, concurrency=concurrency),
        calibration=physics,
    )
    outcome = simulate_pools(*world, pools, requests, calibration=physics)
    first, last = 3 * concurrency, 9 * concurrency
    ends = outcome.state.progress["last_s"]
    assert outcome.tpot_s[first:last].mean() == pytest.approx(steady.tpot_s, rel=0.02)
    assert (last - first) / (ends[last] - ends[first]) == pytest.approx(steady.request_throughput, rel=0.06)
