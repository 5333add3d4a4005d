"""What a family's code does that its config does not say.

A trait is here only if no field of the config carries it. A family that is missing still loads, by its fields
alone, with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Family:
    """Traits of the models that share a ``model_type``.

    Parameters
    ----------
    expert_width
        Whether the expert size has a field of its own (``own``) or is the feed-forward size (``plain``);
        ``either`` for families that are not known.
    qkv_bias, output_bias
        Attention biases: ``yes``, ``no``, or ``config`` to follow ``attention_bias``.
    qk_norm
        Norms of queries and keys: ``head`` (one vector per head size), ``full`` (over all heads), ``none``,
        or ``config`` to follow ``use_qk_norm``.
    sinks
        One learned attention sink per head.
    gated
        Whether full attention has an output gate.
    windows
        How windowed layers follow where no list says so: ``all``, ``alternate`` or ``llama4``.
    shared_expert
        A shared expert as wide as a routed one, without a field.
    shared_gate
        Whether a gate scales the shared expert.
    router_bias
        Whether the router has a bias, or a correction bias for balancing.
    expert_bias
        Whether expert matrices have biases.
    matrices
        Matrices per feed-forward block: 3 with a gate, 2 without.
    extra_norms
        Norms per layer beyond the usual two.
    norm_bias
        Whether norms have biases.
    seq2seq
        Whether it is an encoder-decoder.
    tied
        Whether embeddings are tied when the config does not say.
    top_k
        Experts per token when the config does not say.
    moe
        Whether every model of the family is a mixture, so that a config without experts lacks them.
    latent
        Whether every model of the family has latent attention.
    """

    expert_width: str = "own"
    qkv_bias: str = "config"
    output_bias: str = "no"
    qk_norm: str = "none"
    sinks: bool = False
    gated: bool = False
    windows: str = "all"
    shared_expert: bool = False
    shared_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    matrices: int = 3
    extra_norms: int = 0
    norm_bias: bool = False
    seq2seq: bool = False
    tied: bool = False
    top_k: int = 0
    moe: bool = False
    latent: bool = False


_LLAMA = Family(expert_width="either", output_bias="config")
_QWEN2 = Family(qkv_bias="yes", shared_gate=True)
_QWEN3 = Family(qk_norm="head")
_QWEN3_NEXT = Family(qk_norm="head", gated=True, shared_gate=True)
_DEEPSEEK_V3 = Family(router_bias=True, moe=True, latent=True)
_DEEPSEEK_V4 = Family(router_bias=True, moe=True)
_PLAIN = Family(expert_width="plain", moe=True)
_LLAMA4 = Family(expert_width="plain", windows="llama4", shared_expert=True, moe=True)
_MINIMAX = Family(expert_width="plain", qk_norm="config", moe=True)
_STEP3 = Family(router_bias=True, moe=True)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mimo": Family(qkv_bias="config"),
    "qwen2": _QWEN2,
    "qwen2_moe": replace(_QWEN2, moe=True),
    "qwen3": _QWEN3,
    "qwen3_moe": replace(_QWEN3, moe=True),
    "qwen3_vl_text": _QWEN3,
    "qwen3_vl_moe_text": replace(_QWEN3, moe=True),
    "qwen3_next": replace(_QWEN3_NEXT, moe=True),
    "qwen3_5_text": _QWEN3_NEXT,
    "qwen3_5_moe_text": replace(_QWEN3_NEXT, moe=True),
    "mixtral": _PLAIN,
    "olmoe": replace(_PLAIN, qk_norm="full"),
    "phimoe": replace(_PLAIN, output_bias="config", norm_bias=True),
    "dbrx": _PLAIN,
    "grok-1": replace(_PLAIN, extra_norms=2, tied=True),
    "jamba": Family(expert_width="plain"),
    "gpt_oss": replace(
        _PLAIN,
        output_bias="config",
        sinks=True,
        windows="alternate",
        router_bias=True,
        expert_bias=True,
    ),
    "llama4": _LLAMA4,
    "llama4_text": _LLAMA4,
    "minimax_m1": _MINIMAX,
    "minimax_text_01": _MINIMAX,
    "minimax_m2": replace(_MINIMAX, router_bias=True),
    "deepseek": Family(moe=True),
    "deepseek_v2": Family(moe=True, latent=True),
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": _DEEPSEEK_V3,
    "deepseek_v4": _DEEPSEEK_V4,
    "deepseek_ref": _DEEPSEEK_V4,
    "kimi_k2": _DEEPSEEK_V3,
    "glm_moe_dsa": _DEEPSEEK_V3,
    "glm4_moe": Family(qk_norm="config", router_bias=True, moe=True),
    "pangu_ultra_moe": replace(_DEEPSEEK_V3, extra_norms=2),
    "ernie4_5_moe": Family(router_bias=True, tied=True, moe=True),
    "hunyuan": Family(qk_norm="config", moe=True),
    "hunyuan_v1_moe": Family(qk_norm="config", moe=True),
    "flame_moe": Family(moe=True),
    "step3_text": Family(moe=True),
    "step3p5": _STEP3,
    "step3p7": _STEP3,
    "switch_transformers": Family(matrices=2, tied=True, top_k=1, seq2seq=True),
    "nllb-moe": Family(
        qkv_bias="yes",
        output_bias="yes",
        expert_bias=True,
        norm_bias=True,
        matrices=2,
        tied=True,
        top_k=2,
        seq2seq=True,
    ),
}

#: What an unknown ``model_type`` is read as.
UNKNOWN = Family(expert_width="either", output_bias="config", qk_norm="config")
