"""Configs of every spelling."""

from __future__ import annotations

import json
import time

import pytest
from model_configs import BASE, OWN, without

from moesim.model import (
    Compressed,
    Dense,
    GroupedQuery,
    Latent,
    LinearAttention,
    StateSpace,
    from_config,
    load_model,
    params,
)
from moesim.model.aliases import ALIASES
from moesim.model.load import CATALOGUE

# Which layers are mixtures


@pytest.mark.parametrize(
    ("scheme", "sparse"),
    [
        ({"first_k_dense_replace": 3}, [3, 4, 5, 6, 7]),
        ({"first_k_dense_replace": 3, "moe_layer_freq": 2}, [4, 6]),
        ({"num_dense_layers": 6}, [6, 7]),
        ({"decoder_sparse_step": 1, "mlp_only_layers": [0, 5]}, [1, 2, 3, 4, 6, 7]),
        ({"decoder_sparse_step": 2}, [1, 3, 5, 7]),
        ({"interleave_moe_layer_step": 4}, [3, 7]),
        ({"moe_layers": [2, 3]}, [2, 3]),
        ({"moe_layers_enum": "2,3, 7"}, [2, 3, 7]),
        ({"expert_layer_period": 2, "expert_layer_offset": 1}, [1, 3, 5, 7]),
        ({"moe_layer_start_index": 2, "moe_layer_end_index": 6, "moe_layer_interval": 1}, [2, 3, 4, 5, 6]),
        ({"moe_layer_start_index": 6, "moe_layer_end_index": -1}, [6, 7]),
        ({"mlp_layer_types": ["dense"] * 3 + ["sparse"] * 5}, [3, 4, 5, 6, 7]),
        ({"moe_layer_freq": [0, 1, 1, 0, 0, 0, 0, 1]}, [1, 2, 7]),
        ({"moe_layer_num_skipped": 1}, [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_schemes_of_sparse_layers(scheme, sparse):
    model = from_config(OWN | scheme)
    assert list(model.moe_layer_ids) == sparse
    assert not model.warnings
    dense = [layer.ffn for layer in model.layers if isinstance(layer.ffn, Dense)]
    assert all(ffn.intermediate == 96 for ffn in dense)


def test_no_scheme_at_all_is_said():
    model = from_config(OWN)
    assert len(model.moe_layer_ids) == 8
    assert "which layers are sparse" in model.warnings[0]


@pytest.mark.parametrize(
    "concept", ["experts", "top_k", "expert_intermediate", "kv_heads", "hidden", "vocab"]
)
def test_every_name_of_a_concept_is_the_same(concept):
    used = {
        "experts": "num_local_experts",
        "top_k": "num_experts_per_tok",
        "expert_intermediate": "moe_intermediate_size",
        "kv_heads": "num_key_value_heads",
        "hidden": "hidden_size",
        "vocab": "vocab_size",
    }[concept]
    expected = params(from_config(OWN))
    for name in ALIASES[concept][1]:
        renamed = {(name if k == used else k): v for k, v in OWN.items()}
        assert params(from_config(renamed)) == expected


def test_names_that_disagree_are_said():
    model = from_config(BASE | {"num_experts": 12})
    assert model.num_experts == 6
    assert any("disagree" in warning for warning in model.warnings)


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        ({"n_shared_experts": 2}, 64),
        ({"num_shared_experts": 1}, 32),
        ({"moe_num_shared_experts": 3}, 96),
        ({"num_shared_expert": [1] * 8}, 32),
        ({"shared_expert_intermediate_size": 50}, 50),
        ({"share_expert_dim": 40, "n_shared_experts": 1}, 40),
        ({"shared_intermediate_size": 0}, 0),
        ({}, 0),
    ],
)
def test_shared_experts(fields, width):
    assert from_config(OWN | fields).layers[0].ffn.shared_intermediate == width


def test_lists_per_layer():
    lists = {
        "model_type": "hunyuan_v1_moe",
        "moe_topk": [1, 2, 3, 1, 2, 3, 1, 2],
        "moe_intermediate_size": [32, 64] * 4,
        "num_shared_expert": [1, 0] * 4,
        "moe_layer_num_skipped": 0,
    }
    model = from_config(without(BASE, "num_experts_per_tok", **lists))
    assert [layer.ffn.top_k for layer in model.layers] == lists["moe_topk"]
    assert [layer.ffn.intermediate for layer in model.layers] == lists["moe_intermediate_size"]
    assert [layer.ffn.shared_intermediate for layer in model.layers] == [32, 0] * 4


def test_nested_sections_come_first():
    inner = without(BASE, "model_type")
    for section in ("text_config", "language_config", "llm_config"):
        model = from_config({"model_type": "mixtral", "vocab_size": 7, section: inner})
        assert params(model) == params(from_config(BASE))
    dbrx = load_model("dbrx")
    assert dbrx.layers[0].attention == GroupedQuery(48, 8, 128, 128)
    assert (dbrx.num_experts, dbrx.top_k, dbrx.layers[0].ffn.intermediate) == (16, 4, 10752)


# Attention


def kinds(name):
    return [type(layer.attention) for layer in load_model(name).layers]


def test_hybrid_models_place_their_layers():
    assert kinds("qwen3-next-80b-a3b")[:4] == [LinearAttention] * 3 + [GroupedQuery]
    assert kinds("jamba-v0.1")[:8] == [StateSpace] * 4 + [GroupedQuery] + [StateSpace] * 3
    assert kinds("minimax-m1")[:8] == [LinearAttention] * 7 + [GroupedQuery]
    assert set(kinds("deepseek-v3.2")) == {Latent}
    assert set(kinds("deepseek-v4-pro")) == {Compressed}


def test_windows_of_known_models():
    def windows(name):
        return [layer.attention.window for layer in load_model(name).layers]

    assert windows("gpt-oss-20b") == [128, None] * 12
    assert windows("llama-4-scout") == [8192, 8192, 8192, None] * 12
    assert windows("mistral-7b") == [4096] * 32
    # As long as the context: no window.
    assert windows("phi-3.5-moe") == [None] * 32
    assert windows("step-3.7-flash")[:5] == [None, 512, 512, 512, None]
    assert windows("mimo-7b") == [None] * 36


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sliding_window": 16}, [16] * 8),
        ({"sliding_window": None}, [None] * 8),
        ({"sliding_window": 16, "use_sliding_window": False}, [None] * 8),
        (
            {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 6},
            [None] * 6 + [16] * 2,
        ),
        ({"sliding_window": 16, "sliding_window_pattern": 4}, [16, 16, 16, None] * 2),
        (
            {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"] * 4},
            [None, 16] * 4,
        ),
        (
            {"attention_chunk_size": 9, "layer_types": ["full_attention", "chunked_attention"] * 4},
            [None, 9] * 4,
        ),
        ({"sliding_window": 16, "max_position_embeddings": 16}, [None] * 8),
    ],
)
def test_windows_from_fields(fields, expected):
    assert [layer.attention.window for layer in from_config(BASE | fields).layers] == expected


def test_shared_indexers():
    by_list = load_model("glm-5.2")
    shared = [layer.attention.indexer.shared for layer in by_list.layers]
    assert shared[:8] == [False, False, False, True, True, True, False, True]
    text = json.loads((CATALOGUE / "glm-5.2.json").read_text())
    by_frequency = from_config(without(text, "indexer_types"))
    assert [layer.attention.indexer.shared for layer in by_frequency.layers] == shared
    assert not by_list.mtp_layers[0].attention.indexer.shared


def test_compressed_layers_of_deepseek_v4():
    model = load_model("deepseek-v4-flash")
    ratios = [layer.attention.ratio for layer in model.layers]
    assert ratios[:4] == [0, 0, 4, 128]
    assert all(
        (layer.attention.indexer is not None) == (layer.attention.ratio == 4) for layer in model.layers
    )
    assert [layer.ffn.hash_routed for layer in model.layers] == [True] * 3 + [False] * 40
    assert model.mtp_layers[0].attention.ratio == 0
    assert not model.mtp_layers[0].ffn.hash_routed


def test_group_limited_routing_and_prediction_layers():
    v3 = load_model("deepseek-v3").layers[5].ffn
    assert (v3.groups, v3.top_groups, v3.router_bias) == (8, 4, True)
    assert len(load_model("minimax-m2").mtp_layers) == 3
    assert len(load_model("kimi-k2").mtp_layers) == 0
    assert isinstance(load_model("qwen3.5-397b-a17b").mtp_layers[0].attention, GroupedQuery)


# Data types


def test_types_of_checkpoints():
    assert dict(load_model("gpt-oss-120b").weight_dtypes) == {"default": "bf16", "expert": "mxfp4"}
    assert dict(load_model("kimi-k2.5").weight_dtypes) == {"default": "bf16", "expert": "int4"}
    v4 = load_model("deepseek-v4-pro")
    assert (v4.dtype_of("expert"), v4.dtype_of("attention"), v4.dtype_of("router")) == (
        "mxfp4",
        "fp8",
        "bf16",
    )
    assert load_model("nllb-moe-54b").dtype_of("expert") == "fp32"


@pytest.mark.parametrize(
    ("section", "expert", "attention"),
    [
        ({"quant_method": "fp8"}, "fp8", "fp8"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["self_attn"]}, "fp8", "bf16"),
        ({"quant_method": "fp8", "ignored_layers": ["model.layers.*.self_attn"]}, "fp8", "bf16"),
        ({"quant_method": "gptq", "bits": 8}, "int8", "int8"),
        ({"quant_method": "awq", "bits": 4}, "int4", "int4"),
        ({"quant_algo": "NVFP4", "exclude_modules": ["re:.*self_attn.*"]}, "nvfp4", "bf16"),
        ({"config_groups": {"g": {"weights": {"num_bits": 4, "type": "float"}}}}, "nvfp4", "nvfp4"),
        ({"config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}}, "int8", "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", "int4"),
    ],
)
def test_quantisation_sections(section, expert, attention):
    model = from_config(BASE | {"quantization_config": section})
    assert (model.dtype_of("expert"), model.dtype_of("attention")) == (expert, attention)
    assert model.dtype_of("head") == model.dtype_of("router") == "bf16"


def test_what_cannot_be_understood_is_a_warning():
    odd = from_config(BASE | {"quantization_config": {"quant_method": "magic"}, "torch_dtype": "float12"})
    assert any("magic" in w for w in odd.warnings)
    assert any("float12" in w for w in odd.warnings)
    started = time.perf_counter()
    slow = ["re:(.*)*x", "re:" + ".*" * 30 + "x", "re:(", "re:[[a"]
    quant = {"quant_method": "fp8", "modules_to_not_convert": slow}
    assert any("pattern" in w for w in from_config(BASE | {"quantization_config": quant}).warnings)
    assert time.perf_counter() - started < 1.0
