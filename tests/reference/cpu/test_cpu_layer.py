"""The layer on a CPU against float64, and what must not change it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from moesim.reference import exact
from moesim.reference.cpu import CpuRunner, Plan
from moesim.reference.layer import Case, LayerShape

SMALL = LayerShape("small", 8, 2, 64, 32)
#: Rounding of one number, relative to it: bf16 has 8 bits, the leading one included.
BF16 = 2.0**-8


@pytest.fixture(scope="module")
def runner():
    with CpuRunner(memory_bytes=2**23) as made:
        yield made


def routing(kind: str, tokens: int, experts: int, k: int, rng) -> np.ndarray:
    if kind == "one-hot":  # all tokens to the same experts
        return np.tile(rng.permutation(experts)[:k], (tokens, 1)).astype(np.int32)
    weight = np.ones(experts)
    if kind == "ragged":
        weight = np.arange(1, experts + 1) ** -2.0
    if kind == "empty":  # nobody goes to the upper half
        weight[max(k, experts // 2) :] = 0.0
    keys = -rng.exponential(size=(tokens, experts)) / np.maximum(weight, 1e-9)
    return np.argsort(-keys, axis=1)[:, :k].astype(np.int32)


def assert_exact(prepared, inputs) -> None:
    """Within 1e-5 of float64; in bf16 within the roundings of activations, of experts' outputs and of sums.

    Errors are relative to sums of absolute values, as what cancels leaves its rounding behind.
    """
    wanted = exact.reference(inputs, prepared.ids, prepared.weights)
    x, width = exact.values(inputs.x).astype(np.float64), inputs.down.shape[2]
    room = np.zeros_like(x)
    bf16 = prepared.case.dtype == "bf16"
    for (t, j), e in np.ndenumerate(prepared.ids):
        both = exact.values(inputs.gate_up[e]).astype(np.float64) @ x[t]
        inner = both[:width] / (1 + np.exp(-both[:width])) * both[width:]
        terms = exact.values(inputs.down[e]).astype(np.float64) * inner
        size = BF16 * (np.abs(terms).sum(axis=1) + np.abs(terms.sum(axis=1))) if bf16 else 0.0
        room[t] += prepared.weights[t, j] * (size + 1e-5 * np.abs(terms).sum(axis=1))
    room += BF16 * np.abs(wanted) if bf16 else 0.0
    assert (np.abs(prepared.output() - wanted) <= 1.02 * room + 1e-9).all()


@settings(max_examples=50)
@drawn(
    kind=st.sampled_from(["uniform", "ragged", "empty", "one-hot"]),
    dtype=st.sampled_from(["fp32", "bf16"]),
    tokens=st.integers(1, 24),
    experts=st.integers(1, 12),
    k=st.integers(1, 12),
    hidden=st.sampled_from([8, 33, 64]),
    width=st.sampled_from([5, 16, 48]),
    renormalise=st.booleans(),
    offloaded=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_routing_is_exact(
    runner, kind, dtype, tokens, experts, k, hidden, width, renormalise, offloaded, seed
):
    shape = LayerShape("any", experts, min(k, experts), hidden, width, renormalise)
    case = Case(shape, tokens, offloaded=offloaded, dtype=dtype, seed=seed)
    inputs = exact.inputs(case)
    ids = routing(kind, tokens, experts, shape.top_k, np.random.default_rng(seed))
    prepared = runner.prepare(case, ids, inputs)
    timing = prepared.run()
    assert_exact(prepared, inputs)
    hit = np.bincount(ids.ravel(), minlength=experts)
    np.testing.assert_array_equal(prepared.counts, hit)
    np.testing.assert_array_equal(timing.expert_s > 0, hit > 0)
    np.testing.assert_array_equal(timing.copy_s > 0, timing.loaded)
    assert prepared.loads == timing.loaded.sum() <= (hit > 0).sum()


def test_bf16_rounds_where_a_device_does(runner):
    """Activations, outputs of experts, and sums: the same bits, but where float32 falls to another side."""
    case = Case(SMALL, 50, dtype="bf16")
    inputs = exact.inputs(case)
    prepared = runner.prepare(case, inputs=inputs)
    prepared.run()
    x, wanted = exact.values(inputs.x).astype(np.float64), np.zeros((50, 64))
    for (t, j), e in np.ndenumerate(prepared.ids):
        gate, up = np.split(exact.values(inputs.gate_up[e]) @ x[t], 2)
        inner = exact.bf16_round((gate / (1 + np.exp(-gate)) * up).astype(np.float32))
        y = exact.values(inputs.down[e]).astype(np.float64) @ inner
        wanted[t] += prepared.weights[t, j] * exact.bf16_round(y.astype(np.float32))
    assert (prepared.output() == exact.bf16_round(wanted.astype(np.float32))).mean() > 0.98


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("renormalise", [True, False])
def test_router_chooses_as_in_float64(runner, dtype, renormalise):
    case = Case(replace(SMALL, renormalise=renormalise), 50, dtype=dtype)
    inputs = exact.inputs(case)
    prepared = runner.prepare(case, inputs=inputs)
    ids, weights = exact.router(inputs, 2, renormalise)
    np.testing.assert_array_equal(prepared.ids, ids)
    np.testing.assert_allclose(prepared.weights, weights, rtol=1e-5)
    prepared.run()
    assert_exact(prepared, inputs)


def test_equal_experts_go_to_the_lower_id(runner):
    case = Case(replace(SMALL, top_k=3), 9)
    inputs = exact.inputs(case)
    inputs = replace(inputs, router=np.repeat(inputs.router[:2], 4, axis=0))
    ids = runner.prepare(case, inputs=inputs).ids
    assert {tuple(row) for row in ids.tolist()} == {(0, 1, 2), (4, 5, 6)}
    np.testing.assert_array_equal(ids, exact.router(inputs, 3, True)[0])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("backing", ["memory", "file"])
def test_copied_experts_compute_the_same_bits(dtype, backing):
    case = Case(SMALL, 30, dtype=dtype)
    inputs = exact.inputs(case)
    with CpuRunner(memory_bytes=2**23, backing=backing) as runner:
        outputs = []
        for offloaded in (0.0, 0.25, 1.0):
            prepared = runner.prepare(replace(case, offloaded=offloaded), inputs=inputs)
            for _ in range(3):
                timing = prepared.run()
            outputs.append(prepared.output().copy())
            assert timing.loaded.sum() == prepared.loads == 8 * offloaded
    assert outputs[0].tobytes() == outputs[1].tobytes() == outputs[2].tobytes()


@pytest.mark.parametrize("offloaded", [0.0, 0.5])
def test_pool_gives_other_weights_every_run_and_always_exact(runner, offloaded):
    case = Case(SMALL, 30, offloaded=offloaded)
    prepared = runner.prepare(case)
    outputs = []
    for _ in range(12):
        prepared.run()
        assert_exact(prepared, prepared.inputs())
        outputs.append(prepared.output().tobytes())
    assert len(set(outputs)) == len(outputs)


def test_order_of_experts_changes_nothing():
    def backwards(_case, ids, _before):
        runs = np.unique(ids).astype(np.int32)[::-1].copy()
        return Plan(runs, np.arange(len(runs)) % 2 == 1)

    case = Case(SMALL, 30)
    inputs = exact.inputs(case)
    outputs = []
    for options in ({}, {"residents": backwards}):
        with CpuRunner(memory_bytes=2**23, **options) as runner:
            prepared = runner.prepare(replace(case, offloaded=0.5 if options else 0.0), inputs=inputs)
            prepared.run()
            outputs.append(prepared.output().tobytes())
            assert prepared.loads == (4 if options else 0)
    assert outputs[0] == outputs[1]


def test_renamed_experts_change_nothing(runner):
    case = Case(SMALL, 30)
    inputs = exact.inputs(case)
    new = np.random.default_rng(1).permutation(8)  # new[e] is expert e's new name
    renamed = replace(
        inputs, **{n: getattr(inputs, n)[np.argsort(new)] for n in ("router", "gate_up", "down")}
    )
    one, two = runner.prepare(case, inputs=inputs), runner.prepare(case, inputs=renamed)
    one.run(), two.run()
    np.testing.assert_array_equal(new[one.ids], two.ids)
    assert one.output().tobytes() == two.output().tobytes()


def test_permuted_tokens_permute_outputs(runner):
    case = Case(SMALL, 30)
    inputs = exact.inputs(case)
    order = np.random.default_rng(2).permutation(30)
    one, two = (
        runner.prepare(case, inputs=inputs),
        runner.prepare(case, inputs=replace(inputs, x=inputs.x[order])),
    )
    one.run(), two.run()
    np.testing.assert_array_equal(one.ids[order], two.ids)
    # Products of other rows beside a row may round otherwise.
    np.testing.assert_allclose(one.output()[order], two.output(), rtol=1e-4, atol=1e-5)


def test_weighted_sums_conserve(runner):
    """Experts that all compute the same: whatever the routing, the sum is one expert's output."""
    case = Case(replace(SMALL, top_k=5), 30)
    inputs = exact.inputs(case)
    same = replace(
        inputs, gate_up=np.repeat(inputs.gate_up[:1], 8, axis=0), down=np.repeat(inputs.down[:1], 8, axis=0)
    )
    prepared = runner.prepare(case, inputs=same)
    prepared.run()
    alone = exact.reference(same, np.zeros((30, 1), np.int32), np.ones((30, 1), np.float32))
    np.testing.assert_allclose(prepared.output(), alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prepared.weights.sum(axis=1), 1.0, rtol=1e-6)


