"""The sizes by which an operation is looked up among measured kernels.

Each kernel is described by at most four sizes whose logarithms its time varies smoothly with. The same
functions describe a row of a table when a kernel is fitted and an operation when it is predicted.
"""

from __future__ import annotations

import numpy as np

from moesim.ops.primitives import Number, causal_pairs
from moesim.ops.table import Array, Shape

#: Head sizes that were measured; the knots of their axis.
HEAD_DIMS = (64.0, 128.0, 192.0, 256.0, 512.0)


def decode_shape(
    sequences: Number,
    context: Number,
    heads: Number,
    kv_heads: Number,
    dim: Number,
    window: Number | None = None,
) -> Shape:
    """Decode of grouped-query attention: key-value heads of all sequences are worked on side by side.

    Parameters
    ----------
    sequences
        Decoding sequences.
    context
        Cached tokens of each, the new one included.
    heads, kv_heads
        Query and key-value heads of this rank.
    dim
        Width of a head.
    window
        Tokens that a query sees at most; None for all.
    """
    kernel = "attention_decode" if window is None else "attention_decode_window"
    seen = context if window is None else np.minimum(context, window)
    return Shape(kernel, (sequences * kv_heads, seen, heads / kv_heads, _place(dim)))


def prefill_shape(
    prompts: Number,
    new: Number,
    past: Number,
    heads: Number,
    kv_heads: Number,
    dim: Number,
    window: float | None = None,
) -> Shape:
    """Prefill of grouped-query attention.

    A chunk behind cached tokens counts as a prompt of its own with as many query-key pairs.

    Parameters
    ----------
    prompts, new, past
        Prompts, new tokens of each, and tokens of each that are cached already.
    heads, kv_heads, dim, window
        As in `decode_shape`.
    """
    if window is None:
        return Shape(
            "attention_prefill", (prompts * heads, _square(new, past), heads / kv_heads, _place(dim))
        )
    length = np.maximum(new, 1.0)
    return Shape(
        "attention_prefill_window",
        (prompts * heads, length, np.maximum((length + past) / window, 1.0), _place(dim)),
    )


def mixed_shape(sequences: Number, context: Number, heads: Number, kv_heads: Number, dim: Number) -> Shape:
    """Decoding sequences in a kernel that reads prompts as well: each head of each is a tile of its own."""
    return Shape("attention_mixed", (sequences * heads, context, heads / kv_heads, _place(dim)))


def latent_decode_shape(sequences: Number, context: Number, heads: Number) -> Shape:
    """Decode of latent attention on the cached latent itself."""
    return Shape("mla_decode", (sequences, context, heads))


def latent_prefill_shape(prompts: Number, new: Number, past: Number, heads: Number) -> Shape:
    """Prefill of latent attention on expanded keys and values."""
    return Shape("mla_prefill", (prompts, _square(new, past), heads))


def batched_shape(rows: Number, heads: Number, outputs: Number, inputs: Number) -> Shape:
    """The per-head products that absorb the latent's projections into queries and outputs."""
    return Shape("mla_bmm", (rows, heads, outputs / inputs))


def expert_shape(pairs: Array, hit: Array, width: Number) -> Shape:
    """Experts of one rank: tokens per expert that is hit, such experts, and their width on this rank."""
    return Shape("experts", (pairs / np.maximum(hit, 1.0), hit, width))


def _square(new: Number, past: Number) -> Number:
    """Length of a prompt from nothing with as many query-key pairs."""
    return np.sqrt(2.0 * np.maximum(causal_pairs(new, past), 0.5))


def _place(dim: Number) -> Number:
    """Two to the position among the measured head sizes, so that the logarithm is a position."""
    return 2.0 ** np.interp(np.log2(dim), np.log2(HEAD_DIMS), np.arange(len(HEAD_DIMS)))
