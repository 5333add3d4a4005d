"""The search finds what simulating everything finds, and bounds take out nothing that holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import moesim.planning.streams as streams_module
from moesim.errors import InfeasibleError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.planning.exhaustive import exhaustive
from moesim.planning.search import answer, plan, question
from moesim.planning.types import BEYOND_BOUND, UNFIT, Slo, Space, Traffic
from moesim.requests import Lognormal, generate_requests


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Stretches of a few hundred requests."""
    monkeypatch.setattr(streams_module, "JUDGED", 150)


def _quiet(done: int) -> None:
    """Tell nobody."""
    assert done > 0


def traffic_of(rate: float, prompt: float, output: float, arrivals: str = "poisson") -> Traffic:
    spelled = f"poisson:{rate}" if arrivals == "poisson" else f"gamma:{rate}:3"
    requests = generate_requests(2500, spelled, Lognormal(prompt, 0.8), Lognormal(output, 0.6), seed=11)
    return Traffic(requests, rate)


CASES = {
    "two kinds": (
        "gpt-oss-20b", ("h100-sxm-8", "h200-sxm-8"), 600.0, 600, 60, {"ttft_s": 0.2, "tpot_s": 0.009}, 0.9, 32
    ),
    "end to end": ("qwen3-30b-a3b", ("h100-sxm-8", "b200-sxm-8"), 300.0, 800, 40, {"e2el_s": 0.5}, 0.95, 40),
    "first token": ("qwen3-30b-a3b", ("h200-sxm-8",), 400.0, 2000, 10, {"ttft_s": 0.2}, 0.9, 40),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_search_finds_the_optimum_of_an_exhaustive_one(case):
    name, machines, rate, prompt, output, limits, share, most = CASES[case]
    model, hardwares = load_model(name), [load_hardware(m) for m in machines]
    space = Space(max_devices=2, pp=(1,), chunk_tokens=(2048,), max_sequences=(32, 128), most_devices=most)
    traffic, slo = traffic_of(rate, prompt, output), Slo(limits, share)
    asked = question([model], hardwares, traffic, slo, space, None, None, None, 1, 0)
    everything = exhaustive(asked)
    assert everything
    for many in (5, 10**6):
        found = answer(asked, many)
        assert found.best.usd_per_hour == pytest.approx(everything[0].usd_per_hour)
    chosen = [(a.candidate.hardware.name, a.candidate.layout, a.candidate.engine) for a in everything]
    best = found.best.candidate
    assert (best.hardware.name, best.layout, best.engine) in chosen


def test_what_bounds_take_out_does_not_hold():
    """Tight promises, where bounds bite: nothing they take out does the simulator accept."""
    reasons = [what for seed in range(4) for what in _taken_out(seed)]
    assert len(reasons) > 10
    assert len(set(reasons)) > 1


def _taken_out(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    rate, prompt, output = 10.0 ** rng.uniform(1, 3), rng.uniform(50, 8000), rng.uniform(5, 200)
    limits = {
        "ttft_s": float(10.0 ** rng.uniform(-2.5, -0.5)),
        "tpot_s": float(10.0 ** rng.uniform(-3.2, -2)),
    }
    slo = Slo(limits, float(rng.uniform(0.3, 0.99)))
    space = Space(
        max_devices=2,
        pp=(1,),
        chunk_tokens=(512, 8192),
        max_sequences=(256,),
        most_devices=int(rng.integers(8, 40)),
        engine=replace(Space().engine, memory_utilisation=float(rng.uniform(0.2, 0.9))),
    )
    machines = [load_hardware("h100-sxm-8"), load_hardware("l40s-8")]
    asked = question(
        [load_model("gpt-oss-20b")],
        machines,
        traffic_of(rate, prompt, output),
        slo,
        space,
        None,
        None,
        None,
        1,
        seed,
    )
    out = []
    for row in asked.sorter.rows(asked.shapes, _quiet):
        if row.assessment.status not in (BEYOND_BOUND, UNFIT) or row.what.startswith("engine"):
            continue
        out.append(row.what)
        room = asked.tariff.replicas_within(row.shape, float("inf"), space)
        verdict = asked.judge.verdict(row.shape.candidate(row.engine, room))
        assert not verdict.holds, (row.what, row.assessment.reason)
    return out


def test_least_replicas_are_a_bound():
    """One rental fewer than the bound asks for does not hold."""
    traffic, slo = traffic_of(4000.0, 1500, 20), Slo({"ttft_s": 0.3, "tpot_s": 0.05}, 0.6)
    space = Space(max_devices=1, chunk_tokens=(8192,), max_sequences=(256,))
    asked = question(
        [load_model("gpt-oss-20b")], [load_hardware("l40s-8")], traffic, slo, space, None, None, None, 2, 0
    )
    (row,) = asked.sorter.rows(asked.shapes, _quiet)
    assert row.least > 8
    fewer = (row.least - 1) // 8 * 8
    assert not asked.judge.verdict(row.shape.candidate(row.engine, fewer)).holds


def test_budget_is_named_where_it_binds():
    traffic, slo = traffic_of(4000.0, 1500, 20), Slo({"ttft_s": 0.3, "tpot_s": 0.05}, 0.9)
    space = Space(max_devices=1, chunk_tokens=(8192,), max_sequences=(256,), most_devices=8)
    with pytest.raises(InfeasibleError) as caught:
        plan([load_model("gpt-oss-20b")], [load_hardware("l40s-8")], traffic, slo, space=space)
    assert caught.value.resource == "budget"
