"""What training keeps in a device's memory.

Activations are counted tensor by tensor as Korthikanti et al. do (arXiv:2205.05198, section 4): inputs of
matrix products, of norms and of activation functions in 16 bits, dropout masks in 8. With their GPT layer the
sum is their ``34 s b h / t`` (sequence-parallel, attention fused). Experts keep what they received.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from moesim.model import Layer, Model, MoE
from moesim.model.types import Dense, GroupedQuery, Latent
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.training.experts import expert_rows
from moesim.training.layout import TrainLayout
from moesim.training.pipeline import in_flight
from moesim.training.recipe import Recipe
from moesim.training.schedule import Schedule
from moesim.training.work import local_params

#: Context, kernels and library buffers of a training process. An assumption: 2 to 5 GB are usual.
RUNTIME_BYTES = 3.0e9


@dataclass(frozen=True, slots=True)
class TrainMemory:
    """Bytes on the fullest device.

    Parameters
    ----------
    weights, gradients, states
        In the recipe's data types, after sharding.
    activations
        Of the micro-batches in flight, where most are held.
    logits
        Of the last stage.
    buffers
        Parameters gathered for use, and the runtime.
    """

    weights: float
    gradients: float
    states: float
    activations: float
    logits: float
    buffers: float

    @property
    def total(self) -> float:
        """All parts."""
        return float(sum(getattr(self, f.name) for f in fields(self)))

    def parts(self) -> dict[str, float]:
        """Bytes by part, in order."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}


def layer_activations(layer: Layer, hidden: int, layout: TrainLayout, recipe: Recipe) -> float:
    """Bytes that one layer keeps of one micro-batch on one rank.

    Examples
    --------
    A GPT layer with dropout keeps 34 bytes per token and unit of width:

    >>> from moesim.training.shapes import gpt
    >>> s, h = 2048, 1024
    >>> recipe = Recipe(1, s, dropout=True)
    >>> layer_activations(gpt(1, h, 16).layers[0], h, TrainLayout(), recipe) / (s * h)
    34.0
    """
    tokens = recipe.micro_batch * recipe.seq / (layout.cp * layout.tp)
    if recipe.recompute == "full":
        return tokens * hidden * ACTIVATION_BYTES
    keep = recipe.recompute == "none"
    kept = _attention(layer, hidden) * tokens * ACTIVATION_BYTES
    # Inputs of both norms; selective recomputation makes their outputs again.
    kept += 2.0 * tokens * hidden * ACTIVATION_BYTES
    kept -= 0.0 if keep else 2.0 * tokens * hidden * ACTIVATION_BYTES
    kept += 2.0 * tokens * hidden if recipe.dropout else 0.0
    if not recipe.fused and keep:
        # Scores before and behind dropout, and its mask: their 5 a s^2 b.
        heads = getattr(layer.attention, "heads", 0)
        kept += tokens * recipe.seq * heads * (5.0 if recipe.dropout else 2.0)
    match layer.ffn:
        case Dense(intermediate=width, matrices=matrices):
            kept += tokens * ACTIVATION_BYTES * (hidden + width * (matrices if keep else matrices - 1))
        case MoE() as moe:
            if moe.shared_intermediate:
                copies = moe.matrices if keep else moe.matrices - 1
                kept += tokens * ACTIVATION_BYTES * moe.shared_intermediate * copies
            rows = expert_rows(tokens, moe.num_experts, moe.top_k, layout.ep, layout.expert_tp, recipe)
            inner = moe.intermediate / layout.expert_tp * (moe.matrices if keep else moe.matrices - 1)
            # Input and output of the block's norm, the rows received, and the rows sent back, which weigh.
            kept += ACTIVATION_BYTES * (tokens * hidden + rows.rows * (hidden + inner) + rows.sent * hidden)
    return kept


def _attention(layer: Layer, hidden: int) -> float:
    """Elements per token: input of projections, queries, keys, values, input of the output projection."""
    match layer.attention:
        case GroupedQuery() as a:
            query, value = a.heads * a.qk_dim, a.heads * a.v_dim
            return float(hidden + query + a.kv_heads * (a.qk_dim + a.v_dim) + value)
        case Latent() as a:
            each = a.heads * (a.nope_dim + a.rope_dim)
            latents = (a.q_rank or 0) + a.kv_rank + a.rope_dim
            return float(hidden + latents + 2 * each + 2 * a.heads * a.v_dim)
    return 4.0 * hidden


