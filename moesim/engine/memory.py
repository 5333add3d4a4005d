"""What a device's memory holds, and how many sequences fit beside the weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from moesim.engine.routing import Array
from moesim.hardware.types import Hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import CacheShape, bytes_per_param, cache_shape, layer_matrices, model_matrices, params
from moesim.model.types import (
    Compressed,
    GroupedQuery,
    Latent,
    Layer,
    LinearAttention,
    Model,
    MoE,
    StateSpace,
)
from moesim.ops import LayerKinds, Precision
from moesim.ops.layer import local_shape
from moesim.ops.primitives import ACTIVATION_BYTES

#: Fraction of the memory an engine takes (vLLM's ``gpu_memory_utilization``).
UTILISATION = 0.9
#: Context, loaded kernels and captured graphs; engines report 1 to 2 GB. An assumption.
RUNTIME_BYTES = 1.5e9
#: Buffers of the communication library among several devices (aiconfigurator lists 342 to 392 MB for NCCL).
COMMUNICATION_BYTES = 0.4e9
#: Tokens per block of the paged cache (vLLM's default).
BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True, eq=False)
class MemoryUse:
    """Bytes on the fullest device.

    Parameters
    ----------
    weights_bytes
        Weights of the largest pipeline stage.
    workspace_bytes
        Activations of a full prefill chunk, logits, runtime and communication buffers.
    budget_bytes
        What the engine may use of the device.
    capacity_bytes
        What the device has.
    apart_bytes
        What the engine may use of the memory that holds the cache, where that is another; else None.
    """

    weights_bytes: float
    workspace_bytes: float
    budget_bytes: float
    capacity_bytes: float
    apart_bytes: float | None = None

    @property
    def cache_budget_bytes(self) -> float:
        """What is left for the cache; negative when even the weights do not fit."""
        left = self.budget_bytes - self.weights_bytes - self.workspace_bytes
        return left if self.apart_bytes is None or left < 0 else self.apart_bytes


def memory_use(
    model: Model,
    kinds: LayerKinds,
    layout: Parallelism,
    precision: Precision,
    hardware: Hardware,
    *,
    redundant: float = 0,
    chunk_tokens: float = 8192,
    utilisation: float = UTILISATION,
    draft: Model | None = None,
    weights_bytes: float | None = None,
) -> MemoryUse:
    """Bytes on the fullest device before any sequence is cached.

    Parameters
    ----------
    kinds
        The model's layers, grouped.
    redundant
        Physical experts beyond one of each, per layer on average.
    chunk_tokens
        Tokens of a prefill chunk per data-parallel rank.
    utilisation
        Fraction of the memory that may be used.
    draft
        What drafts tokens; it shares embedding and head.
    weights_bytes
        `weights_per_device`, if that is known.
    """
    device = hardware.device
    capacity = device.memory.capacity_bytes
    apart = device.kv_memory is not device.memory
    if weights_bytes is None:
        weights_bytes = weights_per_device(model, layout, precision, redundant, draft)
    return MemoryUse(
        weights_bytes,
        _workspace(model, kinds, layout, chunk_tokens),
        capacity * utilisation,
        capacity,
        device.kv_memory.capacity_bytes * utilisation if apart else None,
    )


def weights_per_device(
    model: Model,
    layout: Parallelism,
    precision: Precision,
    redundant: float = 0,
    draft: Model | None = None,
) -> float:
    """Bytes of weights on the fullest device: the stage that has most, ends and what drafts included."""
    drafting = draft.layers if draft is not None else ()
    each = {
        layer: _layer_bytes(layer, model.hidden, layout, precision, redundant)
        for layer in dict.fromkeys(model.layers)
    }
    layers = [each[layer] for layer in model.layers]
    table = model.vocab * model.hidden / layout.tp
    embedding, head = (table * bytes_per_param(precision.weight(m.module)) for m in model_matrices(model))
    if model.tied_embeddings and layout.pp == 1:
        # The head is the embedding; only on another stage does it need a copy.
        head = 0.0
    count = params(model)
    # Norms and biases are replicated; a vision tower runs on every data-parallel rank, sharded by tp.
    small = 2.0 * count.other / model.num_layers
    edges = stage_edges(len(layers), layout.pp)
    stages = [sum(layers[a:b]) + small * (b - a) for a, b in pairwise(edges)]
    stages[0] += embedding + 2.0 * count.vision / layout.tp
    stages[-1] += head
    return float(
        max(stages) + sum(_layer_bytes(layer, model.hidden, layout, precision, 0) for layer in drafting)
    )


def stage_edges(layers: int, stages: int) -> list[int]:
    """First layer of every pipeline stage, and the number of layers.

    >>> stage_edges(61, 4)
    [0, 15, 30, 46, 61]
    """
    edges: list[int] = np.linspace(0, layers, stages + 1).round().astype(int).tolist()
    return edges


def cache_per_sequence(kinds: LayerKinds, layout: Parallelism, precision: Precision, context: Array) -> Array:
    """Bytes a sequence of `context` tokens keeps on one device, ``[batches]``."""
    return cached_bytes(cached_layers(kinds, layout), precision, context)


def cached_layers(kinds: LayerKinds, layout: Parallelism) -> tuple[tuple[float, CacheShape], ...]:
    """What layers keep for a sequence, each kind with how many of it count on one device."""
    return tuple(
        (count / _cache_shards(layer, layout.tp) / layout.pp, cache_shape(layer.attention))
        for layer, count in kinds.layers
    )


def cached_bytes(layers: tuple[tuple[float, CacheShape], ...], precision: Precision, context: Array) -> Array:
    """Bytes that `layers` keep for a sequence of `context` tokens, ``[batches]``."""
    blocks = np.ceil(np.asarray(context, dtype=np.float64) / BLOCK_TOKENS) * BLOCK_TOKENS
    total = np.zeros_like(blocks)
    for count, shape in layers:
        total = total + count * shape.bytes(blocks, precision.cache_bytes)
    return total


def _cache_shards(layer: Layer, tp: int) -> int:
    """Ranks that a layer's cache is divided over; what every head reads is on all of them."""
    match layer.attention:
        case GroupedQuery(kv_heads=heads):
            return min(tp, heads)
        case Latent() | Compressed():
            return 1
        case LinearAttention() | StateSpace():
            return tp


