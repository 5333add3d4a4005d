"""One decoder layer as ops: projections from its matrices, attention, feed-forward, and what is between.

Serving engines fuse projections that read the same input, the residual addition with the norm that follows,
and rotary embedding with the cache write and with norms of single heads. Shared experts run beside the routed
ones, as one more expert of the grouped GEMM or on a second stream, so that their launches take no time of
their own. `fused=False` counts every operation on its own, as frameworks without fused kernels run them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from moesim.model.matrices import layer_matrices
from moesim.model.types import (
    Attention,
    Dense,
    GroupedQuery,
    Latent,
    Layer,
    LinearAttention,
    Matrix,
    MoE,
    StateSpace,
)
from moesim.ops.attention import DECODE, PREFILL, attention_ops
from moesim.ops.batch import Batch
from moesim.ops.precision import Precision
from moesim.ops.primitives import (
    ACTIVATION_BYTES,
    Number,
    add,
    elementwise,
    gemm,
    norm,
    scores,
    softmax,
    top_k,
    weighted_sum,
)
from moesim.ops.table import Op

#: Projections of the same input that run as one GEMM. The two rates of a delta rule have one of their own, as
#: ``in_proj_ba`` of engines.
_FUSED = {
    "q": "qkv_proj",
    "k": "qkv_proj",
    "v": "qkv_proj",
    "gate_z": "qkv_proj",
    "q_a": "qkv_a_proj",
    "kv_a": "qkv_a_proj",
    "kv": "qkv_a_proj",
    "compress_kv": "compress_proj",
    "compress_gate": "compress_proj",
    "index_k": "index_proj",
    "index_weights": "index_proj",
    "index_compress_kv": "index_proj",
    "index_compress_gate": "index_proj",
    "gate": "gate_up_proj",
    "up": "gate_up_proj",
}


def layer_ops(
    layer: Layer,
    hidden: int,
    batch: Batch,
    tp: int,
    precision: Precision,
    *,
    fused: bool = True,
    together: bool = False,
) -> Iterator[Op]:
    """Rows of one layer on one rank, without the routed experts and without communication.

    Parameters
    ----------
    layer, hidden
        The layer and the width of the residual stream.
    batch
        Tokens per data-parallel rank.
    tp
        Ranks that share the layer's matrices.
    precision
        Data types.
    fused
        Whether engines' usual fusions apply.
    together
        As of `moesim.ops.attention.attention_ops`.
    """
    tokens = batch.tokens
    launches = 0 if fused else 1
    yield norm("norm", tokens, hidden)
    before, after, router, feed_forward = _groups(layer, hidden, tp, fused)
    yield from _projections(before, tokens, precision)
    if whole_width_norm(layer.attention):
        yield norm("qk_norm", tokens, _query_key_width(layer.attention, tp))
    yield from _rotary(layer, tokens, tp, precision)
    if fused or not isinstance(layer.attention, GroupedQuery):
        yield from attention_ops(layer.attention, batch, tp, precision, together=together)
    else:
        yield from _unfused_attention(layer.attention, batch, tp)
    if isinstance(layer.attention, LinearAttention):
        # Output norm and gate are one kernel behind that of the state.
        width = layer.attention.value_heads * layer.attention.value_dim / tp
        yield elementwise("gated_norm", tokens * width, flops_each=12.0, tensors=3.0)
    yield from _projections(after, tokens, precision)
    yield add("add", tokens, hidden, launches)
    yield norm("norm", tokens, hidden)
    yield from _projections(router, tokens, precision)
    for op in _projections(feed_forward, tokens, precision):
        yield replace(op, launches=launches) if op.name.startswith("shared_") else op
    yield from _feed_forward_elementwise(layer.ffn, hidden, tokens, tp, launches)
    yield add("add", tokens, hidden, launches)


def whole_width_norm(attention: Attention) -> bool:
    """Whether queries and keys are normed over all heads together, which ranks must agree on."""
    match attention:
        case GroupedQuery() as a:
            return a.norm_params >= (a.heads + a.kv_heads) * a.qk_dim
        case _:
            return False


def _query_key_width(attention: Attention, tp: int) -> float:
    assert isinstance(attention, GroupedQuery)
    return (attention.heads / tp + max(1.0, attention.kv_heads / tp)) * attention.qk_dim


def local_shape(matrix: Matrix, tp: int) -> tuple[float, float, float]:
    """Inputs, outputs and copies of a matrix on one of `tp` ranks."""
    shards = min(tp, matrix.max_shards or tp)
    inputs, outputs, copies = float(matrix.inputs), float(matrix.outputs), float(max(matrix.copies, 1))
    if matrix.shard == "row":
        inputs /= shards
    elif matrix.shard == "column" and copies > 1:
        copies /= shards
    elif matrix.shard == "column":
        outputs /= shards
    return inputs, outputs, copies


@dataclass(frozen=True, slots=True)
class _Projection:
    """One GEMM over matrices that read the same rows.

    Parameters
    ----------
    name, module
        In the breakdown, and of the weights.
    inputs, outputs, weights
        Of all matrices together, on one rank.
    """

    name: str
    module: str
    inputs: float
    outputs: float
    weights: float


@functools.lru_cache(maxsize=4096)
def _groups(layer: Layer, hidden: int, tp: int, fused: bool) -> tuple[tuple[_Projection, ...], ...]:
    """Projections before and behind the attention, of the router, and of dense or shared blocks."""
    matrices = layer_matrices(layer, hidden)
    attention = [m for m in matrices if m.module in ("attention", "indexer")]
    return tuple(
        _fuse(part, tp, fused)
        for part in (
            [m for m in attention if m.name not in ("o", "o_b", "kv_b")],
            [m for m in attention if m.name in ("o", "o_b")],
            [m for m in matrices if m.module == "router"],
            [m for m in matrices if m.module in ("dense", "shared")],
        )
    )


def _fuse(matrices: list[Matrix], tp: int, fused: bool) -> tuple[_Projection, ...]:
    groups: dict[str, list[Matrix]] = {}
    for m in matrices:
        name = _FUSED.get(m.name, f"{m.name}_proj") if fused else f"{m.name}_proj"
        if m.module in ("shared", "router"):
            name = m.module if m.module == "router" else f"shared_{name}"
        groups.setdefault(name, []).append(m)
    return tuple(
        _Projection(name, members[0].module, *_together(tuple(members), tp))
        for name, members in groups.items()
    )


def _projections(group: tuple[_Projection, ...], rows: Number, precision: Precision) -> Iterator[Op]:
    for p in group:
        yield gemm(p.name, rows, p.inputs, p.outputs, precision.weight(p.module), weights=p.weights)


def fused_gemm(name: str, members: list[Matrix], rows: Number, tp: int, precision: Precision) -> Op:
    """One GEMM launch over matrices that read the same rows."""
    inputs, outputs, weights = _together(tuple(members), tp)
    return gemm(name, rows, inputs, outputs, precision.weight(members[0].module), weights=weights)


@functools.lru_cache(maxsize=4096)
def _together(members: tuple[Matrix, ...], tp: int) -> tuple[float, float, float]:
    """Inputs, outputs and weights of matrices that are multiplied at once."""
    weights, outputs, read = 0.0, 0.0, 0.0
    for m in members:
        k, n, copies = local_shape(m, tp)
        weights += k * n * copies
        outputs += n * copies
        read = max(read, k * copies)
    return read, outputs, weights


def _rotary(layer: Layer, tokens: Number, tp: int, precision: Precision) -> Iterator[Op]:
    """Rotary embedding of queries and keys and the write of new cache entries, one kernel."""
    match layer.attention:
        case GroupedQuery() as a:
            kv_heads = max(1.0, a.kv_heads / tp)
            rotated, written = a.heads / tp * a.qk_dim + kv_heads * a.qk_dim, kv_heads * (a.qk_dim + a.v_dim)
        case Latent() as a:
            rotated, written = (a.heads / tp + 1) * a.rope_dim, float(a.kv_rank + a.rope_dim)
        case LinearAttention() as a:
            width = (2 * a.key_heads * a.key_dim + a.value_heads * a.value_dim) / tp
            yield elementwise("conv", tokens * width, flops_each=2.0 * a.conv_kernel, tensors=2.0)
            return
        case StateSpace() as a:
            yield elementwise("conv", tokens * a.inner / tp, flops_each=2.0 * a.conv_kernel, tensors=2.0)
            return
        case a:
            rotated, written = (a.heads / tp + 1) * a.rope_dim, float(a.head_dim)
    yield Op(
        "rope_cache_write",
        "elementwise",
        "bf16",
        flops=3.0 * rotated * tokens,
        activation_bytes=2.0 * ACTIVATION_BYTES * rotated * tokens,
        cache_bytes=written * precision.cache_bytes * tokens,
    )


def _feed_forward_elementwise(
    ffn: Dense | MoE, hidden: int, tokens: Number, tp: int, shared_launches: int
) -> Iterator[Op]:
    """Gated activation of dense or shared blocks, and the router's selection."""
    dense = isinstance(ffn, Dense)
    width = ffn.intermediate if isinstance(ffn, Dense) else ffn.shared_intermediate
    if width:
        yield elementwise(
            "activation" if dense else "shared_activation",
            tokens * width / tp,
            flops_each=5.0,
            tensors=float(ffn.matrices),
            launches=1 if dense else shared_launches,
        )
    if isinstance(ffn, MoE):
        yield top_k(tokens, ffn.num_experts, ffn.top_k)
        yield weighted_sum(tokens, hidden, ffn.top_k)


def _unfused_attention(a: GroupedQuery, batch: Batch, tp: int) -> Iterator[Op]:
    """Scores, softmax and weighted values as separate kernels; every score is computed, masked or not."""
    heads, kv_heads = a.heads / tp, max(1.0, a.kv_heads / tp)
    for kind, sequences, queries, keys in (
        (DECODE, batch.sequences, batch.queries, batch.context),
        (PREFILL, batch.prompts, batch.chunk, batch.past + batch.chunk),
    ):
        if not np.any(sequences * queries > 0):
            continue
        rows = sequences * queries
        many = heads * rows * keys
        for name, dim in (("qk_matmul", a.qk_dim), ("sv_matmul", a.v_dim)):
            one = scores(name, heads, queries, keys, dim, kv_heads, kind)
            yield Op(
                name,
                kind,
                "bf16",
                one.flops * sequences,
                0.0,
                one.activation_bytes * sequences,
                one.cache_bytes * sequences,
            )
            if name == "qk_matmul":
                yield softmax("softmax", many)
