"""What one layer of a streamed model moves and computes, module by module, as MoE-Gen's engine runs it.

The engine calls PyTorch modules one after another, so what is elementwise there crosses the GPU's memory: an
RMS norm casts up and down, grouped heads are repeated before the product, scores are kept in 32 bits for the
softmax, and the latent of multi-head latent attention is projected up for every cached token. Counts of such
passes are read off the released code (EfficientMoE/MoE-Gen, ``Mixtral_Initializer.py`` and
``deepseekv2_initializer.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.errors import ConfigError, Fault
from moesim.model import (
    Dense,
    GroupedQuery,
    Latent,
    Layer,
    Matrix,
    Model,
    MoE,
    bytes_per_param,
    layer_matrices,
    module_dtypes,
    weight_bytes,
)

#: Bytes of an activation, and of a cached key or value.
ELEMENT = 2.0

#: Bytes that cross memory per element: RMS norm in 32 bits (cast, square, mean, scale, cast, weight).
NORM = 36.0
#: Addition of the residual.
RESIDUAL = 6.0
#: Between the two products of an expert: activation, product, and reading it again.
GATED = 10.0
#: Rows taken for an expert, its result zeroed and copied, weighted and added.
ROUTED = 18.0
#: One score of eager attention: product, scale, mask, softmax in 32 bits and the cast back, read.
SCORE = 24.0
#: Rotary embedding of one element: views made contiguous, two products and a sum.
ROTARY = 16.0
#: Expanding one fp8 weight to 16 bits: cast to 32, scales repeated and multiplied, cast
#: (``deepseek_v3_dequantization`` of ``Wrapper.py``).
EXPAND = 27.0


@dataclass(frozen=True, slots=True)
class LayerWork:
    """One layer, per token unless it says otherwise.

    Parameters
    ----------
    dense_bytes
        Weights that every token meets and that are streamed: attention and shared experts, or a dense block.
    expert_bytes, experts, top_k
        Weights of one routed expert, how many there are, and how many a token meets; zero without.
    expand_bytes
        Memory traffic of expanding all its weights to 16 bits, once a step; zero for 16-bit weights.
    cache_bytes
        Cached keys and values of one token.
    qkv_flops, post_flops, shared_flops, expert_flops
        Products before attention, after it, in what is shared, and in one expert for one token.
    qkv_bytes, post_bytes, shared_bytes, pair_bytes
        Activations of the same that cross the GPU's memory.
    context_flops, context_bytes
        Work of one query on one cached token: scores and values, up-projection included.
    prompt_flops, prompt_bytes
        What a token of a prompt needs besides: its own latent projected up, once.
    prefill_flops, prefill_bytes
        Work of one query and one key of a prompt.
    flash
        Whether prompts go through a fused kernel that skips what is masked.
    """

    dense_bytes: float
    expert_bytes: float
    experts: int
    top_k: int
    expand_bytes: float
    cache_bytes: float
    qkv_flops: float
    post_flops: float
    shared_flops: float
    expert_flops: float
    qkv_bytes: float
    post_bytes: float
    shared_bytes: float
    pair_bytes: float
    context_flops: float
    context_bytes: float
    prompt_flops: float
    prompt_bytes: float
    prefill_flops: float
    prefill_bytes: float
    flash: bool

    @property
    def weight_bytes(self) -> float:
        """All that is streamed of the layer."""
        return self.dense_bytes + self.experts * self.expert_bytes


@dataclass(frozen=True, slots=True)
class ModelWork:
    """A model that is streamed layer by layer.

    Parameters
    ----------
    name
        The model's.
    hidden
        Width of the residual stream.
    layers
        Its layers in order.
    weight_bytes
        All weights.
    group
        Query heads that share a cached head; the heads themselves for latents.
    latent
        Whether the cache holds latents, which only the GPU can use.
    """

    name: str
    hidden: int
    layers: tuple[LayerWork, ...]
    weight_bytes: float
    group: int
    latent: bool

    @property
    def streamed_bytes(self) -> float:
        """Weights that cross the link when every expert is used."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def resident_bytes(self) -> float:
        """Weights that always stay: embedding, head, routers, norms."""
        return self.weight_bytes - self.streamed_bytes

    @property
    def cache_bytes(self) -> float:
        """Cached bytes of one token over all layers."""
        return sum(layer.cache_bytes for layer in self.layers)

    @classmethod
    def of(cls, model: Model) -> ModelWork:
        """Work of a model of the catalogue.

        Raises
        ------
        ConfigError
            If its attention is neither grouped nor latent, or if it has no routed experts.

        Examples
        --------
        >>> from moesim.model import load_model
        >>> work = ModelWork.of(load_model("mixtral-8x7b"))
        >>> round(work.streamed_bytes / 1e9, 1), int(work.cache_bytes), work.group
        (92.9, 131072, 4)
        """
        kinds = {type(layer.attention) for layer in model.layers}
        if not kinds <= {GroupedQuery, Latent} or model.moe is None or model.encoder_layers:
            allowed = "decoder with routed experts and grouped or latent attention"
            raise ConfigError(Fault("weights of this model are not streamed", "model", model.name, allowed))
        types = module_dtypes(model)
        first = model.layers[0].attention
        if isinstance(first, GroupedQuery):
            group = max(first.heads // max(first.kv_heads, 1), 1)
        else:
            group = first.heads if isinstance(first, Latent) else 1
        return cls(
            model.name,
            model.hidden,
            tuple(_layer(layer, model.hidden, types) for layer in model.layers),
            weight_bytes(model),
            group,
            isinstance(first, Latent),
        )


def _layer(layer: Layer, hidden: int, types: dict[str, str]) -> LayerWork:
    matrices = layer_matrices(layer, hidden)
    attention = [m for m in matrices if m.module == "attention"]
    out = [m for m in attention if m.name == "o"]
    # Projected for every cached token in decode, so counted there.
    up = [m for m in attention if m.name == "kv_b"]
    before = [m for m in attention if m not in out and m not in up]
    shared = [m for m in matrices if m.module in ("shared", "dense")]
    routed = [m for m in matrices if m.module == "expert"]
    ffn = layer.ffn
    experts, top_k = (ffn.num_experts, ffn.top_k) if isinstance(ffn, MoE) else (0, 0)
    per_expert = sum(m.inputs * m.outputs for m in routed)
    expert_bytes = per_expert * bytes_per_param(types["expert"]) if routed else 0.0
    dense_bytes = sum(m.params * bytes_per_param(types[m.module]) for m in (*attention, *shared))
    packed = sum(
        m.params for m in (*attention, *shared, *routed) if bytes_per_param(types[m.module]) < ELEMENT
    )
    width = ffn.shared_intermediate if isinstance(ffn, MoE) else _dense_width(ffn)
    a = _attention(layer)
    return LayerWork(
        dense_bytes=dense_bytes,
        expert_bytes=expert_bytes,
        experts=experts,
        top_k=top_k,
        expand_bytes=packed * EXPAND,
        cache_bytes=a.cache_bytes,
        qkv_flops=_flops(before),
        post_flops=_flops(out),
        shared_flops=_flops(shared),
        expert_flops=2.0 * per_expert,
        qkv_bytes=hidden * NORM + sum(m.outputs for m in before) * ELEMENT + a.rotary_bytes,
        post_bytes=hidden * (NORM + RESIDUAL) + sum(m.inputs for m in out) * 6.0,
        shared_bytes=hidden * (RESIDUAL + 4.0) + width * (GATED + 6.0),
        pair_bytes=hidden * ROUTED + _expert_width(ffn) * (GATED + 6.0),
        context_flops=a.context_flops,
        context_bytes=a.context_bytes,
        prompt_flops=a.up_flops,
        prompt_bytes=a.up_bytes,
        prefill_flops=a.score_flops,
        prefill_bytes=0.0 if a.flash else a.score_bytes,
        flash=a.flash,
    )


def _flops(matrices: list[Matrix]) -> float:
    return 2.0 * sum(m.inputs * m.outputs for m in matrices)


def _dense_width(ffn: Dense | MoE) -> int:
    return ffn.intermediate if isinstance(ffn, Dense) else 0


def _expert_width(ffn: Dense | MoE) -> int:
    return ffn.intermediate if isinstance(ffn, MoE) else 0


@dataclass(frozen=True, slots=True)
class _Attention:
    """Attention of one layer, per cached token or, `rotary_bytes`, per query."""

    cache_bytes: float
    rotary_bytes: float
    score_flops: float
    score_bytes: float
    spread_bytes: float
    up_flops: float = 0.0
    up_bytes: float = 0.0
    flash: bool = True

    @property
    def context_flops(self) -> float:
        return self.up_flops + self.score_flops

    @property
    def context_bytes(self) -> float:
        return self.up_bytes + self.spread_bytes + self.score_bytes


def _attention(layer: Layer) -> _Attention:
    a = layer.attention
    if isinstance(a, GroupedQuery):
        elements = a.kv_heads * (a.qk_dim + a.v_dim)
        return _Attention(
            cache_bytes=elements * ELEMENT,
            rotary_bytes=(a.heads + a.kv_heads) * a.qk_dim * ROTARY,
            score_flops=2.0 * a.heads * (a.qk_dim + a.v_dim),
            score_bytes=a.heads * SCORE,
            # Cache joined to the new token (read, write), heads repeated (read, write), read by the product.
            spread_bytes=elements * ELEMENT * (3.0 + 2.0 * a.heads / a.kv_heads),
        )
    if not isinstance(a, Latent):
        raise ConfigError(Fault("attention that is not streamed", "model", type(a).__name__))
    key, value, latent = a.nope_dim + a.rope_dim, a.v_dim, a.kv_rank + a.rope_dim
    # Up-projection written; keys assembled (read, write) and read; values made contiguous and read.
    expanded = a.heads * ELEMENT * ((a.nope_dim + value) + (a.nope_dim + key) + key + 3.0 * value)
    return _Attention(
        cache_bytes=latent * ELEMENT,
        rotary_bytes=a.heads * (a.rope_dim * ROTARY + 2.0 * key * ELEMENT),
        score_flops=2.0 * a.heads * (key + value),
        score_bytes=a.heads * SCORE,
        spread_bytes=2.0 * latent * ELEMENT,
        up_flops=2.0 * a.kv_rank * a.heads * (a.nope_dim + value),
        up_bytes=expanded + a.kv_rank * NORM + a.rope_dim * ROTARY,
        flash=False,
    )