def _layer_bytes(
    layer: Layer, hidden: int, layout: Parallelism, precision: Precision, redundant: float
) -> float:
    total = 0.0
    for m in layer_matrices(layer, hidden):
        each = bytes_per_param(precision.weight(m.module))
        if m.module == "expert":
            slots = (m.copies + redundant) / layout.ep
            total += m.inputs * m.outputs / layout.moe_tp * slots * each
        else:
            inputs, outputs, copies = local_shape(m, layout.tp)
            total += inputs * outputs * copies * each
    return total


def _workspace(model: Model, kinds: LayerKinds, layout: Parallelism, chunk_tokens: float) -> float:
    """Activations of the widest layer for a full chunk, logits of a decode batch, and fixed buffers."""
    widest = 0.0
    for layer, _ in kinds.layers:
        if isinstance(layer.ffn, MoE):
            pair = 3.0 * layer.ffn.intermediate / layout.moe_tp + 2.0 * model.hidden
            # A rank receives its even part of all ranks' pairs.
            pairs = chunk_tokens * layout.dp * layer.ffn.top_k / layout.ep
            widest = max(widest, pair * min(pairs, chunk_tokens * layer.ffn.top_k))
        else:
            widest = max(widest, 3.0 * layer.ffn.intermediate / layout.tp * chunk_tokens)
    activations = (4.0 * model.hidden * chunk_tokens + widest) * ACTIVATION_BYTES
    logits = 4.0 * 512 * model.vocab / layout.tp
    return activations + logits + RUNTIME_BYTES + (COMMUNICATION_BYTES if layout.world > 1 else 0.0)