def test_identity_experts_return_the_tokens(runner):
    """``silu(b) x / silu(b)``: the gate sees a constant feature, up and down pass the others on."""
    shape = LayerShape("identity", 4, 2, 9, 8)
    case = Case(shape, 20)
    inputs = exact.inputs(case)
    x = inputs.x.copy()
    x[:, 8] = 1.0
    gate_up, down = np.zeros_like(inputs.gate_up), np.zeros_like(inputs.down)
    gate_up[:, :8, 8] = 2.0
    gate_up[:, 8 + np.arange(8), np.arange(8)] = 1.0
    down[:, np.arange(8), np.arange(8)] = (1.0 + np.exp(-2.0)) / 2.0
    prepared = runner.prepare(case, inputs=exact.LayerInputs(x, inputs.router, gate_up, down))
    prepared.run()
    np.testing.assert_allclose(prepared.output()[:, :8], x[:, :8], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(prepared.output()[:, 8], 0.0)


def test_parts_are_all_there_is(runner):
    timing = runner.prepare(Case(SMALL, 30, offloaded=0.5)).run()
    assert list(timing.parts) == ["router", "top_k", "copy", "experts", "weighted_sum"]
    assert sum(timing.parts.values()) == pytest.approx(timing.seconds)
    assert timing.expert_s.sum() <= timing.parts["experts"]
    assert timing.copy_s.sum() == pytest.approx(timing.parts["copy"])
    assert timing.seconds > 0
    assert timing.wall_s > 0
