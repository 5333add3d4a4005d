"""Predictions from parts that are known: sums on a CPU, overlap elsewhere, bounds below both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_laws import HELD

from moesim.cost import ExpertShape, expert_times
from moesim.cost.waves import wave_times
from moesim.hardware.tiles import Tile, TileLaw
from moesim.reference.layer import Case, LayerShape
from moesim.reference.routings import route
from moesim.validate.reference import Turn, Work, predict
from moesim.validate.reference.predict import CHOICE
from moesim.validate.reference.works import resident, work_of

SHAPE = LayerShape("x", 8, 2, 256, 512)


def work(counts, turns, tokens=None, dtype="fp32"):
    counts = np.array(counts, np.int32)
    case = Case(SHAPE, tokens or int(counts.sum()) // 2, dtype=dtype)
    return Work(case, counts, tuple(Turn(*(np.array(part, np.int32) for part in turn)) for turn in turns))


def test_a_cpu_does_one_thing_after_the_other(machine):
    one = work([4, 0, 6, 2, 0, 0, 0, 0], [([0], [], []), ([2, 3], [2, 3], [-1, -1])])
    found = predict(one, machine)
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    size = 3 * 256 * 512 * 4
    assert found.parts["copy"] == pytest.approx(2 * (5e-6 + size / 8e9))
    law = expert_times(
        one.counts[None].astype(float), ExpertShape(256, 512, 3, "fp32"), machine.device, CHOICE
    )
    assert found.parts["experts"] == pytest.approx(law.seconds[0])
    # Dividing the experts into turns is no matter on a CPU.
    assert predict(work(one.counts, [([0, 2, 3], [2, 3], [-1, -1])]), machine).seconds == pytest.approx(
        found.seconds
    )


def test_elsewhere_copies_run_beside_kernels(machine):
    gpu = replace(machine, kind="gpu")
    one = work([4, 0, 6, 2, 0, 0, 0, 0], [([0], [], []), ([2, 3], [2, 3], [-1, -1])])
    found = predict(one, gpu)
    copy = found.parts["copy"] / 2
    each = [
        predict(work([*[0] * i, n, *[0] * (7 - i)], [([i], [], [])], tokens=6), gpu).parts["experts"]
        for i, n in ((0, 4), (2, 6), (3, 2))
    ]
    before = found.parts["router"] + found.parts["top_k"]
    late = before + max(each[0], 2 * copy) + each[1] + each[2]
    assert found.seconds == pytest.approx(late + found.parts["weighted_sum"])
    # A copy over what the first turn reads has to wait for it.
    waiting = work(one.counts, [([0], [], []), ([2, 3], [2, 3], [-1, 0])])
    second = max(copy, each[0]) + copy
    expected = before + second + each[1] + each[2] + found.parts["weighted_sum"]
    assert predict(waiting, gpu).seconds == pytest.approx(expected)


@given(st.sampled_from(HELD), st.integers(0, 3))
def test_bound_roofline_and_interval(machine, case, seed):
    case = replace(case, seed=seed)
    ids = route(case)
    for hardware in (machine, replace(machine, kind="gpu")):
        found = predict(work_of(case, ids, {}), hardware)
        assert 0 < found.bound_s <= found.roofline_s * (1 + 1e-12)
        assert found.roofline_s <= found.seconds * (1 + 1e-9)
        assert found.low < found.seconds < found.high
        # Residuals of single parts are 10 %; several parts together are surer.
        assert found.high <= found.seconds * np.exp(0.1) * (1 + 1e-9)


def test_a_gpu_with_a_law_of_waves(machine):
    law = TileLaw((Tile("t", 64, 64, 0.5, 1e-6, 2e-6),), 1e-6, 2, log_error=(-0.3, 0.0, 0.4))
    core = replace(machine.device.processor, cores=8, tiles={"fp32": law})
    gpu = replace(machine, kind="gpu", device=replace(machine.device, processors=(core,)))
    one = resident(case := Case(SHAPE, 500), route(case))
    found = predict(one, gpu)
    shape = ExpertShape(256, 512, 3, "fp32")
    waves = wave_times(one.counts[None].astype(float), shape, gpu.device, law).seconds[0]
    assert found.parts["experts"] == pytest.approx(waves)
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    # Nearly all of the time is the experts': so is the interval.
    share = waves / found.seconds
    assert found.high / found.seconds - 1 == pytest.approx(share * (np.exp(0.4) - 1), rel=0.01)
    assert 1 - found.low / found.seconds == pytest.approx(share * (1 - np.exp(-0.3)), rel=0.01)


def test_faster_machines_are_predicted_to_be_faster(machine):
    device = machine.device
    core = device.processor
    faster = replace(core, bandwidth_bytes_per_s={"ram": 20e9}, peak_flops_per_s={"fp32": 2e11, "bf16": 2e11})
    twice = replace(machine, device=replace(device, processors=(faster,)))
    one = resident(case := Case(SHAPE, 64), route(case))
    assert predict(one, twice).parts["experts"] < predict(one, machine).parts["experts"]
    assert predict(one, twice).bound_s == pytest.approx(predict(one, machine).bound_s / 2)


@pytest.mark.parametrize("case", [case for case in HELD if case.offloaded], ids=lambda case: str(case.tokens))
def test_every_expert_runs_once_and_copies_are_those_of_the_policy(case):
    ids = route(case)
    played = work_of(case, ids, {})
    run = np.concatenate([turn.runs for turn in played.turns])
    assert sorted(run.tolist()) == sorted(set(ids.ravel().tolist()))
    assert played.loads > 0
    for number, turn in enumerate(played.turns):
        assert set(turn.copied.tolist()) <= set(turn.runs.tolist())
        assert all(wait < number for wait in turn.waits)
    away = round(case.offloaded * case.shape.num_experts)
    assert len(set(run.tolist())) - (case.shape.num_experts - away) <= played.loads
