"""A small config, and what is wrong with another."""

from __future__ import annotations

import pytest

from moesim.errors import ConfigError
from moesim.model import from_config

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
