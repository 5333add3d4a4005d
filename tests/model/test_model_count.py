"""Counts: tiny models by hand, published checkpoints exactly, and laws that hold for any model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.model import (
    bytes_per_param,
    cache_bytes,
    cache_shape,
    flops_per_token,
    from_config,
    kv_bytes_per_token,
    layer_matrices,
    load_model,
    module_dtypes,
    names,
    params,
    weight_bytes,
    weight_bytes_by_module,
)

#: Parameters in the published checkpoints, prediction layers left out.
CHECKPOINTS = {
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "mixtral-8x7b": 46_702_792_704,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-vl-2b": 2_127_532_032,
    "olmoe-1b-7b": 6_919_161_856,
    "deepseek-v2-lite": 15_706_484_224,
    "phi-3.5-moe": 41_873_153_344,
    "llama-4-scout": 108_641_793_536,
    "llama-4-maverick": 401_583_781_376,
    "jamba-v0.1": 51_570_323_328,
}


def mixtral(**changes):
    config = {
        "model_type": "mixtral",
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "vocab_size": 500,
    }
    return from_config(config | changes, name="tiny")


@pytest.mark.parametrize(("name", "parameters"), CHECKPOINTS.items())
def test_published_checkpoints_to_the_last_parameter(name, parameters):
    assert params(load_model(name)).total == parameters


def test_tiny_mixture_by_hand():
    count = params(mixtral())
    attention = 3 * (64 * 64 + 2 * 64 * 32 + 64 * 64)
    expert = 3 * 64 * 96
    assert count.embedding == count.head == 500 * 64
    assert count.attention == attention
    assert count.experts == 3 * 6 * expert
    assert count.router == 3 * 64 * 6
    assert count.other == (3 * 2 + 1) * 64
    assert count.total == 2 * 500 * 64 + attention + 3 * 6 * expert + 3 * 64 * 6 + 7 * 64
    assert count.total - count.active == 3 * 4 * expert
    assert count.active_without_embedding == count.active - 500 * 64
    assert count.active_without_vocabulary == count.active - 2 * 500 * 64
    assert sum(count.components().values()) == count.total


def test_tied_embedding_is_counted_once_and_stays_active():
    free, tied = params(mixtral()), params(mixtral(tie_word_embeddings=True))
    assert free.total - tied.total == 500 * 64
    assert tied.head == 0
    assert tied.active_without_embedding == tied.active
    assert tied.active_without_vocabulary == free.active_without_vocabulary


def test_tiny_latent_attention_by_hand():
    model = from_config(
        {
            "model_type": "deepseek_v2",
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "q_lora_rank": None,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "intermediate_size": 100,
            "moe_intermediate_size": 20,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "vocab_size": 10,
        }
    )
    count = params(model)
    per_layer = 64 * 4 * 12 + 64 * 20 + 16 * 4 * 16 + 4 * 8 * 64
    assert count.attention == 2 * per_layer
    assert count.dense == 3 * 64 * 100
    assert count.shared == 3 * 64 * 40
    assert count.experts == 8 * 3 * 64 * 20
    assert kv_bytes_per_token(model) == 2 * 20 * 2
    assert kv_bytes_per_token(model, "fp8") == 2 * 20


def test_prediction_layers_are_apart():
    plain, with_heads = mixtral(), mixtral(num_nextn_predict_layers=2)
    assert params(with_heads).total == params(plain).total
    layer = (params(mixtral(num_hidden_layers=4)).total - params(plain).total) + 2 * 64 * 64 + 3 * 64
    assert params(with_heads).mtp == 2 * layer
    assert weight_bytes(with_heads) == weight_bytes(plain)
    assert weight_bytes(with_heads, mtp=True) == weight_bytes(plain) + 2 * 2 * layer


def test_gpt_oss_biases_and_sinks():
    """20B: biases of q, k, v, o, router and experts, 64 sinks per layer; its card counts 3.61 B active."""
    count = params(load_model("gpt-oss-20b"))
    assert count.active_without_embedding == pytest.approx(3.61e9, rel=2e-3)
    per_layer = 2 * 2880 + (64 * 64 + 2 * 8 * 64) + 2880 + 64 + 32
    assert count.other == 24 * per_layer + 2880
    biases = 24 * 32 * (2 * 2880 + 2880)
    assert count.experts == 24 * 32 * 3 * 2880 * 2880 + biases


def test_deepseek_v3_prediction_layer_is_a_whole_layer():
    """Its report: 14 B with the shared embedding and head, 11.6 B without."""
    count = params(load_model("deepseek-v3"))
    assert count.mtp + count.embedding + count.head == pytest.approx(13.5e9, rel=0.01)


@pytest.mark.parametrize("name", names())
def test_every_catalogue_model_is_consistent(name):
    model = load_model(name)
    count = params(model)
    assert not model.warnings
    assert sum(count.components().values()) == count.total
    assert 0 < count.active_without_vocabulary < count.active_without_embedding <= count.active <= count.total
    assert weight_bytes(model, "bf16") == 2 * count.total
    assert weight_bytes(model, "fp32") == 4 * count.total
    assert weight_bytes(model, "fp16") > weight_bytes(model, "fp8") > weight_bytes(model, "int4") > 0
    modules = weight_bytes_by_module(model)
    assert sum(modules.values()) == weight_bytes(model)
    assert set(modules) <= set(module_dtypes(model))
    contexts = np.array([1, 100, 5_000, 300_000])
    kept = cache_bytes(model, contexts)
    assert kept.shape == contexts.shape
    assert np.all(np.diff(kept) >= 0)
    assert np.all(cache_bytes(model, contexts, "fp8") <= kept)
    work = flops_per_token(model, contexts)
    assert np.all(np.diff(work) >= 0)
    if not model.encoder_layers:
        # At one token of context work is the matrices, but for vectors and a recurrent state.
        assert work[0] == pytest.approx(2 * count.active_without_embedding, rel=0.03)


def test_checkpoint_bytes_of_published_quantised_models():
    """Sizes of the weight files, in GB: gpt-oss; Kimi-K2.5; DeepSeek-V3, whose prediction layer repeats
    embedding and head."""
    assert weight_bytes(load_model("gpt-oss-20b")) / 1e9 == pytest.approx(13.8, rel=0.01)
    assert weight_bytes(load_model("gpt-oss-120b")) / 1e9 == pytest.approx(65.3, rel=0.01)
    assert weight_bytes(load_model("kimi-k2.5")) / 1e9 == pytest.approx(595, rel=0.01)
    v3 = load_model("deepseek-v3")
    copies = 2 * (params(v3).embedding + params(v3).head)
    assert (weight_bytes(v3, mtp=True) + copies) / 1e9 == pytest.approx(688.6, rel=0.005)


@given(
    layers=st.integers(1, 6),
    more_layers=st.integers(1, 6),
    experts=st.integers(4, 40),
    more_experts=st.integers(1, 40),
)
@settings(max_examples=40, deadline=None)
def test_totals_are_linear_in_layers_and_experts(layers, more_layers, experts, more_experts):
    def total(n, e):
        return params(mixtral(num_hidden_layers=n, num_local_experts=e)).total

    per_layer = total(layers + 1, experts) - total(layers, experts)
    assert total(layers + more_layers, experts) == total(layers, experts) + more_layers * per_layer
    per_expert = layers * (3 * 64 * 96 + 64)
    assert total(layers, experts + more_experts) == total(layers, experts) + more_experts * per_expert


@given(experts=st.integers(2, 64), top_k=st.integers(1, 64), shared=st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_active_never_exceeds_total(experts, top_k, shared):
    top_k = min(top_k, experts)
    model = mixtral(num_local_experts=experts, num_experts_per_tok=top_k, shared_intermediate_size=shared)
    count = params(model)
    assert count.active <= count.total
    assert (count.active == count.total) == (top_k == experts)


@given(window=st.integers(1, 10_000), context=st.integers(1, 20_000))
@settings(max_examples=60, deadline=None)
def test_a_window_never_increases_cache_or_work(window, context):
    full, windowed = mixtral(), mixtral(sliding_window=window)
    assert cache_bytes(windowed, context) <= cache_bytes(full, context)
    assert flops_per_token(windowed, context) <= flops_per_token(full, context)
    if context <= window:
        assert cache_bytes(windowed, context) == cache_bytes(full, context)
    assert kv_bytes_per_token(windowed) == 0 < kv_bytes_per_token(full)


def test_cache_growth_is_the_slope_of_the_cache():
    for name in ("deepseek-v3.2", "gpt-oss-20b", "qwen3-next-80b-a3b", "jamba-v0.1", "deepseek-v4-pro"):
        model = load_model(name)
        # Over a multiple of every window and compression ratio.
        slope = (cache_bytes(model, 2**20) - cache_bytes(model, 2**19)) / 2**19
        assert kv_bytes_per_token(model) == pytest.approx(float(slope), rel=1e-12)


def test_states_do_not_grow():
    shape = cache_shape(load_model("qwen3-next-80b-a3b").layers[0].attention)
    # 32 heads of 128 x 128 in fp32, and three columns of a convolution over 8192 channels in bf16.
    assert shape.constant_bytes == 32 * 128 * 128 * 4 + 3 * 8192 * 2
    assert shape.per_token_elements == 0


def test_compressed_history_by_hand():
    """DeepSeek-V4-Flash, a layer of ratio 4 at 1000 tokens: window, history, index keys, compressor state."""
    shape = cache_shape(load_model("deepseek-v4-flash").layers[2].attention)
    state = 2 * (2 * 4) * 2 * (512 + 128) * 4
    expected = 128 * 512 * 2 + 250 * 512 * 2 + 250 * (128 + 4) + state
    assert shape.bytes(1000, 2.0) == expected


def test_dense_decode_is_two_flops_per_parameter_plus_attention():
    model = load_model("llama-2-7b")
    matrices = sum(m.params for layer in model.layers for m in layer_matrices(layer, model.hidden))
    head = model.hidden * model.vocab
    attention = 32 * 4 * 4096 * np.array([1, 2048])
    expected = 2 * (matrices + head) + attention
    assert flops_per_token(model, [1, 2048]).tolist() == expected.tolist()
    prefill = flops_per_token(model, [1, 2048], "prefill")
    assert prefill.tolist() == (expected - 2 * head).tolist()


def test_absorbed_latent_attention_costs_more_per_token_and_reads_less():
    model = load_model("deepseek-v3")
    one, two = (flops_per_token(model, 1000, phase) for phase in ("decode", "prefill"))
    absorbed = 61 * 128 * 2 * (2 * 512 + 64)
    expanded = 61 * 128 * 2 * (128 + 64 + 128)
    head = 2 * model.hidden * model.vocab
    assert float(one - two) == 1000 * (absorbed - expanded) + head


def test_an_indexer_bounds_attention_but_scans_the_context():
    model = load_model("deepseek-v3.2")
    step = float(flops_per_token(model, 100_001) - flops_per_token(model, 100_000))
    assert step == 61 * 2 * 64 * 128


def test_encoder_decoder_phases_run_their_own_stacks():
    model = load_model("switch-base-128")
    decode, prefill = flops_per_token(model, 10, "decode"), flops_per_token(model, 10, "prefill")
    head = 2 * model.hidden * model.vocab
    cross = 12 * 2 * 2 * 768 * 768
    assert float(decode - prefill) == head + cross


def test_explicit_types_go_where_engines_put_them():
    mixture, dense = load_model("deepseek-v3"), load_model("llama-3.1-8b")
    for dtype in ("fp8", "int8", "int4"):
        types = module_dtypes(mixture, dtype)
        assert {m for m, t in types.items() if t == dtype} == {
            "attention",
            "indexer",
            "dense",
            "shared",
            "expert",
        }
    assert module_dtypes(mixture, "nvfp4")["attention"] == "bf16"
    assert module_dtypes(mixture, "nvfp4")["expert"] == "nvfp4"
    assert module_dtypes(dense, "nvfp4")["attention"] == "nvfp4"
    assert set(module_dtypes(mixture, "bf16").values()) == {"bf16"}


def test_bytes_per_param_include_scales():
    assert bytes_per_param("fp8") == 1 + 4 / 16384
    assert bytes_per_param("mxfp4") == 17 / 32
    assert bytes_per_param("nvfp4") == 9 / 16
    assert bytes_per_param("int4") == 18 / 32


@pytest.mark.parametrize("dtype", ["auto", "fp6", "", None, 8])
def test_unknown_types_are_refused(dtype):
    with pytest.raises(ConfigError, match="data type"):
        bytes_per_param(dtype)


def test_unknown_phase_and_cache_type():
    model = load_model("llama-2-7b")
    with pytest.raises(ConfigError, match="prefill, decode"):
        flops_per_token(model, 1, "train")
    with pytest.raises(ConfigError, match="fp8, fp32"):
        cache_bytes(model, 1, "int4")
