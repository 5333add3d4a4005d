"""Two processors on one memory: the faster does each op, experts are shared out, nothing gets slower."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim as ms
from moesim.cost import ExpertShape, alone, choose, expert_times, op_times, split_expert_times
from moesim.hardware.types import Processor
from moesim.ops import Batch, OpTable, Precision, step_work
from moesim.ops.primitives import gemm

GPU = replace(
    ms.load_hardware("h100-duplex-4").device,
    processors=(Processor("sm", {"bf16": 1e15, "fp32": 6e13}, 1, {"hbm": 3e12}, {}),),
)


def beside(bandwidth=12e12, peak=1e14):
    return replace(
        GPU, processors=(*GPU.processors, Processor("pim", {"bf16": peak}, None, {"hbm": bandwidth}, {}))
    )


def table_of(model, sequences):
    return step_work(
        model, ms.Parallelism(), Batch.decode(sequences, 1000.0), Precision.of(model, "bf16")
    ).table


def test_the_processor_changes_where_the_rooflines_cross():
    # Both rooflines end at the same time where 2 m F / P_near = F * bytes / B_main: m = P_near / B_main.
    rows = np.array([1.0, 30.0, 40.0, 1e5])
    table = OpTable(((gemm("up", rows, 8192, 8192), 1),), (), 4)
    assert choose(table, beside())[0].tolist() == [1, 1, 0, 0]
    times = op_times(table, beside())
    assert times.seconds[0, 0] == pytest.approx((8192 * 8192 * 2 + 2 * 8192 * 2) / 12e12)


def test_elementwise_work_stays_where_the_vector_units_are():
    table = table_of(ms.load_model("mixtral-8x7b"), np.array([4.0]))
    near = choose(table, beside())[:, 0]
    assert {op.kind for (op, _), n in zip(table.ops, near, strict=True) if n} == {"gemm", "attention_decode"}


def test_a_unit_beside_another_memory_has_no_part_in_the_main_one():
    device = ms.load_hardware("a100-monde").device
    assert not choose(table_of(ms.load_model("mixtral-8x7b"), np.array([1.0])), device).any()


@given(
    st.floats(1e11, 1e14),
    st.floats(1e12, 1e15),
    st.sampled_from(["mixtral-8x7b", "deepseek-v2-lite"]),
    st.floats(1.0, 512.0),
)
def test_a_second_processor_never_slows_an_op_and_keeps_the_bound(bandwidth, peak, model, sequences):
    table = table_of(ms.load_model(model), np.array([sequences]))
    both, main = op_times(table, beside(bandwidth, peak)), op_times(table, GPU)
    assert (both.seconds <= main.seconds).all()
    assert (both.seconds >= np.maximum(both.peak_compute_s, both.peak_memory_s) * (1 - 1e-12)).all()
    assert (both.seconds[~both.near] == main.seconds[~both.near]).all()


SHAPE = ExpertShape(1024, 4096, 3, "bf16")


def brute(tokens, device):
    """Best prefix by trying all."""
    unit = device.processors[1]
    rising = np.sort(tokens)
    best = np.inf
    for cut in range(len(tokens) + 1):
        n = rising[:cut][rising[:cut] > 0]
        data = SHAPE.weight_bytes + n * SHAPE.bytes_per_pair
        near = np.maximum(data / unit.bandwidth_bytes_per_s["hbm"], n * SHAPE.flops_per_pair / 1e14).sum()
        kept = np.where(np.arange(len(tokens)) < cut, 0.0, rising)
        main = expert_times(kept[None], SHAPE, device).seconds[0]
        best = min(best, max(near, main))
    return best


@given(st.lists(st.integers(0, 400), min_size=1, max_size=24), st.floats(4e12, 1e14))
def test_the_best_prefix_is_found(tokens, bandwidth):
    n = np.array(tokens, dtype=np.float64)
    device = beside(bandwidth)
    found = split_expert_times(n[None], SHAPE, device)
    whole = expert_times(n[None], SHAPE, alone(device))
    assert found.seconds[0] <= whole.seconds[0]
    assert found.near_experts[0] <= (n > 0).sum()
    assert found.seconds[0] == pytest.approx(brute(n, device))


@given(st.lists(st.integers(0, 200), min_size=4, max_size=16), st.floats(4e12, 1e14), st.floats(1e13, 1e15))
def test_experts_on_two_processors_keep_the_bound(tokens, bandwidth, peak):
    n = np.array(tokens, dtype=np.float64)
    found = split_expert_times(n[None], SHAPE, beside(bandwidth, peak)).seconds[0]
    hit, pairs = (n > 0).sum(), n.sum()
    assert found >= (hit * SHAPE.weight_bytes + pairs * SHAPE.bytes_per_pair) / (bandwidth + 3e12) * (
        1 - 1e-12
    )
    assert found >= pairs * SHAPE.flops_per_pair / (peak + 1e15) * (1 - 1e-12)


@pytest.mark.parametrize("concurrency", [1, 64, 1024])
def test_predictions_use_the_processor_beside_the_memory_and_keep_the_bound(concurrency):
    hardware, model = ms.load_hardware("h100-duplex-4"), ms.load_model("mixtral-8x7b")
    plain = replace(hardware, device=alone(hardware.device))
    layout, load = ms.Parallelism(tp=4), ms.Workload(1024, 512, concurrency)
    with pytest.warns(ms.OutOfDomainWarning):
        ours, theirs = (ms.predict(model, h, layout, load) for h in (hardware, plain))
    assert ours.tpot_s < theirs.tpot_s
    assert ours.bounds["tpot_s"] <= ours.tpot_s
    bound_by = {line.op: line.bound_by for line in ours.breakdown}
    assert bound_by["experts"].startswith("near-") or concurrency == 1024
    assert sum(line.seconds for line in ours.breakdown) == pytest.approx(ours.tpot_s)
    assert not any(line.bound_by.startswith("near-") for line in theirs.breakdown)


@given(st.lists(st.integers(0, 300), min_size=48, max_size=48), st.floats(4e12, 5e13), st.floats(1e13, 1e15))
def test_twice_the_bandwidth_or_peak_never_slows(tokens, bandwidth, peak):
    n = np.array([tokens], dtype=np.float64)
    before = split_expert_times(n, SHAPE, beside(bandwidth, peak)).seconds[0]
    for faster in (beside(2 * bandwidth, peak), beside(bandwidth, 2 * peak), beside(2 * bandwidth, 2 * peak)):
        assert split_expert_times(n, SHAPE, faster).seconds[0] <= before * (1 + 1e-12)
