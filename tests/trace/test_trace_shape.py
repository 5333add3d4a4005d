"""How a trace is fitted to a model."""

from __future__ import annotations

import numpy as np
import pytest
from trace_helpers import DEEPSEEK_LITE, DEEPSEEK_V3, GPT_OSS, KNOWN, QWEN15, TINY, make_trace

from moesim.errors import TraceError
from moesim.model import load_model
from moesim.trace import Shape, load_trace
from moesim.trace.shape import Found, Hints, fit


def bare(tmp_path, tokens=40, shape=GPT_OSS, **arrays):
    """A file that says nothing of itself."""
    path = tmp_path / "bare.npz"
    trace = make_trace(tokens, shape)
    np.savez(path, **{"topk_ids": trace.topk_ids, "request": trace.request, **arrays})
    return path


def test_shape_of_a_model():
    assert Shape.of(load_model("deepseek-v3")) == DEEPSEEK_V3
    assert Shape.of(DEEPSEEK_V3) == DEEPSEEK_V3


def test_a_given_model_names_the_layers(tmp_path):
    trace = load_trace(bare(tmp_path, shape=DEEPSEEK_LITE), shape=DEEPSEEK_LITE)
    assert trace.moe_layer_ids == tuple(range(1, 27))
    assert (trace.num_experts, trace.model) == (64, "deepseek-v2-lite")
    assert not any("taken as deepseek" in w or "number of experts" in w for w in trace.warnings)


def test_a_trace_of_another_model_names_every_mismatch(tmp_path):
    with pytest.raises(TraceError) as caught:
        load_trace(bare(tmp_path), shape=DEEPSEEK_V3)
    text = str(caught.value)
    assert "trace has 24 MoE layers, deepseek-v3 has 58 (of 61 layers)" in text
    assert "trace has top-k 4, deepseek-v3 has 8" in text
    assert "trace has expert ids up to 31, deepseek-v3 has 256 experts" in text
    assert len(caught.value.faults) == 3


def test_ids_beyond_the_models_experts(tmp_path):
    with pytest.raises(TraceError, match="ids up to 59, gpt-oss-20b has 32 experts"):
        load_trace(bare(tmp_path, 200, QWEN15), shape=GPT_OSS)


def test_ids_that_stay_far_below_the_models_experts_raise_a_doubt(tmp_path):
    many = Shape("many", 24, tuple(range(24)), 128, 4)
    trace = load_trace(bare(tmp_path, 200), shape=many)
    assert any("no expert above 31 is ever chosen" in w for w in trace.warnings)


def test_the_smallest_known_model_that_fits_is_taken(tmp_path):
    trace = load_trace(bare(tmp_path, 200), candidates=KNOWN)
    assert trace.model == "gpt-oss-20b"
    assert any("taken as gpt-oss-20b" in w for w in trace.warnings)
    wider = load_trace(bare(tmp_path, 200, QWEN15), candidates=KNOWN)
    assert (wider.model, wider.num_experts) == ("qwen1.5-moe-a2.7b", 60)


def test_a_given_number_of_experts_narrows_the_known_models(tmp_path):
    trace = load_trace(bare(tmp_path, 200), candidates=KNOWN, num_experts=60)
    assert (trace.model, trace.num_experts) == ("qwen1.5-moe-a2.7b", 60)
    unknown = load_trace(bare(tmp_path, 200), candidates=KNOWN, num_experts=40)
    assert (unknown.model, unknown.num_experts) == ("", 40)


def test_models_of_one_shape_are_all_named(tmp_path):
    twin = Shape("gpt-oss-twin", 24, tuple(range(24)), 32, 4)
    trace = load_trace(bare(tmp_path, 200), candidates=(*KNOWN, twin))
    assert any("gpt-oss-twin would fit as well" in w for w in trace.warnings)


def test_without_any_hint_the_ids_decide(tmp_path):
    trace = load_trace(bare(tmp_path, 200))
    assert (trace.num_experts, trace.moe_layer_ids, trace.model) == (32, tuple(range(24)), "")
    assert any("largest id plus one" in w for w in trace.warnings)


def test_known_models_are_listed_only_when_needed(tmp_path):
    def explode():
        raise AssertionError("asked for the catalogue")

    assert load_trace(bare(tmp_path), shape=GPT_OSS, candidates=explode).model == "gpt-oss-20b"


def test_contradicting_hints(tmp_path):
    with pytest.raises(TraceError) as caught:
        load_trace(bare(tmp_path, 200), shape=GPT_OSS, num_experts=16)
    assert "trace has expert ids up to 31" in str(caught.value)
    assert "gpt-oss-20b has 32 experts" in str(caught.value)


@pytest.mark.parametrize("experts", [0, -1, 10**6])
def test_impossible_number_of_experts(tmp_path, experts):
    with pytest.raises(TraceError, match="is no number of experts"):
        load_trace(bare(tmp_path), num_experts=experts)


def test_a_dense_model_has_no_trace(tmp_path):
    dense = Shape("llama", 32, (), 0, 0)
    with pytest.raises(TraceError, match="llama has no experts"):
        load_trace(bare(tmp_path), shape=dense)


def test_rows_for_all_decoder_layers_are_cut_to_the_moe_layers():
    found = Found(rows=3, max_id=7, top_k=2, blank=frozenset({0}))
    decided = fit(found, Hints.of(TINY), "x")
    assert (decided.rows, decided.layer_ids) == ((1, 2), (1, 2))
    with pytest.raises(TraceError, match=r"tiny has no experts in layers \[0\], but the trace has routing"):
        fit(Found(rows=3, max_id=7, top_k=2), Hints.of(TINY), "x")


def test_layers_that_are_named_must_be_moe_layers():
    found = Found(rows=2, max_id=7, top_k=2, layer_ids=(0, 1))
    with pytest.raises(TraceError, match="trace has MoE layers 0, which tiny does not have"):
        fit(found, Hints.of(TINY), "x")
    some = fit(Found(rows=1, max_id=7, top_k=2, layer_ids=(2,)), Hints.of(TINY), "x")
    assert some.layer_ids == (2,)
