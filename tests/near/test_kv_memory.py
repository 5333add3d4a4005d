"""Where the KV cache lies: beside the processor that attends soonest, if there is room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim as ms
from moesim.correction import calibration_of
from moesim.cost import Rates, kv_memory_of, op_energy, op_times
from moesim.engine.deployment import Deployment
from moesim.errors import InfeasibleError
from moesim.hardware import load_hardware
from moesim.hardware.types import Device, Memory, Processor
from moesim.ops import Batch, Op, OpTable, Precision

MODEL, ATTACC = ms.load_model("mixtral-8x7b"), load_hardware("attacc-8")
LAYOUT = ms.Parallelism(tp=8)
GIB = 2**30


def served(hardware=ATTACC, **settings_):
    return Deployment(MODEL, hardware, LAYOUT, Precision.of(MODEL), **settings_)


def with_pim(capacity_bytes):
    hbm, pim = ATTACC.device.memories
    return replace(
        ATTACC,
        device=replace(ATTACC.device, memories=(hbm, replace(pim, capacity_bytes=float(capacity_bytes)))),
    )


@pytest.mark.parametrize(("sequences", "context"), [(1.0, 4096.0), (64.0, 3072.0), (256.0, 512.0)])
def test_attention_of_attacc_in_closed_form(sequences, context):
    question = ms.Workload(context - 1, 2, sequences)
    answer = ms.predict(MODEL, ATTACC, LAYOUT, question, calibration=calibration_of("none"))
    line = next(one for one in answer.breakdown if one.op == "attention")
    attention, layers = MODEL.layers[0].attention, MODEL.num_layers
    heads, kv_heads, dim = attention.heads / 8, attention.kv_heads / 8, attention.qk_dim
    # Keys and values of 16 bits are read by all banks at once; each meets the queries of its group.
    inside = 5 * 670.4e9 * 9
    read = 2 * 2 * sequences * context * kv_heads * dim / inside
    multiplied = 2 * 2 * sequences * context * heads * dim / inside
    # Queries come and results go over NVLink.
    carried = 2 * 2 * sequences * heads * dim / 300e9
    launch = ATTACC.device.processor.efficiency_of("attention_decode", "bf16").floor_s
    expected = layers * (launch + max(multiplied, read + carried))
    assert line.seconds == pytest.approx(expected, rel=1e-6)
    assert line.bound_by == "near-compute" if layers * launch < expected / 2 else "launch"
    assert answer.bounds["tpot_s"] <= answer.tpot_s
    assert any("the KV cache is in memory pim" in note for note in answer.warnings)


def test_the_cache_has_a_memory_of_its_own():
    apart, together = served(), served(replace(ATTACC, device=replace(ATTACC.device, kv_in="hbm")))
    mine, theirs = (one.memory(8192, 0.9) for one in (apart, together))
    assert mine.weights_bytes == theirs.weights_bytes
    assert mine.cache_budget_bytes == pytest.approx(0.9 * 80 * GIB)
    held = mine.weights_bytes + mine.workspace_bytes
    assert mine.cache_budget_bytes - theirs.cache_budget_bytes == pytest.approx(held)
    # Weights do not move: a main memory that cannot hold them has no room for any cache.
    small = replace(mine, budget_bytes=held / 2)
    assert small.cache_budget_bytes == pytest.approx(-held / 2)


def test_no_room_no_move():
    weights = served().memory(8192, 0.9).weights_bytes
    free = 80 * GIB - weights
    assert served(with_pim(free * 1.01)).hardware.device.kv_memory.name == "pim"
    assert served(with_pim(free * 0.99)).hardware.device.kv_memory.name == "hbm"


def test_what_drafts_keeps_its_cache_in_the_same_place():
    smaller = with_pim(75 * GIB)
    found = served(smaller, speculation=ms.Engine(speculative_tokens=2).speculation)
    assert found.draft is not None
    assert found.hardware.device.kv_in == found.draft.hardware.device.kv_in == "pim"


def test_a_request_that_fits_nowhere_is_named():
    tiny = replace(with_pim(0.1 * GIB), device=replace(with_pim(0.1 * GIB).device, kv_in="pim"))
    with pytest.raises(InfeasibleError, match="memory pim") as error:
        ms.predict(MODEL, tiny, LAYOUT, ms.Workload(16000, 16000, 1), calibration=calibration_of("none"))
    assert error.value.resource == "memory pim"
    assert error.value.available == pytest.approx(0.09 * GIB)


def test_every_byte_costs_energy_once():
    ops = ((Op("a", "attention_decode", "bf16", 0.0, 3e9, 5e9, 7e9), 2),)
    table = OpTable(ops, (), 1)
    device = replace(ATTACC.device, kv_in="pim")
    main, near = device.processors
    for there, unit in ((False, main), (True, near)):
        spent = op_energy(table, device, np.array([[there]]))
        constants = [
            unit.energy_per_byte.get(m.name, m.energy_per_byte).joules
            for m in (device.memory, device.kv_memory)
        ]
        joules = sum(part.joules.item() for part in spent.parts)
        assert joules == pytest.approx(2 * (8e9 * constants[0] + 7e9 * constants[1]))


rates = st.floats(1e11, 1e14)


@st.composite
def devices(draw):
    """Two processors, two memories, any rates; the main processor is the one beside the main memory."""
    fast = draw(rates)
    main = Processor("main", {"bf16": 10 * draw(rates)}, None, {"a": fast, "b": draw(rates)}, {})
    slow = fast * draw(st.floats(1e-3, 1.0))
    units = (main, Processor("unit", {"bf16": 10 * draw(rates)}, None, {"a": slow, "b": draw(rates)}, {}))
    memories = tuple(Memory(name, 1e11, units[0].bandwidth_bytes_per_s[name]) for name in ("a", "b"))
    return Device("d", "", units, memories)


def seconds(device):
    table = served_table()
    there = replace(device, kv_in=kv_memory_of(table, device))
    return float((table.counts * op_times(table, there, Rates.of(table, there)).seconds).sum())


def served_table():
    ops = (
        (Op("up", "gemm", "bf16", 3e12, 4e10, 1e8), 1),
        (Op("attention", "attention_decode", "bf16", 4e11, 0.0, 2e8, 1e11), 1),
        (Op("write", "elementwise", "bf16", 0.0, 0.0, 1e8, 1e8), 1),
    )
    return OpTable(ops, (), 1)


@given(devices(), st.integers(0, 1), st.sampled_from("ab"))
@settings(max_examples=60, deadline=None)
def test_faster_is_never_slower(device, which, memory):
    unit = device.processors[which]
    faster = replace(
        unit,
        bandwidth_bytes_per_s={**unit.bandwidth_bytes_per_s, memory: 2 * unit.bandwidth_bytes_per_s[memory]},
    )
    units = tuple(faster if p is unit else p for p in device.processors)
    assert seconds(replace(device, processors=units)) <= seconds(device) * (1 + 1e-12)


@given(devices())
@settings(max_examples=60, deadline=None)
def test_no_memory_would_have_been_better_and_no_resource_beats_its_peak(device):
    table, best = served_table(), seconds(device)
    for name in "ab":
        there = replace(device, kv_in=name)
        times = op_times(table, there, Rates.of(table, there))
        whole = float((table.counts * times.seconds).sum())
        assert best <= whole * (1 + 1e-12)
        for peak in (times.peak_compute_s, times.peak_memory_s, times.peak_kv_s):
            assert (table.counts * peak).sum() <= whole * (1 + 1e-12)
        # Each memory's traffic at the sum of what both processors can read is a bound of its own.
        together = sum(p.bandwidth_bytes_per_s[name] for p in device.processors)
        cached = table.total("cache_bytes").item()
        assert whole >= cached / together * (1 - 1e-12)


def test_a_step_is_no_faster_than_its_bound():
    found = served()
    batch = Batch.decode(np.array([1.0, 64.0, 1024.0]), np.array([512.0, 8192.0, 65536.0]))
    step = found.step(batch)
    assert (step.bound_s <= step.seconds).all()
    assert (step.ops.peak_kv_s > 0).any()
