"""Parameters and weight bytes, by component, from the matrices of `moesim.model.matrices`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

from moesim.model.dtypes import bytes_per_param, module_dtypes
from moesim.model.matrices import compressor_overlap, layer_matrices, model_matrices, mtp_matrices
from moesim.model.types import (
    Attention,
    Compressed,
    GroupedQuery,
    Latent,
    Layer,
    LinearAttention,
    Model,
    MoE,
    StateSpace,
)

#: Component of `ParamCount` that a matrix's module is counted in.
_COMPONENT = {"expert": "experts", "connection": "other"}


@dataclass(frozen=True, slots=True)
class ParamCount:
    """Parameters of a model by component.

    `total` is the published size: everything but the prediction heads (`mtp`). `active` is what one token
    uses: `total` without vision and without the experts it is not routed to. Model cards differ on whether
    the embedding table counts as active, so `active_without_embedding` leaves it out; a tied table stays in,
    since it is multiplied as the output head.
    """

    embedding: int
    head: int
    attention: int
    indexer: int
    dense: int
    router: int
    experts: int
    shared: int
    other: int
    vision: int
    mtp: int
    total: int
    active: int
    active_without_embedding: int

    @property
    def active_without_vocabulary(self) -> int:
        """`active` without embedding and head: what a few model cards call active."""
        return self.active - self.embedding - self.head

    def components(self) -> dict[str, int]:
        """The parts that add up to `total`, in order, the empty ones left out."""
        parts = {f.name: int(getattr(self, f.name)) for f in fields(self)[:10]}
        return {name: count for name, count in parts.items() if count}


def params(model: Model) -> ParamCount:
    """Count parameters.

    Parameters
    ----------
    model
        The model.

    Returns
    -------
    ParamCount

    Examples
    --------
    >>> from moesim.model import load_model
    >>> round(params(load_model("mixtral-8x7b")).total / 1e9, 1)
    46.7
    """
    count: Counter[str] = Counter()
    idle = 0
    for matrix in model_matrices(model):
        count[matrix.module] += matrix.params
    for layer, n in Counter((*model.encoder_layers, *model.layers)).items():
        for component, number in _layer_counter(layer, model.hidden).items():
            count[component] += n * number
        idle += n * _idle(layer, model.hidden)
    count["other"] += model.hidden * (2 if model.encoder_layers else 1) + model.extra_params
    parts = {
        name: count[name]
        for name in ("embedding", "head", "attention", "indexer", "dense", "router", "experts", "shared")
    }
    total = sum(parts.values()) + count["other"] + model.vision_params
    active = total - model.vision_params - idle
    lookup = 0 if model.tied_embeddings else parts["embedding"]
    return ParamCount(
        **parts,
        other=count["other"],
        vision=model.vision_params,
        mtp=mtp_params(model),
        total=total,
        active=active,
        active_without_embedding=active - lookup,
    )


def mtp_params(model: Model) -> int:
    """Parameters of the prediction layers and their joining projections; embedding and head are shared."""
    total = 0
    for layer in model.mtp_layers:
        total += sum(_layer_counter(layer, model.hidden).values())
        # Norms of the two halves that are joined, and of the result.
        total += sum(m.params for m in mtp_matrices(model.hidden)) + 3 * model.hidden
    return total


def weight_bytes(model: Model, dtype: str = "auto", *, mtp: bool = False) -> float:
    """Bytes of all weights, scales included.

    Parameters
    ----------
    model
        The model.
    dtype
        ``auto`` for the checkpoint's types, or a type applied as in `moesim.model.dtypes.module_dtypes`.
    mtp
        Whether the prediction layers are loaded too.

    Returns
    -------
    float
        Bytes.

    Examples
    --------
    >>> from moesim.model import load_model
    >>> round(weight_bytes(load_model("gpt-oss-20b")) / 1e9, 1)
    13.8
    """
    return sum(weight_bytes_by_module(model, dtype, mtp=mtp).values())


def weight_bytes_by_module(model: Model, dtype: str = "auto", *, mtp: bool = False) -> dict[str, float]:
    """Bytes of the weights of each module; ``other`` holds norms, biases and a vision tower."""
    types = module_dtypes(model, dtype)
    total: Counter[str] = Counter()
    for matrix in model_matrices(model):
        total[matrix.module] += matrix.params
    small = model.hidden * (2 if model.encoder_layers else 1) + model.extra_params + model.vision_params
    layers = [*model.encoder_layers, *model.layers]
    if mtp:
        layers += model.mtp_layers
        heads = len(model.mtp_layers)
        small += 3 * model.hidden * heads
        total["connection"] += heads * sum(m.params for m in mtp_matrices(model.hidden))
    for layer, n in Counter(layers).items():
        for matrix in layer_matrices(layer, model.hidden):
            total[matrix.module] += n * matrix.params
        small += n * (small_params(layer, model.hidden) + expert_biases(layer, model.hidden))
    total["other"] += small
    return {module: count * bytes_per_param(types[module]) for module, count in total.items() if count}


def small_params(layer: Layer, hidden: int) -> int:
    """Norms, biases, convolutions and other vectors of a layer, without the biases of routed experts."""
    norms = 2 * hidden
    attention = _attention_small(layer.attention, hidden)
    if layer.cross is not None:
        norms += hidden
        attention += _attention_small(layer.cross, hidden)
    router = layer.ffn.num_experts if isinstance(layer.ffn, MoE) and layer.ffn.router_bias else 0
    return norms + attention + router + layer.extra_params


def expert_biases(layer: Layer, hidden: int) -> int:
    """Biases of all routed experts of a layer."""
    ffn = layer.ffn
    if not isinstance(ffn, MoE) or not ffn.expert_bias:
        return 0
    return ffn.num_experts * ((ffn.matrices - 1) * ffn.intermediate + hidden)


def _layer_counter(layer: Layer, hidden: int) -> Counter[str]:
    count: Counter[str] = Counter()
    for matrix in layer_matrices(layer, hidden):
        count[_COMPONENT.get(matrix.module, matrix.module)] += matrix.params
    count["experts"] += expert_biases(layer, hidden)
    count["other"] += small_params(layer, hidden)
    return count


def _idle(layer: Layer, hidden: int) -> int:
    """Parameters of the experts a token is not routed to."""
    ffn = layer.ffn
    if not isinstance(ffn, MoE):
        return 0
    matrices = sum(
        m.inputs * m.outputs * (m.copies - m.used)
        for m in layer_matrices(layer, hidden)
        if m.module == "expert"
    )
    return matrices + expert_biases(layer, hidden) * (ffn.num_experts - ffn.top_k) // ffn.num_experts


def _attention_small(attention: Attention, hidden: int) -> int:
    match attention:
        case GroupedQuery() as a:
            bias = a.heads * a.qk_dim * (2 if a.gated else 1) + a.kv_heads * (a.qk_dim + a.v_dim)
            return (
                a.norm_params + (bias if a.bias else 0) + (hidden if a.output_bias else 0) + (a.q_rank or 0)
            )
        case Latent() as a:
            # Norms of both latents; the indexer's key norm has a weight and a bias.
            index = 2 * a.indexer.dim if a.indexer and not a.indexer.shared else 0
            return (a.q_rank or 0) + a.kv_rank + index
        case Compressed() as a:
            # Norms of query latent and key, attention sinks; each compressor has a norm and, for every
            # position of its window, a learned offset.
            overlap = compressor_overlap(a.ratio)
            width = a.head_dim if a.ratio else 0
            width += a.indexer.dim if a.ratio and a.indexer and not a.indexer.shared else 0
            return a.q_rank + a.head_dim + a.heads + width * (1 + overlap * a.ratio)
        case LinearAttention(kind="gated_delta") as a:
            channels = 2 * a.key_heads * a.key_dim + a.value_heads * a.value_dim
            # Convolution, decay and time-step vectors, norm of the output heads.
            return channels * a.conv_kernel + 2 * a.value_heads + a.value_dim
        case LinearAttention() as a:
            return a.value_heads * a.value_dim
        case StateSpace() as a:
            # Convolution with bias, time-step bias, A and D; Jamba norms dt, B and C.
            return a.inner * (a.conv_kernel + 3 + a.state_dim) + a.dt_rank + 2 * a.state_dim
