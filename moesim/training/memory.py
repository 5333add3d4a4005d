"""What training keeps in a device's memory.

Activations are counted tensor by tensor as Korthikanti et al. do (arXiv:2205.05198, section 4): inputs of
matrix products, of norms and of activation functions in 16 bits, dropout masks in 8. With their GPT layer the
sum is their ``34 s b h / t`` (sequence-parallel, attention fused). Experts keep what they received.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    kept = _attention(layer, hidden, keep) * tokens * ACTIVATION_BYTES
    # In 8 bits, products of feed-forward blocks keep the 8-bit copies of what they read.
    size = 1.0 if recipe.precision == "fp8" else ACTIVATION_BYTES
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
            kept += tokens * size * (hidden + width * (matrices if keep else matrices - 1))
        case MoE() as moe:
            if moe.shared_intermediate:
                copies = moe.matrices if keep else moe.matrices - 1
                kept += tokens * size * moe.shared_intermediate * copies
            rows = expert_rows(tokens, moe.num_experts, moe.top_k, layout.ep, layout.expert_tp, recipe)
            inner = moe.intermediate / layout.expert_tp * (moe.matrices if keep else moe.matrices - 1)
            # Input and output of the block's norm, the rows received, and the rows sent back, which weigh.
            kept += size * (tokens * hidden + rows.rows * (hidden + inner))
            kept += ACTIVATION_BYTES * rows.sent * hidden
    return kept


def _attention(layer: Layer, hidden: int, keep: bool) -> float:
    """Elements per token: input of projections, queries, keys, values, input of the output projection.

    Selective recomputation expands latents again (DeepSeek-V3 report, section 3.2.3).
    """
    match layer.attention:
        case GroupedQuery() as a:
            query, value = a.heads * a.qk_dim, a.heads * a.v_dim
            return float(hidden + query + a.kv_heads * (a.qk_dim + a.v_dim) + value)
        case Latent() as a:
            each = a.heads * (a.nope_dim + a.rope_dim)
            latents = (a.q_rank or 0) + a.kv_rank + a.rope_dim
            expanded = 2 * each + a.heads * a.v_dim if keep else 0
            return float(hidden + latents + expanded + a.heads * a.v_dim)
    return 4.0 * hidden


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """A model cut into stages.

    Parameters
    ----------
    kinds
        The model's distinct layers.
    counts
        How many of each a stage has, ``[stages, kinds]``; stages are as even as can be.
    """

    kinds: tuple[Layer, ...]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, model: Model, stages: int) -> Stages:
        """Cut a model.

        >>> from moesim.training.shapes import gpt
        >>> Stages.of(gpt(7, 64, 1, experts=2, every=2), 2).counts.tolist()
        [[2, 2], [2, 1]]
        """
        place: dict[Layer, int] = {}
        index = np.array([place.setdefault(layer, len(place)) for layer in model.layers])
        edges = np.linspace(0, model.num_layers, stages + 1).round().astype(int)
        counts = [np.bincount(index[a:b], minlength=len(place)) for a, b in pairwise(edges)]
        return cls(tuple(place), np.array(counts))

    @property
    def number(self) -> int:
        """Stages."""
        return len(self.counts)


@dataclass(frozen=True, slots=True)
class StageParams:
    """Parameters of one rank: shared with data-parallel ranks, of experts, and of its largest layer."""

    dense: float
    experts: float
    largest: float


def stage_params(model: Model, layout: TrainLayout, stages: Stages, mine: Sequence[int]) -> StageParams:
    """Parameters of the rank that holds some of the stages, embedding and head included."""
    each = np.array([local_params(layer, model.hidden, layout) for layer in stages.kinds])
    counts = stages.counts[mine].sum(axis=0)
    dense, experts = counts @ each
    table = model.vocab * model.hidden / layout.tp
    last = stages.number - 1
    dense += table if 0 in mine else 0.0
    if last in mine:
        dense += model.hidden
        dense += 0.0 if model.tied_embeddings and last == 0 else table
    return StageParams(float(dense), float(experts), float(each.sum(axis=1)[counts > 0].max()))


def rank_memory(
    model: Model,
    layout: TrainLayout,
    recipe: Recipe,
    stages: Stages,
    held: Sequence[int],
    flying: npt.NDArray[np.int64],
    kept: npt.NDArray[np.float64],
) -> TrainMemory:
    """Bytes on the devices of one pipeline rank.

    Parameters
    ----------
    held
        Its stages; of a schedule in two directions those of both.
    flying
        Micro-batches that are held of each when it holds most, ``[held]``.
    kept
        Bytes that a layer of each kind keeps of a micro-batch, ``[kinds]``.
    """
    own = stage_params(model, layout, stages, held)
    dense_ranks = layout.dp * layout.cp
    zero = recipe.zero

    def shared(level: int, bytes_each: float) -> float:
        split = zero >= level
        dense = own.dense / (dense_ranks if split else 1)
        experts = own.experts / (max(1, layout.edp) if split else 1)
        return bytes_each * (dense + experts)

    activations = float(flying @ stages.counts[held] @ kept)
    if recipe.recompute == "full":
        # The layer that is being recomputed is held as a whole.
        once = replace(recipe, recompute="none")
        activations += max(layer_activations(layer, model.hidden, layout, once) for layer in stages.kinds)
    tokens = recipe.micro_batch * recipe.seq / layout.cp
    # Logits in 16 bits, in 32 bits, and their gradient.
    ends = stages.number - 1 in held
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


def stages_of_ranks(schedule: Schedule, stages: int) -> list[list[int]]:
    """Stages of the model on each rank; a schedule in two directions has each twice."""
    places = [np.flatnonzero(schedule.rank_of == rank) for rank in range(len(schedule.order))]
    return [[int(s) % stages for s in mine] for mine in places]


def fullest(
    model: Model, layout: TrainLayout, recipe: Recipe, schedule: Schedule, stages: Stages | None = None
) -> TrainMemory:
    """Bytes on the fullest device of the job.

    Parameters
    ----------
    stages
        The model cut, if that was done before.
    """
    stages = stages or Stages.of(model, model_stages(layout, recipe))
    flying = in_flight(schedule)
    kept = np.array([layer_activations(layer, model.hidden, layout, recipe) for layer in stages.kinds])
    found = [
        rank_memory(model, layout, recipe, stages, held, flying[rank][schedule.rank_of == rank], kept)
        for rank, held in enumerate(stages_of_ranks(schedule, stages.number))
    ]
    return max(found, key=lambda memory: memory.total)


def model_stages(layout: TrainLayout, recipe: Recipe) -> int:
    """Pieces that the model is cut into."""
    return layout.pp * (1 if recipe.schedule == "dualpipe" else layout.vpp)
