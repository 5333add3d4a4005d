"""Configs of every spelling, and wrong ones."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.model import (
    Compressed,
    Dense,
    GroupedQuery,
    Latent,
    LinearAttention,
    StateSpace,
    cache_bytes,
    flops_per_token,
    from_config,
    load_model,
    names,
    params,
    weight_bytes,
)
from moesim.model.aliases import ALIASES
from moesim.model.load import CATALOGUE, MAX_CONFIG_BYTES

BASE = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "vocab_size": 500,
}
OWN = BASE | {"model_type": "qwen3_moe", "moe_intermediate_size": 32, "intermediate_size": 96}


def without(config, *keys, **changes):
    return {k: v for k, v in config.items() if k not in keys} | changes


def faults(config):
    with pytest.raises(ConfigError) as caught:
        from_config(config, name="broken")
    return [str(fault) for fault in caught.value.faults]


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


# Wrong configs


def test_everything_missing_is_named_at_once():
    text = "\n".join(faults({}))
    for concept in ("hidden", "vocab", "layers", "heads", "intermediate"):
        assert all(name in text for name in ALIASES[concept][1])
    assert "fields seen: none" in text


@pytest.mark.parametrize(
    ("key", "concept"),
    [
        ("n_routed_experts", "experts"),
        ("num_experts_per_tok", "top_k"),
        ("moe_intermediate_size", "expert_intermediate"),
        ("kv_lora_rank", "kv_rank"),
        ("qk_nope_head_dim", "nope_dim"),
        ("qk_rope_head_dim", "rope_dim"),
        ("v_head_dim", "v_dim"),
        ("intermediate_size", "intermediate"),
        ("num_hidden_layers", "layers"),
    ],
)
def test_deepseek_v3_without_one_field(key, concept):
    config = json.loads((CATALOGUE / "deepseek-v3.json").read_text())
    found = faults(without(config, key))
    assert len(found) == 2
    assert found[0].startswith(f"missing {ALIASES[concept][0]}")
    assert "hidden_size" in found[1]


def test_a_family_tells_what_its_config_must_have():
    text = "\n".join(faults({"model_type": "deepseek_v3"}))
    for name in ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "kv_lora_rank"):
        assert name in text
    assert "kv_lora_rank" not in "\n".join(faults({"model_type": "mixtral"}))


def test_missing_and_wrong_values_together():
    found = faults(without(BASE, "vocab_size", hidden_size="64", num_experts_per_tok=0))
    assert len(found) == 4
    assert found[0].startswith("hidden_size: is no whole number")
    assert found[1].startswith("num_experts_per_tok: is out of range")


@pytest.mark.parametrize("value", [-1, 0, "8", 1.5, True, [8], {}, 2**40, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_local_experts", "num_attention_heads"]
)
def test_wrong_values_are_refused(key, value):
    found = faults(BASE | {key: value})
    assert any(key in fault for fault in found)


def test_values_that_do_not_go_together():
    assert "more than the experts" in faults(BASE | {"num_experts_per_tok": 7})[0]
    assert "divisor of 4" in faults(BASE | {"num_key_value_heads": 3})[0]
    assert "hidden size" in faults(BASE | {"num_attention_heads": 6})[0]
    assert "does not divide the experts" in faults(BASE | {"n_group": 4, "topk_group": 2})[0]
    assert "more than the groups" in faults(BASE | {"n_group": 2, "topk_group": 3})[0]
    assert "shorter" in faults(BASE | {"layer_types": ["full_attention"] * 3})[0]
    assert "unknown entry" in faults(BASE | {"layer_types": ["fool_attention"] * 8})[0]
    assert "no layer" in faults(BASE | {"moe_layers": [1, 8]})[0]
    assert "missing sliding window" in faults(BASE | {"layer_types": ["sliding_attention"] * 8})[0]
    assert "at most 4096" in faults(BASE | {"num_hidden_layers": 10**6})[0]
    assert "missing list of compression ratios" in faults(BASE | {"o_lora_rank": 8})[0]


@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_not_an_object(value):
    with pytest.raises(ConfigError, match="JSON object"):
        from_config(value)


def test_unknown_family_is_read_by_its_fields():
    model = from_config(BASE | {"model_type": "brand_new"})
    assert model.num_experts == 6
    assert len(model.warnings) == 2
    assert params(model) == params(from_config(BASE))


# Files


def test_bad_files(tmp_path):
    def message(text=None, name="config.json"):
        path = tmp_path / name
        if text is not None:
            path.write_bytes(text)
        with pytest.raises(ConfigError) as caught:
            load_model(path)
        return str(caught.value)

    assert "no such file" in message(name="absent.json")
    assert "line 1, column 2" in message(b"{")
    assert "no JSON" in message(b"\xff\xfe\x00")
    assert "no JSON" in message(b"[" * 200_000)
    assert "JSON object" in message(b"[1, 2]")
    assert "too large" in message(b" " * (MAX_CONFIG_BYTES + 1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_model(tmp_path / "empty")


def test_a_folder_and_a_file(tmp_path, monkeypatch):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BASE))
    assert load_model(folder).name == "my-model"
    assert load_model(folder / "config.json") == load_model(str(folder))
    # A path that exists is no Hugging Face id, though spelled like one; a bare name is the catalogue's.
    same = tmp_path / "owner" / "dbrx"
    same.mkdir(parents=True)
    (same / "config.json").write_text(json.dumps(BASE))
    monkeypatch.chdir(tmp_path)
    assert load_model("owner/dbrx").num_experts == 6
    monkeypatch.chdir(tmp_path / "owner")
    assert load_model("dbrx").num_experts == 16
    (tmp_path / "owner--other.json").write_text(json.dumps(BASE))
    assert load_model(tmp_path / "owner--other.json").name == "other"


# Any config


@given(order=st.randoms(use_true_random=False), name=st.sampled_from(names()))
@settings(max_examples=40, deadline=None)
def test_the_order_of_keys_means_nothing(order, name):
    def shuffled(value):
        if not isinstance(value, dict):
            return value
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    config = json.loads((CATALOGUE / f"{name}.json").read_text())
    assert from_config(shuffled(config), name=name) == from_config(config, name=name)


ODD = st.sampled_from(
    [
        None,
        -1,
        0,
        1,
        3,
        2**40,
        "x",
        "8",
        True,
        False,
        [],
        [1],
        [-1],
        ["a"],
        {},
        {"a": 1},
        1.5,
        4096.0,
        [[1]],
        "4,5",
    ]
)


@given(data=st.data(), name=st.sampled_from(names()))
@settings(max_examples=200, deadline=None)
def test_a_mutated_config_loads_or_is_refused(data, name):
    """Whatever is in a field: either a model whose counts make sense, or a ConfigError."""
    config = json.loads((CATALOGUE / f"{name}.json").read_text())
    places = [(config, key) for key in config]
    places += [(v, key) for v in config.values() if isinstance(v, dict) for key in v]
    for section, key in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        section[key] = data.draw(ODD)
    try:
        model = from_config(config, name=name)
    except ConfigError:
        return
    count = params(model)
    assert 0 < count.active <= count.total
    assert weight_bytes(model) > 0
    assert cache_bytes(model, 1000) >= 0
    assert flops_per_token(model, 1000) > 0
