"""Towards MoE Deployment: what its tables print beside ours, and which way its gates move."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.hardware import load_hardware
from moesim.systems import rows
from moesim.systems.gating import GatedLayer, activation_bytes, dynamic_s, exchange_s, static_s, tutel_s
from moesim.systems.row import Case
from moesim.systems.rows import deployment

LAYER = GatedLayer(4096, 1024, 4096, 512, 2, 0.05)
V100 = load_hardware("v100-sxm-32gb-8")


def _errors(part):
    found = {}
    for row in rows():
        if row.system == "Towards MoE Deployment" and row.name.startswith(part):
            found[row.name] = row.compute(Case(row.central())) / row.figure.value - 1
    return found


def test_memory_is_exact_and_latencies_are_near():
    identities = {**_errors("expert-buffering"), **_errors("buffer-of-10"), **_errors("waste")}
    assert len(identities) == 4
    assert max(map(abs, identities.values())) < 0.01
    latencies = _errors("latency")
    assert len(latencies) == 6
    assert np.median(np.abs([*latencies.values(), *identities.values()])) < 0.12
    static = [abs(error) for name, error in latencies.items() if name.endswith("static")]
    assert np.median(static) < 0.12
    assert np.median(np.abs([*latencies.values()])) < 0.12


def test_a_mask_costs_more_than_padding_and_padding_more_than_neither():
    assert static_s(LAYER, V100, 12) > tutel_s(LAYER, V100) > dynamic_s(LAYER, V100)
    even = replace(LAYER, fullest=1 / 8)
    assert dynamic_s(even, V100) == pytest.approx(dynamic_s(LAYER, V100))
    assert dynamic_s(replace(LAYER, fullest=0.6), V100) > dynamic_s(even, V100)


def test_capacity_for_exactly_the_used_rows_pads_nothing():
    exact = replace(LAYER, capacity=LAYER.top_k / LAYER.experts)
    assert exact.padded_rows == exact.used_rows
    assert LAYER.padded_rows / LAYER.used_rows == pytest.approx(deployment.waste(512, 0.05))


def test_nodes_add_what_leaves_them():
    rows_ = 1000.0
    one = exchange_s(LAYER, V100, rows_)
    four = exchange_s(replace(LAYER, nodes=4), V100, rows_)
    assert four - one == pytest.approx(8 * rows_ * 1024 * 2 * 3 / 4 / 12.5e9)


def test_a_host_that_starts_kernels_slowly_sets_the_pace_of_sparse_experts():
    slow = replace(LAYER, tokens=8, launch_s=1e-3)
    assert dynamic_s(slow, V100) == pytest.approx(1e-3 * (3 * 64 + 4 + 2))
    assert dynamic_s(replace(slow, launch_s=0.0), V100) < dynamic_s(slow, V100)


def test_activations_of_a_mask_grow_with_the_square_of_the_tokens():
    twice = replace(LAYER, tokens=2 * LAYER.tokens)
    rows_part = [4 * layer.padded_rows * 1024 * 2 for layer in (LAYER, twice)]
    mask = [activation_bytes(x, True) - r for x, r in zip((LAYER, twice), rows_part, strict=True)]
    assert mask[1] == pytest.approx(4 * mask[0])
    assert activation_bytes(LAYER, False) < activation_bytes(LAYER, True)
