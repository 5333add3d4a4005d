"""FLOPs and bytes of single operations, in the terms of the roofline model.

Formulas follow Williams et al. (CACM 2009) and the per-operator accounting of LLM-Viewer
(arXiv:2402.16363, table 1): a multiply-add is 2 FLOP, and every operand crosses the memory once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.model.dtypes import bytes_per_param
from moesim.ops.precision import input_bytes
from moesim.ops.table import Array, Op, Shape

ACTIVATION_BYTES = 2.0

Number = Array | float


def gemm(
    name: str,
    rows: Number,
    inputs: int | float,
    outputs: int | float,
    dtype: str = "bf16",
    *,
    weights: float | None = None,
) -> Op:
    """Multiply ``[rows, inputs]`` by a weight matrix ``[inputs, outputs]``.

    Fused matrices that do not make one rectangle say how many `weights` they have together.

    >>> op = gemm("qkvo", 2048.0, 4096, 4096)
    >>> op.flops, op.bytes, op.flops / op.bytes
    (68719476736.0, 67108864.0, 1024.0)
    """
    weights = inputs * outputs if weights is None else weights
    return Op(
        name,
        "gemm",
        dtype,
        flops=2.0 * rows * weights,
        weight_bytes=weights * bytes_per_param(dtype),
        activation_bytes=rows * (inputs * input_bytes(dtype) + outputs * ACTIVATION_BYTES),
        shape=Shape("gemm", (rows, weights / inputs, inputs)),
    )


def norm(name: str, rows: Number, width: int | float, launches: int = 1) -> Op:
    """Normalise ``[rows, width]``: 7 FLOP per element, read and written once.

    >>> op = norm("norm", 2048.0, 4096)
    >>> op.flops, op.bytes
    (58720256.0, 33554432.0)
    """
    return elementwise(name, rows * width, flops_each=7.0, tensors=2.0, launches=launches)


def add(name: str, rows: Number, width: int | float, launches: int = 1) -> Op:
    """Add a residual; two further tensors cross the memory beside the norm's that it is fused with.

    >>> op = add("add", 2048.0, 4096)
    >>> op.flops, op.bytes
    (8388608.0, 33554432.0)
    """
    return elementwise(name, rows * width, flops_each=1.0, tensors=2.0, launches=launches)


def softmax(name: str, scores: Number, launches: int = 1) -> Op:
    """Softmax over stored scores: 5 FLOP each, read and written once.

    >>> op = softmax("softmax", 32.0 * 2048 * 2048)
    >>> op.flops, op.bytes
    (671088640.0, 536870912.0)
    """
    return elementwise(name, scores, flops_each=5.0, tensors=2.0, launches=launches)


def elementwise(name: str, elements: Number, *, flops_each: float, tensors: float, launches: int = 1) -> Op:
    """An operation on `elements` values that reads and writes `tensors` tensors of that size in 16 bits."""
    return Op(
        name,
        "elementwise",
        "bf16",
        flops=flops_each * elements,
        activation_bytes=tensors * ACTIVATION_BYTES * elements,
        launches=launches,
    )


def top_k(tokens: Number, experts: int, chosen: int) -> Op:
    """Choose `chosen` of the `experts` whose scores each token has, and weigh them: 6 FLOP per score."""
    op = elementwise("top_k", tokens * experts, flops_each=6.0, tensors=2.0)
    return replace(op, shape=Shape("top_k", (tokens, experts, chosen)))


def weighted_sum(tokens: Number, width: int | float, chosen: int) -> Op:
    """Add up the outputs of each token's experts, on the way out of their kernel."""
    op = elementwise("weighted_sum", tokens * width, flops_each=2.0 * chosen, tensors=2.0, launches=0)
    return replace(op, shape=Shape("weighted_sum", (tokens, width, chosen)))


def causal_pairs(new: Number, past: Number = 0.0, window: int | None = None) -> Number:
    """Query-key pairs when `new` tokens follow `past` ones, each seeing itself and all before it.

    Parameters
    ----------
    window
        Tokens a query sees at most, itself included.

    Examples
    --------
    >>> causal_pairs(3.0), causal_pairs(1.0, 9.0), causal_pairs(4.0, 0.0, window=2)
    (6.0, 10.0, 7.0)
    """
    pairs = new * past + new * (new + 1) / 2
    if window is None:
        return pairs
    # Query i sees min(past + i + 1, window) tokens: remove the triangle beyond the window.
    last, first = past + new - window, past - window
    last, first = np.maximum(last, 0.0), np.maximum(first, 0.0)
    clipped = pairs - (last * (last + 1) / 2 - first * (first + 1) / 2)
    return clipped if isinstance(clipped, np.ndarray) and clipped.ndim else float(clipped)


def scores(
    name: str,
    heads: int | float,
    queries: Number,
    keys: Number,
    dim: int | float,
    kv_heads: int | float,
    kind: str,
) -> Op:
    """Unfused query-key or score-value product of all heads over a full rectangle of scores.

    The cache is read once, and the score matrix is stored (or read) in 16 bits.

    >>> op = scores("qk", 32, 2048.0, 2048.0, 128, 32, "attention_prefill")
    >>> op.flops, op.bytes
    (34359738368.0, 301989888.0)
    """
    return Op(
        name,
        kind,
        "bf16",
        flops=2.0 * heads * queries * keys * dim,
        cache_bytes=keys * kv_heads * dim * ACTIVATION_BYTES,
        activation_bytes=(queries * heads * dim + heads * queries * keys) * ACTIVATION_BYTES,
    )
