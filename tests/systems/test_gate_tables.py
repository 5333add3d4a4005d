"""Tables of MoE++ and adaptive gating, and what their layers are made of."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.hardware import load_hardware
from moesim.systems import rows
from moesim.systems.row import Case
from moesim.systems.rows import routing
from moesim.systems.zero_experts import ZeroLayer, layer_s, ops_of, tokens_of

DEVICE = load_hardware("a100-sxm-40gb-8").device
PLAIN = ZeroLayer(768, 2048, 16)
PLUS = ZeroLayer(768, 2048, 16, 2, 1, 1)


def _errors(system, part):
    found = [
        row.compute(Case(row.central())) / row.figure.value - 1
        for row in rows()
        if row.system == system and part in row.name
    ]
    return np.abs(found)


def test_the_tables_are_within_twelve_per_cent_at_the_median():
    plus = _errors("MoE++", "e-tau-")
    assert len(plus) == 14
    assert np.median(plus) < 0.12
    assert max(plus) < 0.15
    layer, time, flops = (_errors("Adaptive Gating", part) for part in ("layer-k", "time-", "flops-"))
    assert (len(layer), len(time), len(flops)) == (4, 6, 4)
    assert np.median(layer) < 0.12
    assert np.median(time) < 0.12
    assert max(flops) < 0.05


def test_plain_layers_of_every_size_were_timed_with_about_as_many_tokens():
    # Sizes were surely timed with one batch: the model sees a fifth between them.
    found = [routing.plus_tokens(experts, 5e-5) for experts in (8, 16, 32)]
    assert max(found) / min(found) < 1.25


def test_choices_are_shared_out_whole():
    for layer in (PLAIN, PLUS, replace(PLUS, tau=0.1)):
        gathered = sum(
            count * float(op.bytes) for op, count in ops_of(layer, 1e4) if op.name.endswith("_gather")
        )
        assert gathered == pytest.approx(2 * 1e4 * 768 * 2 * 2)
    flops = sum(count * float(op.flops) for op, count in ops_of(PLUS, 1e4) if op.kind == "gemm")
    assert flops == pytest.approx(PLUS.rho * 2 * 1e4 * 3 * 2 * 768 * 2048)


def test_fewer_tokens_on_weights_are_faster_and_experts_without_cost_something():
    seconds = [layer_s(replace(PLUS, tau=tau), 1e5, DEVICE) for tau in (0.1, 0.25, 0.5, 1.0)]
    assert seconds == sorted(seconds)
    assert seconds[-1] < layer_s(PLAIN, 1e5, DEVICE)
    assert seconds[-1] > PLUS.rho * layer_s(PLAIN, 1e5, DEVICE)


def test_tokens_are_found_back():
    seconds = layer_s(PLAIN, 12345.0, DEVICE)
    assert tokens_of(PLAIN, seconds, DEVICE) == pytest.approx(12345.0, rel=1e-6)


def test_adaptive_time_lies_between_one_and_two_experts():
    case = Case({"length": 128.0})
    for task in routing.TASKS.values():
        times = [routing.adaptive_time(case, replace(task, part=part)) for part in (0.0, task.part, 1.0)]
        assert times[0] <= times[1] <= times[2] == pytest.approx(1.0)
