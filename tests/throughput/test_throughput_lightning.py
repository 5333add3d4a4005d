"""MoE-Lightning: the published points, bounds, memory, and what moving the hardware does."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.throughput import SYSTEMS, LayerShape, Machine, Workload, best_policy, flexgen
from moesim.throughput.lightning import GPU_SHARE, HOST_SHARE, Policies, estimate, largest_batch, plan
from moesim.throughput.lightning_search import best, policies

MIXTRAL = LayerShape.of(load_model("mixtral-8x7b"))
T4, L4 = Machine.of(load_hardware("t4")), Machine.of(load_hardware("l4"))
MTBENCH = Workload(418, 128)

POLICY = st.builds(
    Policies.one,
    st.integers(1, 4000),
    st.integers(1, 300),
    gpu_attention=st.booleans(),
    gpu_experts=st.booleans(),
    weights=st.sampled_from([0.0, 0.125, 0.5, 1.0]),
    cache=st.sampled_from([0.0, 0.5, 1.0]),
)


@pytest.mark.parametrize(
    ("system", "micro_batch", "count", "published"),
    [
        ("flexgen", 8, 139, 9.5),
        ("flexgen", 36, 14, 16.816),
        ("flexgen", 36, 31, 20.654),
        ("lightning", 36, 14, 30.12),
    ],
)
def test_table_5_of_moe_lightning(system, micro_batch, count, published):
    """arXiv:2411.11217, Table 5: T4, MTBench padded to 418, 128 generated; nothing was fitted to it."""
    if system == "flexgen":
        made = flexgen.plan(MIXTRAL, T4, MTBENCH, flexgen.Block(micro_batch, count, 0.08))
    else:
        made = plan(MIXTRAL, T4, MTBENCH, Policies.one(micro_batch * count, micro_batch))
    assert made.tokens_per_s == pytest.approx(published, rel=0.15)


@pytest.mark.parametrize(("box", "gib", "batch", "micro_batch"), [(T4, 15, 504, 36), (L4, 24, 884, 68)])
def test_the_search_finds_the_published_policy(box, gib, batch, micro_batch):
    """With the memory that its optimiser counts: the CPU attends, all is streamed, sizes are near."""
    box = replace(box, gpu_bytes=gib * 2**30, host_bytes=192 * 2**30)
    found = best(MIXTRAL, box, MTBENCH)
    assert (found.policy["attention"], found.policy["experts"]) == ("cpu", "gpu")
    assert found.policy["weights_on_gpu"] == 0.0
    assert found.batch == pytest.approx(batch, rel=0.1)
    published = plan(MIXTRAL, box, MTBENCH, Policies.one(batch, micro_batch))
    assert published.tokens_per_s * 0.999 <= found.tokens_per_s <= published.tokens_per_s * 1.05


@settings(max_examples=150, deadline=None)
@given(POLICY, st.integers(1, 2000), st.integers(1, 300))
def test_the_schedule_never_beats_the_bounds(policy, prompt, output):
    made = plan(MIXTRAL, L4, Workload(prompt, output), policy)
    assert made.tokens_per_s <= min(made.bounds.values()) * (1 + 1e-9)
    closed = estimate(MIXTRAL, L4, Workload(prompt, output), policy)
    ceiling = float(closed.tokens_per_s(policy, Workload(prompt, output))[0])
    assert made.tokens_per_s <= ceiling * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(POLICY, st.sampled_from([f.name for f in fields(Machine) if f.name not in ("gpus", "overlap")]))
def test_twice_of_any_resource_is_never_slower(policy, name):
    if name in ("gpu_bytes", "host_bytes"):
        return
    fast = replace(T4, **{name: 2 * getattr(T4, name)})
    before = plan(MIXTRAL, T4, MTBENCH, policy).tokens_per_s
    assert plan(MIXTRAL, fast, MTBENCH, policy).tokens_per_s >= before * (1 - 1e-9)


def test_twice_the_link_doubles_what_the_link_bounds():
    slow = replace(L4, gpu_weights=1e15, gpu_flops=1e18, gpu_cache=1e15, cpu_cache=1e15, host_copy=1e15)
    work, policy = Workload(1, 1000), Policies.one(256, 64)
    one = plan(MIXTRAL, slow, work, policy)
    two = plan(MIXTRAL, replace(slow, link_in=2 * slow.link_in, link_out=2 * slow.link_out), work, policy)
    assert two.tokens_per_s == pytest.approx(2 * one.tokens_per_s, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(16, 2000), st.integers(2, 256))
def test_the_largest_batch_fits_and_the_next_does_not(micro_batch, prompt, output):
    work = Workload(prompt, output)
    most = largest_batch(MIXTRAL, T4, work, micro_batch)
    if most:
        assert estimate(MIXTRAL, T4, work, Policies.one(most, micro_batch)).fits[0]
    assert not estimate(MIXTRAL, T4, work, Policies.one(most + micro_batch, micro_batch)).fits[0]


def test_the_memory_of_the_published_runs_is_that_of_its_optimiser():
    """15 GiB x 0.86 of the T4 hold 36 x 14 sequences and no more; 192 GiB x 0.8 of the L4's host 68 x 13."""
    t4 = replace(T4, gpu_bytes=15 * 2**30, host_bytes=192 * 2**30)
    l4 = replace(L4, gpu_bytes=24 * 2**30, host_bytes=192 * 2**30)
    assert largest_batch(MIXTRAL, t4, MTBENCH, 36) == 504
    assert largest_batch(MIXTRAL, l4, MTBENCH, 68) == 884


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("box", ["t4", "l4", "moe-gen-c2", "a40"])
def test_what_is_found_fits(system, box):
    hardware = load_hardware(box)
    made = best_policy(system, load_model("mixtral-8x7b"), hardware, Workload(512, 64))
    machine = Machine.of(hardware)
    own = system not in ("moe-gen", "moe-lens")
    share = GPU_SHARE if own else 1.0
    assert made.memory_bytes.get("gpu", 0.0) <= machine.gpu_bytes * share * (1 + 1e-9)
    assert sum(made.memory_bytes.get(name, 0.0) for name in ("host", "cache")) <= machine.host_bytes
    assert own <= ({"gpu", "host"} <= set(made.memory_bytes))
    assert made.tokens_per_s <= min(made.bounds.values())
    assert made.to_dict()["tokens_per_s"] == made.tokens_per_s


