"""One step of one model on one rank: ops, messages, and the expert work that routing decides."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

from moesim.errors import ConfigError, Fault
from moesim.layout.parallelism import Parallelism
from moesim.model.matrices import model_matrices
from moesim.model.types import Layer, Model, MoE
from moesim.ops.batch import Batch
from moesim.ops.layer import fused_gemm, layer_ops, whole_width_norm
from moesim.ops.precision import Precision
from moesim.ops.primitives import ACTIVATION_BYTES, add, elementwise, norm
from moesim.ops.table import Array, Message, Op, OpTable

#: Engines add up mean squares of norms in 32 bits.
NORM_SUM_BYTES = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class ExpertWork:
    """Routed experts of the layers that share a shape; time depends on where tokens go.

    Parameters
    ----------
    moe
        The block.
    layers
        Positions of these layers among the model's MoE layers.
    hidden
        Width of the residual stream.
    shard
        Width of one expert on one rank.
    dtype
        Data type of expert weights.
    tokens
        Tokens of all data-parallel ranks together, ``[batches]``.
    """

    moe: MoE
    layers: tuple[int, ...]
    hidden: int
    shard: float
    dtype: str
    tokens: Array


@dataclass(frozen=True, slots=True, eq=False)
class StepWork:
    """Everything one step asks of one rank.

    Parameters
    ----------
    table
        Ops and collectives that do not depend on routing, summed over all pipeline stages.
    experts
        Routed experts by shape.
    batch
        Tokens per data-parallel rank.
    layout
        The layout it was made for.
    ends
        By layer kind, rows of ops and of messages up to and with it; what surrounds the layers comes after.
    """

    table: OpTable
    experts: tuple[ExpertWork, ...]
    batch: Batch
    layout: Parallelism
    ends: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class LayerKinds:
    """The distinct layers of a model, each with how many there are, and its distinct MoE blocks.

    Parameters
    ----------
    layers
        Distinct layers and their numbers.
    blocks
        Distinct MoE blocks and their positions among the MoE layers.
    """

    layers: tuple[tuple[Layer, int], ...]
    blocks: tuple[tuple[MoE, tuple[int, ...]], ...]

    @classmethod
    def of(cls, model: Model) -> LayerKinds:
        """Group the layers of a model."""
        blocks: dict[MoE, list[int]] = {}
        for position, layer in enumerate(model.layers[i] for i in model.moe_layer_ids):
            blocks.setdefault(cast("MoE", layer.ffn), []).append(position)
        return cls(
            tuple(Counter(model.layers).items()), tuple((moe, tuple(ids)) for moe, ids in blocks.items())
        )


def step_work(
    model: Model,
    layout: Parallelism,
    batch: Batch,
    precision: Precision,
    kinds: LayerKinds | None = None,
    *,
    fused: bool = True,
    together: bool = False,
) -> StepWork:
    """List the work of one step.

    Parameters
    ----------
    model, layout, precision
        What is served and how.
    batch
        Tokens of the busiest data-parallel rank; several alternatives at once.
    kinds
        The model's layers grouped, if that was done before.
    fused
        Whether engines' usual kernel fusions apply.
    together
        As of `moesim.ops.attention.attention_ops`.

    Returns
    -------
    StepWork
        Rows cover all layers: with pipeline stages, the sum over the stages one token passes.

    Raises
    ------
    ConfigError
        For encoder-decoder models, whose steps moesim does not list.
    """
    if model.encoder_layers:
        raise ConfigError(
            Fault("is an encoder-decoder model: counted, but not predicted", "--model", model.name)
        )
    kinds = kinds or LayerKinds.of(model)
    rows: list[tuple[Op, int]] = []
    messages: list[tuple[Message, int]] = []
    ends = []
    for layer, count in kinds.layers:
        rows += [
            (op, count)
            for op in layer_ops(
                layer, model.hidden, batch, layout.tp, precision, fused=fused, together=together
            )
        ]
        messages += [(message, count) for message in _layer_messages(layer, model.hidden, batch, layout)]
        ends.append((len(rows), len(messages)))
    rows += [(op, 1) for op in _ends(model, batch, layout, precision)]
    messages += _pipeline(model, batch, layout)
    table = OpTable(tuple(rows), tuple(messages), batch.size)
    return StepWork(table, _experts(model, kinds, layout, batch, precision), batch, layout, tuple(ends))


def _layer_messages(layer: Layer, hidden: int, batch: Batch, layout: Parallelism) -> list[Message]:
    """Tensor-parallel reductions; those of routed experts belong to the expert work."""
    if layout.tp == 1:
        return []
    reduce = Message(
        "all_reduce", "all_reduce", layout.tp, layout.tp, batch.tokens * hidden * ACTIVATION_BYTES
    )
    # Behind the attention always; behind the feed-forward block unless routed experts end with their own
    # combine, into which the shared expert's partial sums are added before.
    alone = not isinstance(layer.ffn, MoE) or (layout.dp > 1 and layer.ffn.shared_intermediate > 0)
    found = [reduce, reduce] if alone else [reduce]
    if whole_width_norm(layer.attention):
        # The mean squares of queries and keys, one number each per token.
        sums = Message(
            "qk_norm_reduce", "all_reduce", layout.tp, layout.tp, batch.tokens * 2.0 * NORM_SUM_BYTES
        )
        found.append(sums)
    return found


def _ends(model: Model, batch: Batch, layout: Parallelism, precision: Precision) -> list[Op]:
    """Embedding look-up, last norm, output head and sampling."""
    _, head = model_matrices(model)
    sampled = batch.decode_tokens + batch.prompts
    vocab = model.vocab / layout.tp
    return [
        elementwise("embedding", batch.tokens * model.hidden, flops_each=0.0, tensors=2.0),
        norm("norm", batch.tokens, model.hidden),
        add("add", batch.tokens, model.hidden, launches=0),
        fused_gemm("lm_head", [head], sampled, layout.tp, precision),
        elementwise("sampling", sampled * vocab, flops_each=5.0, tensors=2.0),
    ]


def _pipeline(model: Model, batch: Batch, layout: Parallelism) -> list[tuple[Message, int]]:
    if layout.pp == 1:
        return []
    hop = batch.tokens * model.hidden * ACTIVATION_BYTES / layout.tp
    return [(Message("pipeline_send", "send", 2, layout.stage + 1, hop), layout.pp - 1)]


def _experts(
    model: Model, kinds: LayerKinds, layout: Parallelism, batch: Batch, precision: Precision
) -> tuple[ExpertWork, ...]:
    tokens = batch.all_tokens(layout.dp)
    dtype = precision.weight("expert")
    return tuple(
        ExpertWork(moe, positions, model.hidden, moe.intermediate / layout.moe_tp, dtype, tokens)
        for moe, positions in kinds.blocks
    )