def stage_bounds(model: Model, stages: int) -> list[tuple[int, int]]:
    """First layer of each stage and the one behind its last; as even as can be."""
    edges = np.linspace(0, model.num_layers, stages + 1).round().astype(int).tolist()
    return list(pairwise(edges))


@dataclass(frozen=True, slots=True)
class StageParams:
    """Parameters of one rank: shared with data-parallel ranks, of experts, and of its largest layer."""

    dense: float
    experts: float
    largest: float


def stage_params(model: Model, layout: TrainLayout, stages: int, rank_stages: list[int]) -> StageParams:
    """Parameters of the rank that holds so many of `stages` stages, embedding and head included."""
    bounds = stage_bounds(model, stages)
    each = {layer: local_params(layer, model.hidden, layout) for layer, _ in model.distinct_layers()}
    dense, experts, largest = 0.0, 0.0, 0.0
    table = model.vocab * model.hidden / layout.tp
    for stage in rank_stages:
        low, high = bounds[stage]
        for layer in model.layers[low:high]:
            d, e = each[layer]
            dense, experts, largest = dense + d, experts + e, max(largest, d + e)
        dense += table if stage == 0 else 0.0
        if stage == stages - 1:
            dense += model.hidden
            dense += 0.0 if model.tied_embeddings and stages == 1 else table
    return StageParams(dense, experts, largest)


def rank_memory(
    model: Model,
    layout: TrainLayout,
    recipe: Recipe,
    schedule: Schedule,
    rank: int,
    flying: npt.NDArray[np.int64],
) -> TrainMemory:
    """Bytes on the devices of one pipeline rank that holds so many micro-batches, ``[stages]``, at most."""
    twice = schedule.stages == 2 * layout.pp and recipe.schedule == "dualpipe"
    stages = layout.pp if twice else schedule.stages
    mine = [int(s) for s in np.flatnonzero(schedule.rank_of == rank)]
    layer_stages = [s % stages for s in mine]
    own = stage_params(model, layout, stages, layer_stages)
    dense_ranks = layout.dp * layout.cp
    zero = recipe.zero

    def shared(level: int, bytes_each: float) -> float:
        split = zero >= level
        dense = own.dense / (dense_ranks if split else 1)
        experts = own.experts / (max(1, layout.edp) if split else 1)
        return bytes_each * (dense + experts)

    bounds = stage_bounds(model, stages)
    activations: float = 0.0
    each = {
        layer: layer_activations(layer, model.hidden, layout, recipe) for layer, _ in model.distinct_layers()
    }
    for stage in mine:
        low, high = bounds[stage % stages]
        activations += float(flying[stage]) * sum(each[layer] for layer in model.layers[low:high])
    if recipe.recompute == "full":
        # The layer that is being recomputed is held as a whole.
        once = replace(recipe, recompute="none")
        activations += max(layer_activations(layer, model.hidden, layout, once) for layer in each)
    ends = any(s % stages == stages - 1 for s in mine)
    tokens = recipe.micro_batch * recipe.seq / layout.cp
    # Logits in 16 bits, in 32 bits, and their gradient.
    logits = tokens * model.vocab / layout.tp * (2.0 + 4.0 + 4.0) if ends else 0.0
    buffers = RUNTIME_BYTES
    if zero == 3:
        # Two layers are whole at a time, gradients of one.
        buffers += own.largest * (2 * ACTIVATION_BYTES + recipe.gradient_bytes)
    return TrainMemory(
        shared(3, ACTIVATION_BYTES),
        shared(2, recipe.gradient_bytes),
        shared(1, recipe.state_bytes),
        activations,
        logits,
        buffers,
    )


def fullest(model: Model, layout: TrainLayout, recipe: Recipe, schedule: Schedule) -> TrainMemory:
    """Bytes on the fullest device of the job."""
    flying = in_flight(schedule)
    return max(
        (rank_memory(model, layout, recipe, schedule, rank, flying[rank]) for rank in range(layout.pp)),
        key=lambda memory: memory.total,
    )
