"""Pools are judged by the simulator, as any other plan is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim.planning.streams as streams_module
from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.layout import Disaggregated, Parallelism, Workers
from moesim.model import load_model
from moesim.planning.confirm import measured
from moesim.planning.exhaustive import exhaustive
from moesim.planning.pools import splits
from moesim.planning.search import Question, answer, question
from moesim.planning.types import CONFIRMED, Slo, Space, Traffic
from moesim.requests import Lognormal, generate_requests
from moesim.serving.pools import prepare_pools, simulate_pools
from moesim.serving.settings import Fleet

BOTH, POOLS = ("aggregated", "disaggregated"), ("disaggregated",)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Stretches of a few hundred requests."""
    monkeypatch.setattr(streams_module, "JUDGED", 150)


def asked_of(
    rate: float, limits: dict[str, float], modes: tuple[str, ...], replications: int = 1, **space: object
) -> Question:
    requests = generate_requests(2500, f"poisson:{rate}", Lognormal(600, 0.8), Lognormal(60, 0.6), seed=11)
    tried = Space(
        pp=(1,), dp=(1,), ep=(1,), chunk_tokens=(2048,), max_sequences=(128,), modes=modes, most_devices=24
    )
    tried = replace(tried, **space)
    model, machine = load_model("gpt-oss-20b"), load_hardware("h100-sxm-8")
    traffic, slo = Traffic(requests, rate), Slo(limits, 0.9)
    return question([model], [machine], traffic, slo, tried, None, None, None, replications, 0)


#: Requests per second, limits, devices of a worker at most, whether pools alone are cheapest.
CASES = {
    "pools are cheaper": (600.0, {"ttft_s": 0.2, "tpot_s": 0.009}, 1, True),
    "decode workers are too many in steady state": (300.0, {"ttft_s": 0.1, "tpot_s": 0.006}, 2, True),
    "one pool is enough": (100.0, {"ttft_s": 0.2, "e2el_s": 2.0}, 1, False),
}


@pytest.mark.parametrize("case", list(CASES))
def test_search_finds_what_simulating_all_pools_finds(case):
    rate, limits, devices, pools = CASES[case]
    asked = asked_of(rate, limits, BOTH, max_devices=devices)
    everything = exhaustive(asked)
    found = answer(asked, 5)
    assert found.best.status == CONFIRMED
    assert found.best.usd_per_hour == pytest.approx(everything[0].usd_per_hour)
    layouts = [a.candidate.layout for a in everything]
    assert found.best.candidate.layout in layouts
    if pools:
        assert all(isinstance(layout, Disaggregated) for layout in layouts)
    assert not any("pools" in note for note in found.notes)


def test_a_pair_is_refuted_by_a_tighter_promise():
    """The same pools, the same traffic: what held at 6 ms per token does not at half of what was seen."""
    limits = {"ttft_s": 0.2, "tpot_s": 0.006}
    asked = asked_of(300.0, limits, POOLS, replications=2, max_devices=2)
    best = answer(asked, 1).best
    assert best.status == CONFIRMED
    low, high = best.interval["attainment"]
    assert 0.0 <= low <= best.metrics["attainment"] <= high <= 1.0
    tight = limits | {"tpot_s": best.metrics["tpot_p50_s"] / 2.0}
    judge = replace(asked.judge, slo=Slo(tight, 0.9), _known={})
    refused = judge.verdict(best.candidate)
    assert not refused.holds
    assert refused.metrics["attainment"] < 0.5
    # Only the promise differs, not what was simulated.
    assert refused.metrics["tpot_s"] == best.metrics["tpot_s"]


def test_a_search_refutes_pairs_and_says_that_nothing_holds():
    """The steady state ranks pairs that bursts of the traffic break: one node does not hold them."""
    asked = asked_of(600.0, {"ttft_s": 0.2, "tpot_s": 0.009}, POOLS, max_devices=1, most_devices=8)
    with pytest.raises(InfeasibleError):
        answer(asked, 5)


def test_verdicts_are_those_of_simulations_of_their_own():
    """Tables made for one number of workers serve others: metrics are as if made for each."""
    asked = asked_of(300.0, {"ttft_s": 0.2, "tpot_s": 0.006}, POOLS, max_devices=2)
    pair = asked.sorter.rows(asked.shapes, int)[0].pair
    assert pair is not None
    judge, (stream,) = asked.judge, asked.streams
    for nodes in (2, 1, 3):
        divided, best = pair.divisions(nodes)
        candidate = divided[best]
        alone = simulate_pools(
            candidate.model, candidate.hardware, candidate.layout, stream.requests, engine=candidate.engine
        )
        assert judge.verdict(candidate).metrics == measured(alone, stream, judge.slo)
    assert len(judge._ready) == 1


def test_more_workers_than_nodes_hold_are_a_fault():
    requests = generate_requests(20, "poisson:20", 200, 20, seed=1)
    model, machine = load_model("gpt-oss-20b"), load_hardware("h100-sxm-8")
    pools = Disaggregated(Workers(Parallelism(), 2), Workers(Parallelism(), 2))
    ready = prepare_pools(model, machine, pools, requests)
    twice = ready.sized(pools, machine, Fleet(2))
    assert twice.about.engines == 8
    many = Disaggregated(Workers(Parallelism(), 7), Workers(Parallelism(), 2))
    with pytest.raises(ConfigError, match="9 devices"):
        ready.sized(many, machine, Fleet(1))


@given(st.sampled_from((1, 2, 4, 8, 16)), st.sampled_from((1, 2, 4, 8, 16)), st.integers(1, 8), st.just(8))
def test_splits_are_all_that_leave_no_room(prefill, decode, nodes, each):
    devices = nodes * each
    left = devices - prefill * np.arange(1, devices + 1)[:, None] - decode * np.arange(1, devices + 1)[None]
    full = (left >= 0) & (left < min(prefill, decode))
    assert splits(prefill, decode, devices) == [(p + 1, d + 1) for p, d in np.argwhere(full).tolist()]
