"""Attention as ops: what is computed on the cache, beyond the projections.

Every kind of attention answers with rows for the decoding sequences and rows for the prefill chunk.
A flash kernel keeps scores on chip, so a row counts queries, outputs and each cached entry once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from moesim.model.dtypes import bytes_per_param
from moesim.model.flops import MAMBA_FLOPS, STATE_FLOPS
from moesim.model.types import (
    Attention,
    Compressed,
    GroupedQuery,
    Indexer,
    Latent,
    LinearAttention,
    StateSpace,
)
from moesim.ops.batch import Batch
from moesim.ops.precision import Precision
from moesim.ops.primitives import ACTIVATION_BYTES, Number, causal_pairs
from moesim.ops.shapes import (
    batched_shape,
    decode_shape,
    latent_decode_shape,
    latent_prefill_shape,
    mixed_shape,
    prefill_shape,
)
from moesim.ops.table import Op, Shape

#: A recurrent state is kept in fp32.
STATE_BYTES = 4.0
#: Index keys of sparse attention are cached in fp8 (DeepSeek-V3.2 report).
INDEX_BYTES = 1.0
DECODE, PREFILL = "attention_decode", "attention_prefill"
#: Name of the row of decoding sequences in a kernel that reads prompts as well.
MIXED = "mixed_attention"
#: Queries of a tile of FlashAttention 2 at head size 128 (``run_mha_fwd_hdim128`` of its
#: flash_fwd_launch_template.h, other than SM86 and SM89).
MIXED_ROWS = 128.0


def attention_ops(
    attention: Attention, batch: Batch, tp: int, precision: Precision, *, together: bool = False
) -> Iterator[Op]:
    """Rows of one attention layer on one of `tp` ranks.

    Parameters
    ----------
    together
        Whether one kernel does the decoding and the prompts of a step, as vLLM's call of FlashAttention 2. It
        then neither splits contexts nor lets the heads of a group share a tile: a decoding query takes a tile
        of `MIXED_ROWS` for each of its heads.
    """
    match attention:
        case GroupedQuery():
            yield from _grouped_query(attention, batch, tp, precision, together)
        case Latent():
            yield from _latent(attention, batch, tp, precision)
        case Compressed():
            yield from _compressed(attention, batch, tp, precision)
        case LinearAttention() as a:
            state = a.value_heads / tp * a.key_dim * a.value_dim
            yield from _recurrent(batch, state, STATE_FLOPS[a.kind] * state, precision)
        case StateSpace() as a:
            state = a.inner / tp * a.state_dim
            yield from _recurrent(batch, state, MAMBA_FLOPS * state, precision)


def _rows(
    name: str,
    batch: Batch,
    decode: tuple[Number, Number, Number] | None,
    prefill: tuple[Number, Number, Number] | None,
    dtype: str,
    shapes: tuple[Shape | None, Shape | None] = (None, None),
) -> Iterator[Op]:
    """One row per phase from (flops, cache_bytes, activation_bytes); a phase without tokens has no row."""
    for work, kind, tokens, shape in (
        (decode, DECODE, batch.sequences, shapes[0]),
        (prefill, PREFILL, batch.prefill_tokens, shapes[1]),
    ):
        if work is not None and np.any(tokens > 0):
            flops, cache, activations = work
            yield Op(name, kind, dtype, flops, cache_bytes=cache, activation_bytes=activations, shape=shape)


def _grouped_query(
    a: GroupedQuery, batch: Batch, tp: int, precision: Precision, together: bool
) -> Iterator[Op]:
    heads, kv_heads = a.heads / tp, max(1.0, a.kv_heads / tp)
    if together and a.window is None and np.any(batch.prefill_tokens > 0):
        among = np.where(batch.prefill_tokens > 0, batch.sequences, 0.0)
        if np.any(among > 0):
            dim = float(a.qk_dim)
            flops, cache, moved = decode_work(
                among, batch.context, heads * batch.queries, kv_heads, 2.0 * dim, precision.cache_bytes
            )
            tiles = mixed_shape(among, batch.context, heads, kv_heads, dim)
            yield Op(
                MIXED,
                PREFILL,
                precision.cache,
                MIXED_ROWS * flops / batch.queries,
                cache_bytes=cache,
                activation_bytes=moved,
                shape=tiles,
            )
            batch = replace(batch, sequences=batch.sequences - among)
    widths = (heads, kv_heads, float(a.qk_dim + a.v_dim), precision.cache_bytes)
    shape = (heads, kv_heads, float(a.qk_dim), a.window)
    yield from _rows(
        "attention",
        batch,
        # The queries of a sequence share its cache as the heads of a group do.
        decode_work(batch.sequences, batch.context, heads * batch.queries, *widths[1:], a.window),
        prefill_work(batch.prompts, batch.chunk, batch.past, *widths, a.window),
        precision.cache,
        (
            decode_shape(batch.sequences, batch.context, heads * batch.queries, *shape[1:]),
            prefill_shape(batch.prompts, batch.chunk, batch.past, *shape),
        ),
    )


def decode_work(
    sequences: Number,
    context: Number,
    heads: Number,
    kv_heads: Number,
    width: Number,
    cache_bytes: float,
    window: Number | None = None,
) -> tuple[Number, Number, Number]:
    """FLOP, cache and activation bytes of decoding with grouped-query attention.

    Parameters
    ----------
    width
        Of a key and a value together.
    cache_bytes
        Bytes per cached element.
    """
    seen = context if window is None else np.minimum(context, window)
    return (
        2.0 * heads * width * sequences * seen,
        sequences * seen * kv_heads * width * cache_bytes,
        sequences * heads * width * ACTIVATION_BYTES,
    )


def prefill_work(
    prompts: Number,
    new: Number,
    past: Number,
    heads: Number,
    kv_heads: Number,
    width: Number,
    cache_bytes: float,
    window: int | None = None,
) -> tuple[Number, Number, Number]:
    """FLOP, cache and activation bytes of a prefill with grouped-query attention; see `decode_work`."""
    kept = past if window is None else np.minimum(past, window)
    return (
        2.0 * heads * width * prompts * causal_pairs(new, past, window),
        prompts * (kept + new) * kv_heads * width * cache_bytes,
        prompts * new * heads * width * ACTIVATION_BYTES,
    )


def latent_decode_work(
    sequences: Number, context: Number, heads: Number, kv_rank: int, rope_dim: int, cache_bytes: float
) -> tuple[Number, Number, Number]:
    """FLOP, cache and activation bytes of decoding on the latent itself."""
    latent = kv_rank + rope_dim
    return (
        2.0 * heads * (latent + kv_rank) * sequences * context,
        sequences * context * latent * cache_bytes,
        sequences * heads * (latent + kv_rank) * ACTIVATION_BYTES,
    )


def latent_prefill_work(
    prompts: Number, new: Number, past: Number, heads: Number, width: float, entry_bytes: float
) -> tuple[Number, Number, Number]:
    """FLOP, cache and activation bytes of a prefill on expanded keys and values.

    Parameters
    ----------
    width
        Of a query, key and value as far as they are multiplied: key plus value.
    entry_bytes
        Bytes of one token in the cache.
    """
    return (
        2.0 * heads * width * prompts * causal_pairs(new, past),
        prompts * (past + new) * entry_bytes,
        (prompts * new + prompts * (past + new)) * heads * width * ACTIVATION_BYTES,
    )


def _latent(a: Latent, batch: Batch, tp: int, precision: Precision) -> Iterator[Op]:
    """Decode works on the latent itself (absorbed), prefill on keys and values expanded from it.

    Sparse attention is absorbed in both: each query has a selection of its own.
    """
    heads = a.heads / tp
    latent = a.kv_rank + a.rope_dim
    entry = latent * precision.cache_bytes
    weights = precision.weight("attention")
    context, pairs = batch.context, causal_pairs(batch.chunk, batch.past)
    stored = batch.past + batch.chunk
    absorbed_rows, queries = batch.decode_tokens, heads * batch.queries
    prefill_dim, read = float(a.nope_dim + a.rope_dim + a.v_dim), batch.prompts * stored
    if a.indexer is not None:
        yield from _indexer(a.indexer, batch, context, pairs, stored)
        context = np.minimum(context, a.indexer.top_k)
        pairs = causal_pairs(batch.chunk, batch.past, a.indexer.top_k)
        absorbed_rows, prefill_dim, read = batch.tokens, float(latent + a.kv_rank), 0.0 * read
    elif np.any(batch.prefill_tokens > 0):
        yield _batched_gemm("kv_b_proj", heads, read, a.kv_rank, a.nope_dim + a.v_dim, weights, shared=True)
    if np.any(absorbed_rows > 0):
        yield _batched_gemm("q_absorb", heads, absorbed_rows, a.nope_dim, a.kv_rank, weights)
        yield _batched_gemm("v_absorb", heads, absorbed_rows, a.kv_rank, a.v_dim, weights)
    dense = a.indexer is None
    entry_work = latent_prefill_work(batch.prompts, batch.chunk, batch.past, heads, prefill_dim, entry)
    yield from _rows(
        "attention",
        batch,
        latent_decode_work(batch.sequences, context, queries, a.kv_rank, a.rope_dim, precision.cache_bytes),
        entry_work
        if dense
        else (
            2.0 * heads * prefill_dim * batch.prompts * pairs,
            batch.prompts * stored * entry,
            batch.prefill_tokens * heads * prefill_dim * ACTIVATION_BYTES,
        ),
        precision.cache,
        (
            latent_decode_shape(batch.sequences, context, queries),
            # Sparse prefill is absorbed, which no table has.
            latent_prefill_shape(batch.prompts, batch.chunk, batch.past, heads) if dense else None,
        ),
    )


def _indexer(indexer: Indexer, batch: Batch, entries: Number, pairs: Number, stored: Number) -> Iterator[Op]:
    """Scores of every past entry against the index query; the indexer is replicated over tensor ranks."""
    if indexer.shared:
        return
    each = 2.0 * indexer.heads * indexer.dim
    key = indexer.dim * INDEX_BYTES
    yield from _rows(
        "indexer",
        batch,
        (
            each * batch.decode_tokens * entries,
            batch.sequences * entries * key,
            batch.decode_tokens * entries * 4.0,
        ),
        (each * batch.prompts * pairs, batch.prompts * stored * key, batch.prompts * pairs * 4.0),
        "fp8",
    )


def _compressed(a: Compressed, batch: Batch, tp: int, precision: Precision) -> Iterator[Op]:
    heads = a.heads / tp
    seen = np.minimum(batch.context, a.window)
    pairs = causal_pairs(batch.chunk, batch.past, a.window)
    stored = np.minimum(batch.past, a.window) + batch.chunk
    if a.ratio:
        entries, history = batch.context / a.ratio, (batch.past + batch.chunk) / a.ratio
        history_pairs = causal_pairs(batch.chunk, batch.past) / a.ratio
        if a.indexer is not None:
            yield from _indexer(a.indexer, batch, entries, history_pairs, history)
            history_pairs = causal_pairs(batch.chunk, batch.past, a.indexer.top_k * a.ratio) / a.ratio
            entries = np.minimum(entries, a.indexer.top_k)
        seen, pairs, stored = seen + entries, pairs + history_pairs, stored + history
    width = 2.0 * a.head_dim
    entry = a.head_dim * precision.cache_bytes
    yield from _rows(
        "attention",
        batch,
        (
            2.0 * heads * width * batch.decode_tokens * seen,
            batch.sequences * seen * entry,
            batch.decode_tokens * heads * width * ACTIVATION_BYTES,
        ),
        (
            2.0 * heads * width * batch.prompts * pairs,
            batch.prompts * stored * entry,
            batch.prefill_tokens * heads * width * ACTIVATION_BYTES,
        ),
        precision.cache,
    )


def _recurrent(batch: Batch, state: float, flops_each: float, precision: Precision) -> Iterator[Op]:
    """A state that is read and written once per sequence and step, whatever the length of the chunk."""
    traffic = 2.0 * state * STATE_BYTES
    yield from _rows(
        "state",
        batch,
        (flops_each * batch.decode_tokens, traffic * batch.sequences, 0.0),
        (flops_each * batch.prefill_tokens, traffic * batch.prompts, 0.0),
        precision.cache,
    )


def _batched_gemm(
    name: str, heads: float, rows: Number, inputs: int, outputs: int, dtype: str, *, shared: bool = False
) -> Op:
    """One small GEMM per head; `shared` when all heads read the same input rows."""
    read = inputs if shared else heads * inputs
    return Op(
        name,
        "gemm",
        dtype,
        flops=2.0 * heads * rows * inputs * outputs,
        weight_bytes=heads * inputs * outputs * bytes_per_param(dtype),
        activation_bytes=rows * (read + heads * outputs) * ACTIVATION_BYTES,
        shape=(
            Shape("gemm", (rows, heads * outputs, inputs))
            if shared
            else batched_shape(rows, heads, outputs, inputs)
        ),
    )
