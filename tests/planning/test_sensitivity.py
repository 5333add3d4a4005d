"""What more of a thing buys: signs, sizes, and that nothing else moves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moesim.correction import calibration_of
from moesim.errors import InfeasibleError
from moesim.hardware import load_hardware
from moesim.layout import Disaggregated, ExpertMap, Parallelism, Workers
from moesim.model import load_model
from moesim.planning.sensitivity import MORE, balance, balances, machines, sensitivities
from moesim.planning.types import Candidate
from moesim.prediction import Engine, Workload, predict
from moesim.prediction.question import load_of
from moesim.prediction.served import Served

PHYSICS = calibration_of("none")
#: Draws of routing differ by less than this between equal questions.
NOISE = 0.004


@dataclass(frozen=True)
class Point:
    request_rate: float
    at_traffic: dict


def asking(inputs, outputs, rate):
    """The steady state's own answer: what keeps up, and TPOT at a rate per replica."""

    def ask(candidate, loads):
        workload = Workload(inputs, outputs, request_rate=rate)
        question = (candidate.model, candidate.hardware, candidate.layout)
        served = Served.of(*question, candidate.engine, PHYSICS, loads)
        most = float(served.most_rate(load_of([workload], candidate.engine))[0])
        try:
            found = predict(*question, workload, trace=loads, engine=candidate.engine, calibration=PHYSICS)
        except InfeasibleError:
            return Point(most, {})
        return Point(most, {"tpot_s": found.tpot_s})

    return ask


