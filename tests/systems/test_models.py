"""What rows compute with: bounds, brute force, and which way answers move."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.hardware import load_hardware
from moesim.model import load_model, params
from moesim.systems import Case, rows, run_row
from moesim.systems.gating import GatedLayer, dynamic_s, static_s
from moesim.systems.gguf import q4_k_m_expert_bits
from moesim.systems.replays import everything, launch_for, with_weights
from moesim.systems.rows.edgemoe import layer, over
from moesim.systems.rows.fiddler import hit_percent
from moesim.systems.rows.ktransformers import decode
from moesim.systems.rows.mixtral_offloading import rung
from moesim.systems.rows.pregated import MODES, block_s
from moesim.systems.rows.pregated import decode as pregated_decode
from moesim.systems.traces import synthetic


@given(st.integers(64, 2048), st.floats(4, 24))
@settings(max_examples=15)
def test_static_gating_is_slower_and_grows_with_the_square_of_the_tokens(tokens, passes):
    hardware = load_hardware("v100-sxm-32gb-8")
    layer = GatedLayer(tokens, 1024, 4096, 512, 2, 0.05)
    twice = GatedLayer(2 * tokens, 1024, 4096, 512, 2, 0.05)
    assert static_s(layer, hardware, passes) > dynamic_s(layer, hardware)
    assert static_s(twice, hardware, passes) > static_s(layer, hardware, passes)
    assert static_s(layer, hardware, passes + 1) > static_s(layer, hardware, passes)


def test_the_file_of_deepseek_v3_in_q4_k_m_has_its_published_size():
    model = load_model("deepseek-v3")
    bits = q4_k_m_expert_bits(model.num_layers, model.moe_layer_ids[0])
    assert 4.5 < bits < 4.5 + 2.0625 / 3
    # 404 GB on the hub.
    assert params(model).total * bits / 8 == pytest.approx(404e9, rel=0.01)


CASE = {
    "share": 0.47,
    "kernels": 100,
    "sync_s": 5e-5,
    "link": 1.0,
    "recall": 0.9,
    "pageable": 0.5,
    "run": 0.8,
}


@pytest.mark.parametrize("name", ["cache", "full", "naive"])
@given(st.floats(0.5, 1.0), st.floats(1.0, 2.0))
@settings(max_examples=10)
def test_a_faster_link_narrows_what_a_cache_is_worth(name, slower, faster):
    # The rung without a cache is an input: with a faster link less of it is copies.
    one, two = (rung(Case(CASE | {"link": x}), "t4-colab", 4, 1.17, name) for x in (slower, faster))
    assert one <= two * (1 + 1e-9) if name == "naive" else two <= one * (1 + 1e-9)


@given(st.floats(0.1, 1.0))
def test_blocks_of_pre_gated_moe_lie_between_their_bounds(run):
    case = Case({"run": run})
    times = {mode: block_s(case, "switch-large-128", mode) for mode in MODES}
    assert times["resident"] <= times["pre-gated"] <= times["on-demand"] <= times["prefetch-all"]
    assert times["on-demand"] <= 2 * times["pre-gated"] * (1 + 1e-12)
    assert pregated_decode(case, "switch-large-128") >= pregated_decode(case, "switch-large-128", "on-demand")


@given(st.floats(0.3, 0.6), st.integers(2, 8))
@settings(max_examples=20)
def test_ktransformers_gains_from_bandwidth_and_from_fewer_experts(share, experts):
    case = Case(CASE | {"share": share})
    assert decode(Case(CASE | {"share": 1.1 * share}), experts) > decode(case, experts)
    assert decode(case, experts - 1) > decode(case, experts)
    assert decode(case, experts, sockets=1) < decode(case, experts) < 2 * decode(case, experts, sockets=1)


def test_popular_experts_are_hit_more_and_unpopular_ones_less():
    case = Case({})
    for resident in (32, 56, 125):
        worst, chance, best = (hit_percent(case, resident, order) for order in ("worst", "random", "popular"))
        assert worst < chance < best
    assert hit_percent(case, 256) == pytest.approx(100)


def test_weights_that_are_drawn_add_up_and_leave_the_ids_alone():
    trace = synthetic("mixtral", 200, 4, None, 0)
    drawn = with_weights(trace)
    assert drawn.topk_weights is not None
    assert np.array_equal(drawn.topk_ids, trace.topk_ids)
    assert np.allclose(drawn.topk_weights.astype(float).sum(axis=2), 1, atol=2e-3)
    whole = everything(trace)
    assert (whole.topk_ids[5, 3] == np.arange(8)).all()


@given(st.floats(1.5, 30))
def test_a_baseline_is_met_where_it_can_be(target):
    found = launch_for(target, lambda launch: 1 + 1e4 * launch)
    assert 1 + 1e4 * found == pytest.approx(target, abs=0.02)


MUST = {
    "KTransformers": {"decode-dual-8", "decode-single-8"}
    | {f"decode-v0.2.1-{length}" for length in ("2", "1k", "2k", "4k", "8k")},
    "Fiddler": {"hits-56", "hits-125", "hits-56-random", "hits-56-worst"},
    "mixtral-offloading": {"t4-full", "t4-cache"},
    "Duplex": {"mixtral-256-b64", "mixtral-4096", "coprocessing", "glam-latency", "glam-latency-twice"}
    | {"energy-mixtral", "energy-glam", "energy-grok"},
}


@pytest.mark.parametrize("system", MUST)
def test_what_is_said_to_be_reproduced_is(system):
    found = {r.name: run_row(r, sweep=False) for r in rows() if r.system == system and r.name in MUST[system]}
    assert set(found) == MUST[system]
    assert {name for name, judged in found.items() if judged.verdict != "reproduced"} == set()


@given(st.floats(0.05, 50), st.floats(0, 1), st.floats(0, 1))
def test_guesses_and_a_buffer_never_slow_a_layer_down(run, recall, hits):
    case = Case({"recall": recall, "hits": hits})
    none = Case({"recall": 0.0, "hits": 0.0})
    assert run <= layer(case, run) <= layer(none, run) * (1 + 1e-12)
    assert 1.0 - 1e-12 <= over(case, run, 4.0) < over(case, run, 32.0)
    perfect = Case({"recall": 1.0, "hits": hits})
    assert layer(perfect, run) == pytest.approx(max(run, hits * run + (1 - hits) * max(run, 0.81 / 0.85)))
