"""Operations of one micro-batch on one rank, forward and backward.

A matrix product ``y = x w`` has two of the same size behind it: ``dx = dy w'`` and ``dw = x' dy``, which is
added to gradients kept in 32 bits. FlashAttention's backward pass makes five products where the forward pass
makes two, because it computes scores again (arXiv:2307.08691, section 2.3.2), and reaches 63 % of peak where
the forward pass reaches 73 % (section 4.1). Elementwise operations are counted by the tensors they read and
write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from moesim.model import Layer, Matrix, Model, MoE, bytes_per_param, layer_matrices, model_matrices
from moesim.ops import Batch, Op, Precision
from moesim.ops.layer import layer_ops, local_shape
from moesim.ops.precision import input_bytes
from moesim.ops.primitives import ACTIVATION_BYTES, elementwise, gemm, norm
from moesim.ops.table import Shape
from moesim.training.experts import ExpertRows, expert_rows
from moesim.training.layout import TrainLayout
from moesim.training.recipe import Recipe

#: Backward over forward FLOPs of fused attention, and forward over backward efficiency (arXiv:2307.08691).
ATTENTION_BACKWARD = 2.5 * 73.0 / 63.0
#: A gradient kept in 32 bits is read and written by the product that adds to it.
ACCUMULATE_BYTES = 8.0
#: Backward passes by the tensors they cross the memory with, over those of the forward pass: a norm reads
#: input and gradient and writes one (3 of 2); a gated activation reads three and writes two (5 of 3).
ELEMENTWISE_BACKWARD = {
    "activation": 5.0 / 3.0,
    "shared_activation": 5.0 / 3.0,
    "expert_activation": 5.0 / 3.0,
}
NORM_BACKWARD = 1.5
#: Passes over 32-bit logits of a vocabulary-parallel cross entropy: cast, maximum, exponential in place, sum;
#: backward, gradient in place and cast.
LOSS_TENSORS, LOSS_BACKWARD = 5.0, 0.6
#: Products that expand latents to heads, which selective recomputation repeats.
_EXPANSIONS = frozenset({"q_b_proj", "kv_b_proj"})
#: What works on the part of the sequence that a tensor-parallel rank holds between matrix products.
_SPLIT = frozenset({"norm", "add", "router", "top_k", "weighted_sum"})


@dataclass(frozen=True, slots=True)
class Pass:
    """An operation and its backward pass.

    Parameters
    ----------
    name, kind
        As in the breakdown; ``gemm attention elementwise expert``.
    forward
        Forward operation.
    backward
        Operations of the backward pass; empty where it is `scale` times the forward one.
    scale
        Backward over forward seconds.
    count
        How often a layer runs it.
    again
        Whether selective recomputation repeats it.
    """

    name: str
    kind: str
    forward: Op
    backward: tuple[Op, ...] = ()
    scale: float = 0.0
    count: float = 1.0
    again: bool = False


def precision_of(recipe: Recipe) -> Precision:
    """Data types: products of attention and feed-forward blocks in the recipe's, the rest in 16 bits."""
    small = dict.fromkeys(("router", "embedding", "head", "connection", "indexer"), "bf16")
    main = dict.fromkeys(("attention", "dense", "shared", "expert"), recipe.precision)
    return Precision(small | main)


def layer_passes(layer: Layer, hidden: int, layout: TrainLayout, recipe: Recipe) -> Iterator[Pass]:
    """Passes of one layer for one micro-batch, experts included."""
    precision = precision_of(recipe)
    ulysses = recipe.context == "ulysses"
    shard = recipe.seq / layout.cp
    # Ranks of a ring swap pieces so that each sees as many keys: a chunk in the middle of the sequence.
    whole = Batch.prefill(recipe.micro_batch, shard, (recipe.seq - shard) / 2)
    split = Batch.prefill(recipe.micro_batch, shard / layout.tp)
    for op in layer_ops(layer, hidden, split, 1, precision, fused=recipe.fused):
        if op.name in _SPLIT:
            yield _pass(op)
    for op in layer_ops(layer, hidden, whole, layout.tp, precision, fused=recipe.fused):
        if op.name not in _SPLIT and not (ulysses and op.kind == "attention_prefill"):
            yield _pass(op)
    if recipe.dropout:
        yield from _dropouts(layer, hidden, layout, recipe)
    if ulysses:
        # After the exchange a rank has all tokens and its part of the heads.
        batch = Batch.prefill(recipe.micro_batch, recipe.seq)
        for op in layer_ops(layer, hidden, batch, layout.tp * layout.cp, precision, fused=recipe.fused):
            if op.kind == "attention_prefill":
                yield _pass(op)
    if isinstance(layer.ffn, MoE):
        yield from _expert_passes(layer.ffn, hidden, layout, recipe, precision)