def _gains(model, machine, layout, inputs, outputs, rate, **engine):
    nodes = -(-layout.world // machine.devices_per_node)
    candidate = Candidate(load_model(model), machine.with_nodes(nodes), layout, 2, Engine(**engine))
    found = sensitivities(candidate, outputs, asking(inputs, outputs, rate))
    return {s.what: s for s in found}


CASES = {
    "decode-bound": ("deepseek-v3", "h200-sxm-8", Parallelism(dp=16, ep=16), 1024, 2048, 2.0, {}),
    "prefill-bound": ("deepseek-v3", "h200-sxm-8", Parallelism(dp=8, ep=8), 8192, 64, 1.0, {}),
    "cache-bound": ("qwen3-30b-a3b", "h100-sxm-8", Parallelism(tp=2), 4096, 4096, 0.3, {}),
    "dense": ("llama-3.1-8b", "h100-sxm-8", Parallelism(), 1024, 256, 2.0, {"max_sequences": 64}),
    "many nodes": ("gpt-oss-120b", "mi300x-8", Parallelism(dp=16, ep=16), 1024, 512, 5.0, {}),
    "two pools": (
        "gpt-oss-20b", "h100-sxm-8",
        Disaggregated(Workers(Parallelism(tp=2), 2), Workers(Parallelism(dp=4, ep=4))), 2048, 256, 4.0, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_more_is_never_worse(case):
    model, machine, layout, inputs, outputs, rate, engine = CASES[case]
    gains = _gains(model, load_hardware(machine), layout, inputs, outputs, rate, **engine)
    assert {"memory bandwidth", "memory capacity", "compute"} <= set(gains)
    for what, gain in gains.items():
        assert gain.rate_gain >= -NOISE, (what, gain)
        assert gain.tpot_gain is None or gain.tpot_gain >= -NOISE, (what, gain)
        if gain.change == MORE and not what.startswith(("memory capacity", "balance")):
            # Nothing that is 10 % more makes anything more than 10 % faster.
            assert gain.rate_gain <= MORE + NOISE, (what, gain)
        if gain.cost_gain is not None:
            assert gain.cost_gain == pytest.approx(1 - 1 / (1 + gain.rate_gain))
    order = [gain.rate_gain for gain in gains.values()]
    assert order == sorted(order, reverse=True)
    if "balance of ranks" in gains:
        assert gains["balance of ranks, perfect"].rate_gain >= gains["balance of ranks"].rate_gain - NOISE


def test_what_binds_buys_most():
    llama, h100 = "llama-3.1-8b", load_hardware("h100-sxm-8")
    decode = _gains(llama, h100, Parallelism(), 16, 1024, 1.0, max_sequences=4)
    assert next(iter(decode)) == "memory bandwidth"
    assert decode["memory bandwidth"].rate_gain > 0.05
    assert decode["compute"].rate_gain < 0.01
    prefill = _gains(llama, h100, Parallelism(), 8192, 2, 0.5, max_sequences=4)
    assert next(iter(prefill)) == "compute"
    assert prefill["compute"].rate_gain > 0.05
    # A cache that is always full: rate follows the requests that fit, which grow faster than the memory.
    cache = _gains(llama, load_hardware("l4-24core"), Parallelism(), 4000, 4000, 0.01)
    assert next(iter(cache)) == "memory capacity"
    assert cache["memory capacity"].rate_gain > MORE


def test_one_thing_moves_at_a_time():
    own = load_hardware("gb200-nvl72", nodes=18)
    found = dict(machines(own))
    assert "network, scale-out" not in found  # one rack: nothing crosses it
    assert "network, scale-out" in dict(machines(load_hardware("h100-sxm-8", nodes=2)))
    assert "network, scale-up" not in dict(machines(load_hardware("l4-24core")))
    grown = found["memory bandwidth"].device
    assert grown.memory.bandwidth_bytes_per_s == pytest.approx(1.1 * own.device.memory.bandwidth_bytes_per_s)
    assert replace(grown, memories=own.device.memories, processors=own.device.processors) == own.device
    assert grown.processor.peak_flops_per_s == own.device.processor.peak_flops_per_s
    wide = found["network, scale-up"]
    assert replace(wide, scale_up=own.scale_up) == own
    for name, fits in own.scale_up.collectives.items():
        for before, after in zip(fits, wide.scale_up.collectives[name], strict=True):
            assert after.busbw_bytes_per_s == pytest.approx(1.1 * before.busbw_bytes_per_s)
            assert after.alpha_s == before.alpha_s


loads = hnp.arrays(np.float64, (3, 12), elements=st.floats(0.05, 20.0))


@given(loads, st.sampled_from([2, 3, 4, 6]), st.integers(0, 3))
def test_balanced_loads_are_equal_on_ranks_and_keep_totals(table, ranks, copies):
    redundant = -12 % ranks + ranks * copies if copies else 0
    plan = ExpertMap.contiguous(3, 12, ranks, redundant)
    even = balance(table, plan)
    assert even.sum(axis=1) == pytest.approx(table.sum(axis=1))
    assert (even > 0).all()
    per_rank = _rank_loads(plan, even)
    assert np.ptp(per_rank, axis=1).max() <= 1e-3 * per_rank.mean(axis=1).min()
    if not redundant:
        # Experts of a rank stay as unequal as they were.
        ratio = (even / table).reshape(3, ranks, -1)
        assert ratio == pytest.approx(np.repeat(ratio[:, :, :1], ratio.shape[2], axis=2))


def _rank_loads(plan, table):
    found = np.zeros((len(table), plan.ranks))
    slots = plan.physical_to_logical
    for layer, row in enumerate(slots):
        copies = np.bincount(row, minlength=plan.num_experts)
        for slot, expert in enumerate(row):
            found[layer, slot // (len(row) // plan.ranks)] += table[layer, expert] / copies[expert]
    return found


def test_there_is_nothing_to_balance_without_expert_parallelism():
    machine, model = load_hardware("h100-sxm-8"), load_model("gpt-oss-20b")
    assert balances(Candidate(model, machine, Parallelism(tp=8), 1, Engine()), None, None) is None
    dense = Candidate(load_model("llama-3.1-8b"), machine, Parallelism(tp=8), 1, Engine())
    assert balances(dense, None, None) is None
    spread = Candidate(model, machine, Parallelism(dp=8, ep=8), 1, Engine())
    own, nearer, even = balances(spread, None, None)
    plan = ExpertMap.contiguous(len(own.totals), model.num_experts, 8)
    busiest = [_rank_loads(plan, x.totals).max(axis=1) for x in (own, nearer, even)]
    mean = _rank_loads(plan, own.totals).mean(axis=1)
    assert busiest[2] == pytest.approx(mean)
    assert busiest[1] - mean == pytest.approx(0.9 * (busiest[0] - mean))
