"""A plan asked again says what the search said, and moves as the machine does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.hardware import load_hardware
from moesim.layout import ExpertMap
from moesim.model import load_model
from moesim.planning import Space, launch, make_traffic, parse_slo, plan, sensitivities
from moesim.planning.again import Again, planned_placement
from moesim.planning.sensitivity import machines

TRAFFIC = {"request_rate": 30.0, "input_len": "lognormal:800:1", "output_len": "lognormal:150:0.7"}


@pytest.fixture(scope="module")
def planned():
    traffic = make_traffic(**TRAFFIC, requests=2000, seed=1)
    slo = parse_slo(["ttft:1000 tpot:25"], attainment=0.95)
    space = Space(
        max_devices=8, tp=(1,), pp=(1,), dp=(8,), ep=(8,), redundant=(0, 8), chunk_tokens=(8192,),
        max_sequences=(64,),
    )  # fmt: skip
    model, machine = load_model("gpt-oss-20b"), load_hardware("h100-sxm-8")
    return plan([model], [machine], traffic, slo, space=space, confirm=0), traffic, slo


def test_a_replica_carries_what_the_search_said(planned):
    result, traffic, slo = planned
    for one in result.ranked:
        again = Again.of(one.candidate, traffic, slo, None, 0)
        found = again.carries(one.candidate, None)
        assert found.request_rate == pytest.approx(one.metrics["request_rate_per_replica"], rel=0.01)
        assert found.at_traffic["tpot_s"] == pytest.approx(one.metrics["tpot_s"], rel=0.01)


def test_spares_are_packed_and_stay_where_they_are(planned):
    result, _, _ = planned
    spares = {one.candidate.redundant: one.candidate for one in result.ranked}
    assert planned_placement(spares[0], None) is None
    plan_of = planned_placement(spares[8], None)
    assert isinstance(plan_of, ExpertMap)
    assert (plan_of.ranks, plan_of.redundant) == (8, 8)


def test_the_simulator_agrees_on_the_sign(planned):
    result, traffic, slo = planned
    candidate = result.best.candidate
    again = Again.of(candidate, traffic, slo, None, 0)
    gains = sensitivities(candidate, 150.0, again.carries, simulate=again.simulate, placement=again.placement)
    assert all(g.rate_gain >= -0.005 for g in gains)
    simulated = [g for g in gains if g.simulated]
    assert len(simulated) == 2
    for gain in simulated:
        assert gain.simulated["tpot_s"] >= -0.005
        assert gain.simulated["tpot_s"] <= 0.11
    balanced = {g.what: g.rate_gain for g in gains if g.what.startswith("balance")}
    assert balanced["balance of ranks, perfect"] >= balanced["balance of ranks"] - 0.005


def test_half_of_a_machine_carries_less(planned):
    result, traffic, slo = planned
    candidate = result.best.candidate
    again = Again.of(candidate, traffic, slo, None, 0)
    own = again.carries(candidate, None).request_rate
    memory = candidate.hardware.device.memory
    processor = candidate.hardware.device.processor
    half = replace(
        candidate.hardware.device,
        memories=(replace(memory, bandwidth_bytes_per_s=memory.bandwidth_bytes_per_s / 2),),
        processors=(
            replace(
                processor,
                bandwidth_bytes_per_s={n: b / 2 for n, b in processor.bandwidth_bytes_per_s.items()},
                peak_flops_per_s={n: p / 2 for n, p in processor.peak_flops_per_s.items()},
            ),
        ),
    )
    slower = replace(candidate, hardware=replace(candidate.hardware, device=half))
    assert again.carries(slower, None).request_rate < 0.85 * own
    assert all(
        again.carries(replace(candidate, hardware=more), None).request_rate >= own * 0.995
        for _, more in machines(candidate.hardware)
    )


def test_what_the_engine_cannot_start_is_refused_with_a_reason(planned):
    _, traffic, slo = planned
    space = Space(
        max_devices=8, tp=(1,), pp=(1,), dp=(8,), ep=(1, 2, 8), chunk_tokens=(8192,), max_sequences=(64,)
    )
    result = plan(
        [load_model("gpt-oss-20b")], [load_hardware("h100-sxm-8")], traffic, slo, space=space, confirm=0
    )
    assert {one.candidate.layout.ep for one in result.ranked} == {1, 8}
    refused = {r.what: r.nearest for r in result.refused}
    assert refused["engine vllm"].reason == "vLLM's expert parallelism is 1 or dp x tp = 8, not 2"
    assert launch(result.best.candidate).commands