def test_the_search_is_no_worse_than_any_policy_tried_by_hand():
    found = best(MIXTRAL, L4, MTBENCH)
    for micro_batch in (8, 24, 48, 68, 100):
        for attends in (False, True):
            batch = largest_batch(MIXTRAL, L4, MTBENCH, micro_batch)
            policy = Policies.one(batch, micro_batch, gpu_attention=attends)
            if batch and estimate(MIXTRAL, L4, MTBENCH, policy).fits[0]:
                # A grid may miss the very best batch by its spacing.
                assert found.tokens_per_s >= 0.97 * plan(MIXTRAL, L4, MTBENCH, policy).tokens_per_s


def test_the_grid_is_searched_whole_by_brute_force():
    """The leaders of the closed form are those of a loop over the same policies."""
    work = Workload(100, 20, requests=64)
    grid = policies(MIXTRAL, T4, work)
    made = estimate(MIXTRAL, T4, work, grid)
    rates = np.where(made.fits, made.tokens_per_s(grid, work), 0.0)
    top = 0.0
    for i in range(0, len(rates), 97):
        one = estimate(MIXTRAL, T4, work, grid.at(i))
        rate = float(one.tokens_per_s(grid.at(i), work)[0]) if one.fits[0] else 0.0
        assert rate == pytest.approx(float(rates[i]))
        top = max(top, rate)
    assert rates.max() >= top
    assert float(grid.batch.max()) == 64


def test_more_host_memory_is_never_worse():
    rates = [
        best(MIXTRAL, replace(T4, host_bytes=size), MTBENCH).tokens_per_s for size in (1.3e11, 1.9e11, 4e11)
    ]
    assert rates == sorted(rates)


def test_a_model_that_fits_nowhere_says_what_is_short():
    with pytest.raises(InfeasibleError) as caught:
        best(MIXTRAL, replace(T4, host_bytes=50e9), MTBENCH)
    assert caught.value.resource == "memory host"
    assert caught.value.needed > caught.value.available == HOST_SHARE * 50e9
    with pytest.raises(InfeasibleError, match="does not fit"):
        best_policy("flexgen", load_model("deepseek-v3"), load_hardware("t4"), MTBENCH)


def test_faults_of_a_workload_come_at_once():
    with pytest.raises(ConfigError) as caught:
        Workload(0, -1, 0)
    assert [fault.where for fault in caught.value.faults] == ["prompt_len", "output_len", "requests"]
    with pytest.raises(ConfigError, match="no experts"):
        LayerShape.of(load_model("llama-2-7b"))
    with pytest.raises(ConfigError):
        best_policy("flexgenn", load_model("mixtral-8x7b"), load_hardware("t4"), MTBENCH)
    with pytest.raises(ConfigError, match=r"host"):
        Machine.of(load_hardware("rtx-4090").__class__(**_without_host()))


def test_systems_of_16_bits_say_so():
    for system in ("moe-gen", "moe-lens"):
        with pytest.raises(ConfigError, match="16 bits"):
            best_policy(system, load_model("mixtral-8x7b"), load_hardware("t4"), MTBENCH, weight_dtype="int4")
    quantised = best_policy(
        "moe-lightning", load_model("mixtral-8x7b"), load_hardware("t4"), MTBENCH, weight_dtype="int4"
    )
    assert (
        quantised.tokens_per_s
        > best_policy("moe-lightning", load_model("mixtral-8x7b"), load_hardware("t4"), MTBENCH).tokens_per_s
    )


def _without_host() -> dict[str, object]:
    hardware = load_hardware("rtx-4090")
    return {f.name: getattr(hardware, f.name) for f in fields(hardware)} | {"host": None, "host_link": None}


def test_a_shape_holds_all_weights_of_its_model():
    from moesim.model import weight_bytes_by_module

    for name in ("mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b"):
        model = load_model(name)
        shape, weights = LayerShape.of(model), weight_bytes_by_module(model, "bf16")
        outside = weights.get("embedding", 0) + weights.get("head", 0)
        assert shape.layers * shape.layer_bytes == pytest.approx(sum(weights.values()) - outside)


def test_tiles_are_filled_up():
    # Eight rows of eight experts are eight tiles of sixteen rows.
    few, many = (float(MIXTRAL.padded_flops(n)) for n in (32, 4096))
    assert few == pytest.approx(float(MIXTRAL.distinct(32)) * 16 * MIXTRAL.expert_flops / 2)
    assert many == pytest.approx(4096 * MIXTRAL.expert_flops, rel=0.01)
