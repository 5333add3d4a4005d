"""Joules: closed forms by hand, additivity, and that nothing is made up where no source says."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost import Part, Spent, alone, idle_energy, link_energy, memory_energy, op_energy
from moesim.engine.energy import step_energy
from moesim.hardware import Energy, load_hardware, names
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops.primitives import gemm
from moesim.ops.table import Op, OpTable
from moesim.prediction import Workload, predict

H100 = load_hardware("h100-sxm-8")
DUPLEX = load_hardware("h100-duplex-4")
#: Of scale-snu/attacc_simulator src/config.py: cell, bank, bank group, global wires, TSV, interposer.
PATH_PJ_PER_BIT = (0.11, 0.44, 1.01, 1.23, 0.5, 0.3)


def answer(hardware, model="mixtral-8x7b", layout=None, **changes):
    workload = Workload(**({"input_len": 512, "output_len": 512, "concurrency": 64} | changes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return predict(load_model(model), hardware, layout or Parallelism(tp=4), workload)


def table_of(*ops: Op, counts=None, batches=1) -> OpTable:
    return OpTable(tuple(zip(ops, counts or [1] * len(ops), strict=True)), (), batches)


def test_a_matrix_product_by_hand():
    """Three vectors times 1000 x 2000 in 16 bits: FLOPs at 0.32 pJ, bytes at 3.59 pJ/bit."""
    op = gemm("up", np.array([3.0]), 1000, 2000)
    spent = op_energy(table_of(op, counts=[5]), H100.device)
    flops = 5 * 2 * 3 * 1000 * 2000
    data = 5 * float(np.asarray(op.bytes).item())
    assert data == 5 * 2 * (1000 * 2000 + 3 * (1000 + 2000))
    assert spent.joules.item() == pytest.approx(flops * 0.32e-12 + data * 8 * 3.59e-12)
    assert spent.scope == "device, device+phy"
    assert [(part.name, part.scope) for part in spent.parts] == [
        ("compute", "device"),
        ("memory", "device+phy"),
    ]


def test_a_path_inside_the_memory_is_part_of_the_whole_path():
    device = load_hardware("attacc-8").device
    memory, data = device.memories[1], np.array([1e9])
    near = memory_energy(device, device.processors[1], memory, data).joules.item()
    own = memory_energy(device, device.processor, device.memory, data).joules.item()
    far = memory_energy(device, device.processor, memory, data).joules.item()
    assert near == pytest.approx(8e-3 * sum(PATH_PJ_PER_BIT[:2]))
    assert own == pytest.approx(8e-3 * sum(PATH_PJ_PER_BIT))
    assert far == pytest.approx(own + 8e-3 * 1.3)  # and NVLink


def test_the_nearer_a_processor_the_cheaper_a_byte():
    costs = []
    for name in ("h100-bank-pim-4", "h100-duplex-4"):
        device = load_hardware(name).device
        costs.append(device.processors[1].energy_per_byte["hbm"].joules)
        assert costs[-1] < device.memory.energy_per_byte.joules
    assert costs == sorted(costs)


def test_ops_near_the_memory_take_its_path():
    op, device = gemm("up", np.array([1.0]), 1000, 2000), DUPLEX.device
    there = op_energy(table_of(op), device, np.array([[True]]))
    here = op_energy(table_of(op), device, np.array([[False]]))
    data, flops = float(np.asarray(op.bytes).item()), float(np.asarray(op.flops).item())
    main, unit = device.processors
    saved = data * (device.memory.energy_per_byte.joules - unit.energy_per_byte["hbm"].joules)
    saved += flops * (main.energy_per_flop["bf16"].joules - unit.energy_per_flop["bf16"].joules)
    assert here.joules.item() - there.joules.item() == pytest.approx(saved)
    assert saved > 0


def test_links_count_bytes_and_hops_and_idle_power_counts_time():
    assert link_energy(H100.scale_up, 1e9, 2.0).joules == pytest.approx(2 * 8e9 * 1.3e-12)
    assert idle_energy(load_hardware("rtx-pro-6000-8").device, 2.0).joules == pytest.approx(70.0)
    assert idle_energy(H100.device, 2.0).parts == ()


def test_a_missing_constant_is_named_and_there_is_no_sum():
    h200 = load_hardware("h200-sxm-8").device
    spent = op_energy(table_of(gemm("up", np.array([1.0]), 10, 10)), h200)
    assert spent.joules is None
    assert spent.missing == ("h200-sxm.hbm: energy per byte to sm",)
    assert [part.name for part in spent.parts] == ["compute"]
    eight_bits = op_energy(table_of(gemm("up", np.array([1.0]), 10, 10, dtype="fp8")), H100.device)
    assert eight_bits.missing == ("h100-sxm.sm: energy per FLOP in fp8",)
    # What is not used is not missing.
    assert op_energy(table_of(gemm("up", np.array([0.0]), 10, 10)), h200).joules == 0.0


def test_sums_keep_sorts_and_scopes_apart():
    one = Spent((Part("memory", np.array([1.0, 2.0]), "device"),))
    other = Spent(
        (Part("memory", np.array([5.0, 6.0]), "board"), Part("memory", np.array([1.0, 1.0]), "device"))
    )
    both = one + other
    assert {(p.name, p.scope): p.joules.tolist() for p in both.parts} == {
        ("memory", "device"): [2.0, 3.0],
        ("memory", "board"): [5.0, 6.0],
    }
    assert both.joules.tolist() == [7.0, 9.0]
    assert both.scope == "device, board"
    assert (both + Spent(missing=("x",)) + Spent(missing=("x",))).missing == ("x",)


SIZES = st.integers(1, 4096)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(SIZES, SIZES, SIZES, st.integers(1, 60)), min_size=1, max_size=5), st.integers(1, 9)
)
def test_energy_is_additive_and_grows_with_work(shapes, factor):
    ops = [
        gemm(f"op{i}", np.array([float(rows)]), ins, outs) for i, (rows, ins, outs, _) in enumerate(shapes)
    ]
    counts = [count for *_, count in shapes]
    whole = op_energy(table_of(*ops, counts=counts), H100.device).joules.item()
    each = [
        op_energy(table_of(op, counts=[n]), H100.device).joules.item()
        for op, n in zip(ops, counts, strict=True)
    ]
    assert whole == pytest.approx(sum(each))
    more = op_energy(table_of(*ops, counts=[n * factor for n in counts]), H100.device)
    assert more.joules.item() == pytest.approx(factor * whole)
    bigger = [gemm("x", np.array([float(rows + 1)]), ins, outs) for rows, ins, outs, _ in shapes]
    assert op_energy(table_of(*bigger, counts=counts), H100.device).joules.item() > whole


def test_a_decode_step_by_hand():
    """One device, one layer kind: what the step reads and multiplies, times two constants."""
    found = answer(load_hardware("a100-sxm-80gb-8"), "olmoe-1b-7b", Parallelism(), concurrency=8)
    step, energy = found.decode, found.to_dict()["energy"]
    table, (group,) = step.work.table, step.groups
    flops = table.total("flops")[0] + group["mean_flops"][0]
    data = sum(table.total(name)[0] for name in ("weight_bytes", "activation_bytes", "cache_bytes"))
    data += group["mean_bytes"][0]
    assert energy["joules_per_token"] == pytest.approx((flops * 0.32e-12 + data * 8 * 3.59e-12) / 8, rel=1e-6)
    assert energy["missing"] == []
    # 1.28 billion parameters at work per token: 2 FLOPs each, and attention beside them.
    compute = next(part for part in energy["parts"] if part["name"] == "compute")
    assert 0.32e-12 * 2 * 1.1e9 < compute["joules_per_token"] < 0.32e-12 * 2 * 1.6e9


def test_tensor_parallel_messages_by_hand():
    """Two all-reduces per layer of a vector per sequence; 2 (n-1) / n of it per rank, over two wires."""
    found = answer(H100, "mixtral-8x7b", Parallelism(tp=4), concurrency=16)
    links = next(part for part in found.energy["parts"] if part["name"] == "links")
    model, n, vector = load_model("mixtral-8x7b"), 4, 4096 * 2
    per_token = 2 * model.num_layers * vector * 2 * (n - 1) / n * n
    # Embedding and logits add a little.
    assert links["joules_per_token"] == pytest.approx(per_token * 2 * 8 * 1.3e-12, rel=0.05)


def test_more_sequences_share_the_weights():
    few, many = (answer(H100, concurrency=n).energy["joules_per_token"] for n in (4, 128))
    assert many < few / 2


def test_layout_moves_no_arithmetic():
    """The same tokens cost the same FLOPs on one, two or four devices, at the same batch."""

    def compute(layout):
        found = answer(H100, "olmoe-1b-7b", layout, concurrency=32)
        return next(p["joules_per_token"] for p in found.energy["parts"] if p["name"] == "compute")

    one = compute(Parallelism())
    assert compute(Parallelism(tp=2)) == pytest.approx(one, rel=0.02)
    assert compute(Parallelism(dp=4, ep=4)) == pytest.approx(one, rel=0.02)
    assert compute(Parallelism(pp=2)) == pytest.approx(one, rel=0.02)


def test_twice_the_constant_is_twice_the_part():
    memory = H100.device.memory
    dear = Energy(2 * memory.energy_per_byte.joules, "board")
    device = replace(H100.device, memories=(replace(memory, energy_per_byte=dear),))
    before, after = (
        {p["name"]: p for p in answer(h).energy["parts"]} for h in (H100, replace(H100, device=device))
    )
    assert after["memory"]["joules_per_token"] == pytest.approx(2 * before["memory"]["joules_per_token"])
    assert after["memory"]["scope"] == "board"
    assert after["compute"] == before["compute"]


def test_no_machine_gets_an_energy_that_its_file_does_not_source():
    known = set()
    for name in names():
        machine = load_hardware(name)
        if machine.device.memory.capacity_bytes < 20e9:
            continue
        energy = answer(machine, model="olmoe-1b-7b", layout=Parallelism(), concurrency=1).energy
        sourced = any("energy" in path for path in machine.sources)
        if energy["joules_per_token"] is not None:
            known.add(name)
            assert sourced
            assert energy["missing"] == []
            assert energy["scope"]
            assert sum(p["joules_per_token"] for p in energy["parts"]) == pytest.approx(
                energy["joules_per_token"]
            )
        else:
            assert energy["missing"]
    assert {"h100-sxm-8", "a100-sxm-80gb-8", "a800-sxm-8", "h800-sxm-8"} <= known
    assert "h200-sxm-8" not in known
    assert load_hardware("dojo-wafer").device.memory.energy_per_byte is None
    assert "dojo-wafer" not in known


def test_sum_of_a_step_is_what_the_document_says():
    found = answer(H100, layout=Parallelism(dp=4, ep=4))
    spent = step_energy(found.decode)
    assert found.energy["joules_per_token"] == pytest.approx(spent.joules.item() / found.running)


def test_experts_beside_the_memory_take_its_path_and_none_is_lost():
    """On Duplex the FLOPs of all experts stay what they are, and bytes cost less than over the interposer."""
    found = answer(DUPLEX, "mixtral-8x7b", Parallelism(tp=4), concurrency=16)
    plain = answer(
        replace(DUPLEX, device=alone(DUPLEX.device)), "mixtral-8x7b", Parallelism(tp=4), concurrency=16
    )
    (both,), (main,) = found.decode.groups, plain.decode.groups
    assert both["mean_flops"][0] == pytest.approx(main["mean_flops"][0])
    assert 0 < both["near_flops"][0] <= both["mean_flops"][0] * (1 + 1e-12)
    assert 0 < both["near_bytes"][0] <= both["mean_bytes"][0] * (1 + 1e-12)
    assert main["near_bytes"][0] == 0
    assert found.energy["missing"] == []
    assert found.energy["joules_per_token"] < plain.energy["joules_per_token"]
