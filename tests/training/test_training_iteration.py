"""One iteration: identities, conservation, and what must never happen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.model import load_model, params
from moesim.training import (
    Costs,
    Recipe,
    Space,
    TrainLayout,
    exchange_seconds,
    gpt,
    iterate,
    layer_activations,
    one_forward_one_backward,
    reduce_seconds,
    search,
    training_flops,
)
from moesim.training.memory import Stages, fullest, stage_params
from moesim.training.search import candidates
from moesim.training.traffic import library_efficiency

SMALL = gpt(8, 1024, 16, 32000, ffn=2816, kv_heads=4, matrices=3, experts=8, top_k=2, tied=False)
NODE = load_hardware("h100-sxm-8")
TWO = load_hardware("h100-sxm-8", nodes=2)
RECIPE = Recipe(64, 2048)


def test_flops_are_those_of_published_formulas():
    # MegaBlocks, arXiv:2211.15841, table 1: GFLOPs of one sequence of 1024 tokens.
    for layers, hidden, published in ((6, 512, 316), (12, 768, 879), (24, 1024, 2487), (24, 1536, 5122)):
        flops = 1024 * training_flops(gpt(layers, hidden, hidden // 64), 1024)
        assert flops / 1e9 == pytest.approx(published, rel=0.002)
    # MegaScale-MoE, arXiv:2505.11432: 272.9k tokens/s on 240 H800 are 32.48 % of 989 TFLOP/s.
    large = gpt(
        60, 4096, 32, 65536, ffn=14336, kv_heads=8, matrices=3, experts=32, top_k=3, shared=14336, tied=False
    )
    assert params(large).total / 1e9 == pytest.approx(352, rel=0.002)
    implied = 0.3248 * 989e12 * 240 / 272.9e3
    assert training_flops(large, 8192, causal_halved=True) == pytest.approx(implied, rel=0.005)


@pytest.mark.parametrize(
    ("name", "tp", "factor"),
    [("none", 1, 34.0), ("none", 8, 34.0 / 8), ("full", 1, 2.0), ("full", 8, 2.0 / 8)],
)
def test_activations_of_a_gpt_layer_are_korthikantis(name, tp, factor):
    # arXiv:2205.05198, table 2: 34 s b h / t, and 2 s b h where all is recomputed.
    model = gpt(1, 6144, 64)
    recipe = Recipe(4, 2048, micro_batch=4, recompute=name, dropout=True)
    kept = layer_activations(model.layers[0], 6144, TrainLayout(tp=tp), recipe)
    assert kept == pytest.approx(factor * 2048 * 4 * 6144)


@settings(max_examples=40, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2, 4, 8]),
    ep=st.sampled_from([1, 2, 4, 8]),
    dp=st.sampled_from([1, 2, 4, 8]),
)
def test_parameters_of_all_ranks_are_those_of_the_model(tp, pp, ep, dp):
    layout = TrainLayout(tp=tp, pp=pp, ep=ep, dp=dp)
    if (tp * dp) % ep:
        return
    stages = Stages.of(SMALL, pp)
    parts = [stage_params(SMALL, layout, stages, [stage]) for stage in range(pp)]
    count = params(SMALL)
    experts = sum(p.experts for p in parts) * ep
    # Norms and the router are on every tensor-parallel rank.
    small = count.other + count.router
    dense = sum(p.dense for p in parts) * tp - small * (tp - 1)
    assert experts == pytest.approx(count.experts)
    assert dense == pytest.approx(count.total - count.experts, rel=1e-6)


def test_sharded_states_of_all_ranks_are_those_of_the_model():
    for zero in (1, 2, 3):
        layout, recipe = TrainLayout(dp=8, ep=4), replace(RECIPE, zero=zero)
        memory = fullest(SMALL, layout, recipe, one_forward_one_backward(1, 8))
        assert memory.states * 8 == pytest.approx(12.0 * params(SMALL).total, rel=1e-3)
        if zero == 3:
            assert memory.weights * 8 == pytest.approx(2.0 * params(SMALL).total, rel=1e-3)


def test_the_breakdown_adds_up_to_the_iteration():
    for layout, recipe in (
        (TrainLayout(tp=2, pp=2, dp=4, ep=8), RECIPE),
        (TrainLayout(pp=4, dp=4, ep=4, vpp=2), replace(RECIPE, schedule="interleaved")),
        (TrainLayout(dp=16, ep=8), replace(RECIPE, zero=3)),
        (TrainLayout(pp=4, dp=4, ep=4), replace(RECIPE, schedule="dualpipe", overlap=("dp", "ep"))),
    ):
        done = iterate(SMALL, TWO, layout, recipe)
        assert sum(line.seconds for line in done.breakdown) == pytest.approx(done.step_s)
        assert done.tokens_per_s * done.step_s == pytest.approx(64 * 2048)


def test_one_device_without_traffic_is_what_its_operations_take():
    done = iterate(SMALL, NODE.with_nodes(1), TrainLayout(), replace(RECIPE, global_batch=4))
    assert done.communication_share == done.bubble == 0.0
    assert 0.1 < done.mfu < 0.8


def test_groups_of_a_mapping_that_fits_a_node_stay_off_the_network():
    data = 64e6
    slow = replace(TWO, scale_out=replace(TWO.scale_out, bandwidth_bytes_per_s=1e9))
    inside, across = (
        TrainLayout(tp=2, dp=8, ep=8).group("ep"),
        TrainLayout(tp=2, dp=8, ep=8, folded=False).group("ep"),
    )
    assert exchange_seconds(inside, data, TWO) == exchange_seconds(inside, data, slow)
    assert exchange_seconds(across, data, slow) > 10 * exchange_seconds(across, data, TWO)
    # Half of what a rank holds is for the other node: closed form of the network's part.
    link = TWO.scale_out
    wire = link.latency_s + data / 2 / (link.bandwidth_bytes_per_s * library_efficiency(data, 2))
    assert exchange_seconds(across, data, TWO) == pytest.approx(wire)
    assert reduce_seconds("all_reduce", inside, data, TWO) < reduce_seconds("all_reduce", across, data, TWO)


layouts = st.sampled_from(
    [
        TrainLayout(tp=2, pp=2, dp=4, ep=8),
        TrainLayout(tp=1, pp=4, dp=4, ep=4),
        TrainLayout(dp=16, ep=8),
        TrainLayout(tp=4, dp=4, ep=2, etp=4),
        TrainLayout(tp=2, dp=8, ep=4, folded=False),
        TrainLayout(cp=2, dp=8, ep=8),
    ]
)
recipes = st.builds(
    Recipe,
    st.just(64),
    st.just(2048),
    micro_batch=st.sampled_from([1, 2]),
    zero=st.sampled_from([0, 1, 2]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    precision=st.sampled_from(["bf16", "fp8"]),
    capacity_factor=st.sampled_from([None, 1.0, 2.0]),
    overlap=st.sampled_from([(), ("dp",), ("dp", "tp", "ep")]),
)


@settings(max_examples=40, deadline=None)
@given(layouts, recipes, st.sampled_from(["hbm", "nvlink", "network", "peak"]))
def test_faster_parts_never_make_it_slower(layout, recipe, part):
    device = TWO.device
    machine = TWO
    if part == "nvlink":
        fits = {
            name: tuple(replace(f, busbw_bytes_per_s=2 * f.busbw_bytes_per_s) for f in found)
            for name, found in TWO.scale_up.collectives.items()
        }
        link = replace(
            TWO.scale_up, bandwidth_bytes_per_s=2 * TWO.scale_up.bandwidth_bytes_per_s, collectives=fits
        )
        machine = replace(TWO, scale_up=link)
    elif part == "network":
        machine = replace(
            TWO,
            scale_out=replace(TWO.scale_out, bandwidth_bytes_per_s=2 * TWO.scale_out.bandwidth_bytes_per_s),
        )
    else:
        p = device.processor
        if part == "hbm":
            p = replace(p, bandwidth_bytes_per_s={k: 2 * v for k, v in p.bandwidth_bytes_per_s.items()})
        else:
            p = replace(p, peak_flops_per_s={k: 2 * v for k, v in p.peak_flops_per_s.items()})
        machine = replace(TWO, device=replace(device, processors=(p, *device.processors[1:])))
    slow = iterate(SMALL, TWO, layout, recipe, need_memory=False)
    fast = iterate(SMALL, machine, layout, recipe, need_memory=False)
    assert fast.step_s <= slow.step_s * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(layouts, recipes)
def test_recomputation_saves_memory_and_costs_time(layout, recipe):
    runs = [
        iterate(SMALL, TWO, layout, replace(recipe, recompute=way), need_memory=False)
        for way in ("none", "selective", "full")
    ]
    times = [run.step_s for run in runs]
    assert times == sorted(times)
    assert runs[1].memory.activations <= runs[0].memory.activations
    # Full recomputation holds one whole layer beside the inputs of all.
    assert runs[2].memory.activations <= runs[0].memory.activations * 1.01 + runs[0].memory.activations / 2


@settings(max_examples=30, deadline=None)
@given(layouts, recipes)
def test_a_larger_batch_is_never_less_efficient(layout, recipe):
    once = iterate(SMALL, TWO, layout, recipe, need_memory=False)
    twice = iterate(SMALL, TWO, layout, replace(recipe, global_batch=128), need_memory=False)
    assert twice.tokens_per_s >= once.tokens_per_s * (1 - 1e-9)


def test_grouped_experts_do_the_same_work_in_one_kernel():
    from moesim.training.work import layer_passes

    layer, layout = SMALL.layers[0], TrainLayout(dp=8, ep=4)
    flops = {}
    for kernel in ("products", "grouped"):
        passes = layer_passes(layer, SMALL.hidden, layout, replace(RECIPE, expert_kernel=kernel))
        flops[kernel] = sum(float(p.forward.flops) * p.count for p in passes if p.kind == "expert")
    assert flops["grouped"] == pytest.approx(flops["products"])
    done = iterate(SMALL, TWO, TrainLayout(dp=16, ep=4), replace(RECIPE, expert_kernel="grouped"))
    assert {"experts", "weight_sums"} <= {x.op for x in done.breakdown}


def test_more_overlap_is_never_slower_and_more_imbalance_never_faster():
    layout = TrainLayout(tp=2, dp=8, ep=8)
    steps = [
        iterate(SMALL, TWO, layout, replace(RECIPE, overlap=way)).step_s
        for way in ((), ("dp",), ("dp", "ep"), ("dp", "ep", "tp"))
    ]
    assert steps == sorted(steps, reverse=True)
    uneven = [iterate(SMALL, TWO, layout, replace(RECIPE, imbalance=x)).step_s for x in (1.0, 1.2, 2.0)]
    assert uneven == sorted(uneven)
    assert uneven[-1] > uneven[0]


@pytest.mark.parametrize("ep", [4, 8])
def test_schedules_of_layers_hide_traffic_and_never_work(ep):
    # With 4 ranks of 2 devices the all-to-all stays in a node, with 8 it leaves it.
    layout = TrainLayout(tp=2, dp=8, ep=ep, etp=2)
    waits = {}
    for name in ("none", "tutel", "fsmoe"):
        done = iterate(SMALL, TWO, layout, replace(RECIPE, layer_schedule=name))
        waits[name] = {x.op: x.seconds for x in done.breakdown}
    assert waits["fsmoe"]["ep"] <= waits["tutel"]["ep"] < waits["none"]["ep"]
    for op in waits["none"]:
        if op not in ("ep", "gradients"):
            assert waits["fsmoe"][op] == pytest.approx(waits["none"][op])
    experts = waits["none"]["expert_up"] + waits["none"]["expert_down"]
    assert waits["none"]["ep"] - waits["tutel"]["ep"] <= experts * (1 + 1e-9)
    if ep == 4:
        # One link for both kinds of traffic: nothing more to gain.
        assert waits["fsmoe"]["ep"] == waits["tutel"]["ep"]
    with pytest.raises(ConfigError, match="instead of"):
        iterate(SMALL, TWO, layout, replace(RECIPE, layer_schedule="tutel", overlap=("ep",)))


def test_the_search_finds_what_trying_all_finds():
    model = gpt(4, 512, 8, 8000, ffn=1024, experts=4, top_k=1)
    recipe = Recipe(16, 1024)
    space = Space(vpp=(1,), micro_batch=(1, 2), recompute=("none", "full"))
    best = None
    tried = 0
    for layout, way in candidates(model, NODE, recipe, space):
        tried += 1
        try:
            done = iterate(model, NODE, layout, way)
        except (ConfigError, InfeasibleError):
            continue
        best = done.step_s if best is None else min(best, done.step_s)
    result = search(model, NODE, recipe, space)
    assert result.tried == tried > 50
    assert result.found[0].iteration.step_s == best
    assert len(result.found) + sum(result.rejected.values()) == tried
    marked = [(f.iteration.step_s, f.iteration.memory.total) for f in result.found if f.efficient]
    for f in result.found:
        if not f.efficient:
            assert any(s <= f.iteration.step_s and m <= f.iteration.memory.total for s, m in marked)


def test_what_does_not_fit_says_by_how_much():
    model = load_model("mixtral-8x22b")
    with pytest.raises(InfeasibleError) as caught:
        iterate(model, NODE, TrainLayout(dp=8, ep=8), Recipe(8, 4096))
    assert caught.value.needed > caught.value.available == NODE.device.memory.capacity_bytes
    with pytest.raises(InfeasibleError, match="none of"):
        search(model, NODE, Recipe(8, 4096), Space(tp=(1, 8), cp=(1,), vpp=(1,), micro_batch=(1,)))
    with pytest.raises(ConfigError) as faulty:
        iterate(model, NODE, TrainLayout(tp=5, ep=3, dp=4), Recipe(7, 4096, recompute="som", zero=9))
    assert len(faulty.value.faults) >= 5


def test_every_gpu_of_the_catalogue_trains_in_a_finite_time():
    # Some descriptions do not say how fast vector units are.
    for name in ("h800-sxm-8", "h20-8", "a100-sxm-80gb-8", "v100-sxm-32gb-8", "mi300x-8", "b300-sxm-8"):
        done = iterate(SMALL, load_hardware(name), TrainLayout(dp=8, ep=8), RECIPE, need_memory=False)
        assert 0.02 < done.mfu < 0.9, name


def test_costs_made_once_are_the_same():
    costs = Costs(SMALL, TWO)
    first = iterate(SMALL, TWO, TrainLayout(tp=2, pp=2, dp=4, ep=8), RECIPE, costs=costs)
    again = iterate(SMALL, TWO, TrainLayout(tp=2, pp=4, dp=2, ep=4), RECIPE, costs=costs)
    assert first.step_s == iterate(SMALL, TWO, TrainLayout(tp=2, pp=2, dp=4, ep=8), RECIPE).step_s
    assert again.step_s == iterate(SMALL, TWO, TrainLayout(tp=2, pp=4, dp=2, ep=4), RECIPE).step_s
    assert np.isfinite(again.mfu)