def _dropouts(layer: Layer, hidden: int, layout: TrainLayout, recipe: Recipe) -> Iterator[Pass]:
    """Dropout behind attention and feed-forward block and, where they are stored, of scores."""
    tokens = recipe.micro_batch * recipe.seq / layout.cp
    # Read, written, and a mask of half the size; on the way back the same.
    ends = elementwise("dropout", 2.0 * tokens * hidden / layout.tp, flops_each=2.0, tensors=2.5, launches=2)
    yield Pass("dropout", "elementwise", ends, scale=1.0)
    if not recipe.fused:
        scores = tokens * recipe.seq * getattr(layer.attention, "heads", 0) / layout.tp
        stored = elementwise("score_dropout", scores, flops_each=2.0, tensors=2.5)
        yield Pass("score_dropout", "elementwise", stored, scale=1.0, again=True)


def end_passes(model: Model, layout: TrainLayout, recipe: Recipe) -> tuple[list[Pass], list[Pass]]:
    """What the first stage does before its layers, and the last one behind: embedding; norm, head, loss."""
    tokens = recipe.micro_batch * recipe.seq / layout.cp
    embedding = elementwise("embedding", tokens * model.hidden / layout.tp, flops_each=0.0, tensors=2.0)
    head: Matrix = model_matrices(model)[1]
    inputs, outputs, _ = local_shape(head, layout.tp)
    logits = tokens * outputs
    loss = elementwise("loss", logits, flops_each=8.0, tensors=LOSS_TENSORS * 2.0)
    last = norm("norm", tokens / layout.tp, model.hidden)
    return (
        [Pass("embedding", "elementwise", embedding, scale=1.0)],
        [
            Pass("norm", "elementwise", last, scale=NORM_BACKWARD, again=True),
            _product("lm_head", "gemm", tokens, inputs, outputs, "bf16"),
            Pass("loss", "elementwise", loss, scale=LOSS_BACKWARD),
        ],
    )


def _pass(op: Op) -> Pass:
    if op.kind == "attention_prefill":
        # Stored scores are not computed again: two products for one.
        fused = op.name not in ("qk_matmul", "sv_matmul")
        return Pass(op.name, "attention", op, scale=ATTENTION_BACKWARD if fused else 2.0)
    if op.kind != "gemm":
        return Pass(
            op.name, "elementwise", op, scale=ELEMENTWISE_BACKWARD.get(op.name, NORM_BACKWARD), again=True
        )
    if op.shape is None or op.shape.kernel != "gemm":
        return Pass(op.name, "gemm", op, scale=2.0)
    rows, outputs, inputs = (float(np.max(size)) for size in op.shape.sizes)
    again = op.name in _EXPANSIONS
    return _product(op.name, "gemm", rows, inputs, outputs, op.dtype, forward=op, again=again)


def _product(
    name: str,
    kind: str,
    rows: float,
    inputs: float,
    outputs: float,
    dtype: str,
    *,
    count: float = 1.0,
    forward: Op | None = None,
    again: bool = False,
) -> Pass:
    """A matrix product with the two of its backward pass; 8-bit operands are cast on the way."""
    ahead = gemm(name, rows, inputs, outputs, dtype) if forward is None else forward
    back = gemm(name, rows, outputs, inputs, dtype)
    weights = Op(
        name,
        "gemm",
        dtype,
        flops=2.0 * rows * inputs * outputs,
        weight_bytes=rows * inputs * input_bytes(dtype),
        activation_bytes=rows * outputs * input_bytes(dtype) + ACCUMULATE_BYTES * inputs * outputs,
        shape=Shape("gemm", (outputs, inputs, rows)),
    )
    return Pass(name, kind, ahead, (back, weights), count=count, again=again)


