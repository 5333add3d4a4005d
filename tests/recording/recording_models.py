"""Tiny models with random weights, one per family; nothing is downloaded."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "intermediate_size": 48,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_FINE = {"moe_intermediate_size": 16, "num_experts_per_tok": 3}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
#: Experts, top-k, MoE layers, and what the config needs beside SIZES.
FAMILIES: dict[str, tuple[int, int, tuple[int, ...], dict[str, Any]]] = {
    "mixtral": (4, 2, (0, 1, 2), {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": (8, 3, (0, 1, 2), {**_FINE, "num_experts": 8, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": (8, 3, (0, 2), {**_FINE, "num_experts": 8, "norm_topk_prob": True, "mlp_only_layers": [1]}),
    "olmoe": (8, 3, (0, 1, 2), {"num_experts": 8, "num_experts_per_tok": 3}),
    "deepseek_v2": (
        8,
        3,
        (1, 2),
        _FINE
        | _LATENT
        | {
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 1.5,
        },
    ),
    "deepseek_v3": (
        8,
        3,
        (1, 2),
        _FINE
        | _LATENT
        | {
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    ),
    "glm4_moe": (
        8,
        3,
        (1, 2),
        _FINE
        | {
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "head_dim": 8,
        },
    ),
    "gpt_oss": (
        8,
        3,
        (0, 1, 2),
        {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 8, "sliding_window": 32},
    ),
    "granitemoe": (8, 3, (0, 1, 2), {"num_local_experts": 8, "num_experts_per_tok": 3}),
    "minimax_m2": (8, 3, (0, 1, 2), {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 8}),
    "hunyuan_v1_moe": (8, 3, (0, 1, 2), {"num_experts": 8, "moe_topk": 3, "head_dim": 8}),
    "llama4_text": (
        4,
        1,
        (0, 1, 2),
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 48,
            "head_dim": 8,
            "moe_layers": [0, 1, 2],
            "attention_chunk_size": 32,
        },
    ),
}


def build(family: str, torch: Any, transformers: Any) -> Any:
    """A model of a family, its routers made decisive: small random logits would be near ties."""
    torch.set_num_threads(1)  # models this small only wait for each other's threads
    sizes = SIZES | FAMILIES[family][3]
    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if ".gate." in name or ".router." in name or name.endswith(("correction_bias", "expert_bias")):
                torch.nn.init.normal_(tensor, std=0.05 if "bias" in name else 0.5)
            elif tensor.is_floating_point() and "experts" in name:
                torch.nn.init.normal_(tensor, std=0.2)
    return model
