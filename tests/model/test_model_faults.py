"""Wrong configs and files: everything at once, and never anything but a ConfigError."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_configs import BASE, faults, without

from moesim.errors import ConfigError
from moesim.model import (
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