def casts(recipe: Recipe, passes: list[Pass]) -> Iterator[Pass]:
    """Casts to 8 bits of what products read: read in 16 bits and written twice, once turned."""
    if recipe.precision != "fp8":
        return
    for p in passes:
        if p.forward.dtype == "fp8" and p.backward:
            assert p.forward.shape is not None
            rows, outputs, inputs = (float(np.max(size)) for size in p.forward.shape.sizes)
            # 4 bytes cross the memory per element, as two 16-bit tensors.
            yield Pass(
                "cast",
                "elementwise",
                elementwise("cast", rows * inputs, flops_each=2.0, tensors=2.0),
                (elementwise("cast", rows * outputs, flops_each=2.0, tensors=2.0),),
                count=p.count,
            )


def _expert_passes(
    moe: MoE, hidden: int, layout: TrainLayout, recipe: Recipe, precision: Precision
) -> Iterator[Pass]:
    """Experts as libraries for training run them: one product per expert and matrix, and permutations."""
    tokens = recipe.micro_batch * recipe.seq / (layout.cp * layout.tp)
    rows = expert_rows(tokens, moe.num_experts, moe.top_k, layout.ep, layout.expert_tp, recipe)
    width = moe.intermediate / layout.expert_tp
    dtype = precision.weight("expert")
    if recipe.expert_kernel == "grouped":
        yield from _grouped(rows, moe.matrices, hidden, width, dtype)
    else:
        into = (moe.matrices - 1) * width
        yield _product("expert_up", "expert", rows.each, hidden, into, dtype, count=rows.local)
        yield _product("expert_down", "expert", rows.each, width, hidden, dtype, count=rows.local)
    yield Pass(
        "expert_activation",
        "elementwise",
        elementwise("expert_activation", rows.rows * width, flops_each=5.0, tensors=float(moe.matrices)),
        scale=ELEMENTWISE_BACKWARD["expert_activation"],
        again=True,
    )
    # Sorted by rank before they leave, by expert where they arrive, and back.
    sorts = [("permute", rows.sent)] + ([("sort", rows.rows)] if rows.local > 1 else [])
    for name, moved in sorts:
        op = elementwise(name, moved * hidden, flops_each=0.0, tensors=2.0)
        yield Pass(name, "elementwise", replace(op, launches=2), scale=1.0, count=2.0)


def _grouped(rows: ExpertRows, matrices: int, hidden: int, width: float, dtype: str) -> Iterator[Pass]:
    """One kernel for all experts of a rank; two of its kind behind it, and sums in 32 bits."""
    weights = matrices * hidden * width * rows.local
    forward = Op(
        "experts",
        "gemm",
        dtype,
        flops=2.0 * rows.each * weights,
        weight_bytes=weights * bytes_per_param(dtype),
        activation_bytes=rows.rows * (2.0 * hidden + matrices * width) * ACTIVATION_BYTES,
        shape=Shape("experts", (rows.each, rows.local, width)),
    )
    yield Pass("experts", "expert", forward, scale=2.0)
    nothing = elementwise("weight_sums", 0.0, flops_each=0.0, tensors=0.0)
    sums = elementwise("weight_sums", weights, flops_each=1.0, tensors=ACCUMULATE_BYTES / ACTIVATION_BYTES)
    yield Pass("weight_sums", "elementwise", nothing, (sums,))


def local_params(layer: Layer, hidden: int, layout: TrainLayout) -> tuple[float, float]:
    """Parameters of one layer on one rank: those shared with data-parallel ranks, and those of experts."""
    dense, experts = 2.0 * hidden, 0.0
    for m in layer_matrices(layer, hidden):
        if m.module == "expert":
            experts += m.params / (layout.ep * layout.expert_tp)
        else:
            inputs, outputs, copies = local_shape(m, layout.tp)
            dense += inputs * outputs * copies
    return dense, experts


def context_bytes(layer: Layer, layout: TrainLayout, recipe: Recipe) -> tuple[float, float]:
    """Bytes of queries and outputs, and of keys and values, of this rank's tokens in one layer."""
    tokens = recipe.micro_batch * recipe.seq / layout.cp * ACTIVATION_BYTES / layout.tp
    a = layer.attention
    heads = getattr(a, "heads", 0)
    query = heads * float(getattr(a, "qk_dim", 0) or getattr(a, "nope_dim", 0) + getattr(a, "rope_dim", 0))
    value = float(getattr(a, "v_dim", 0) or getattr(a, "head_dim", 0))
    kv_heads = getattr(a, "kv_heads", heads)
    keys = kv_heads * (query / max(heads, 1) + value)
    return tokens * (query + heads * value), tokens * keys
