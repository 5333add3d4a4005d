"""Layers in a few words, for tables and messages."""

from __future__ import annotations

from moesim.model.types import (
    Attention,
    Compressed,
    Dense,
    GroupedQuery,
    Indexer,
    Latent,
    Layer,
    LinearAttention,
    MoE,
    StateSpace,
)


def describe_layer(layer: Layer) -> str:
    """Attention and feed-forward of a layer in a line.

    Examples
    --------
    >>> describe_layer(Layer(GroupedQuery(32, 4, 128, 128), MoE(128, 8, 768)))
    'GQA 32/4 heads of 128; 128 experts of 768, top 8'
    """
    cross = "; cross-attention" if layer.cross else ""
    return f"{describe_attention(layer.attention)}{cross}; {describe_ffn(layer.ffn)}"


def describe_attention(attention: Attention) -> str:
    """Kind and sizes of attention."""
    match attention:
        case GroupedQuery() as a:
            kind = "MHA" if a.heads == a.kv_heads else "MQA" if a.kv_heads == 1 else "GQA"
            heads = str(a.heads) if kind == "MHA" else f"{a.heads}/{a.kv_heads}"
            window = f", window {a.window}" if a.window else ""
            return f"{kind} {heads} heads of {a.qk_dim}{', gated' if a.gated else ''}{window}"
        case Latent() as a:
            return f"MLA {a.heads} heads, latent {a.kv_rank}+{a.rope_dim}{_index(a.indexer)}"
        case Compressed() as a:
            history = f", history 1/{a.ratio}" if a.ratio else ""
            return f"MQA {a.heads}/1 heads of {a.head_dim}, window {a.window}{history}{_index(a.indexer)}"
        case LinearAttention() as a:
            kind = a.kind.replace("_", " ")
            return f"linear ({kind}) {a.value_heads} heads, state {a.key_dim}x{a.value_dim}"
        case StateSpace() as a:
            return f"Mamba {a.inner} channels, state {a.state_dim}"


def describe_ffn(ffn: Dense | MoE) -> str:
    """Kind and sizes of a feed-forward block."""
    if isinstance(ffn, Dense):
        return f"dense {ffn.intermediate}"
    shared = f" + shared {ffn.shared_intermediate}" if ffn.shared_intermediate else ""
    groups = f", {ffn.top_groups} of {ffn.groups} groups" if ffn.groups > 1 else ""
    hashed = ", by hash" if ffn.hash_routed else ""
    return f"{ffn.num_experts} experts of {ffn.intermediate}{shared}, top {ffn.top_k}{groups}{hashed}"


def _index(indexer: Indexer | None) -> str:
    if indexer is None:
        return ""
    return f", top {indexer.top_k} {'shared' if indexer.shared else 'by indexer'}"
