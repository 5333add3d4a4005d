"""Seconds of all that a step does beside its routed experts, layer by layer, on the device.

What lies between the experts of one MoE layer and the gate of the next is one piece: the sum and the
residual of the first, dense layers between, then the attention, norm and router of the second. Shared experts
wait for nobody and run once the gate is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.cost import op_times
from moesim.hardware.types import Device
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Layer, Model, MoE
from moesim.ops import Batch, Op, OpTable, Precision, step_work
from moesim.ops.layer import layer_ops

Array = npt.NDArray[np.float64]

#: Distinct batches that are timed at once, to bound memory.
_CHUNK = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class Rest:
    """Seconds beside the routed experts.

    Parameters
    ----------
    before
        From the end of the experts before to the gate, of each distinct piece, ``[pieces, steps]``.
    piece
        Piece in front of each MoE layer, int64 ``[layers]``.
    beside
        Shared experts, of each distinct MoE layer, ``[kinds, steps]``.
    kind
        Kind of each MoE layer, int64 ``[layers]``.
    tail
        Behind the last experts: last layers, norm, head, sampling, ``[steps]``.
    """

    before: Array
    piece: npt.NDArray[np.int64]
    beside: Array
    kind: npt.NDArray[np.int64]
    tail: Array


def rest_seconds(
    model: Model,
    device: Device,
    precision: Precision,
    phase: npt.NDArray[np.int8],
    tokens: npt.NDArray[np.int32],
    context: npt.NDArray[np.float32],
    prompts: npt.NDArray[np.int64],
    launch_s: float = 0.0,
) -> Rest:
    """Time every step.

    Parameters
    ----------
    phase, tokens, context
        Of each step, as in `moesim.policy.Steps`, ``[steps]``.
    prompts
        Requests that a prefill step works on, ``[steps]``.
    launch_s
        Seconds in which the host starts one kernel, where nothing hides it; 0 with CUDA graphs.
    """
    pieces, kinds, tail = _pieces(model)
    columns, place = np.unique(
        np.stack([phase, tokens, np.maximum(context, 1.0), prompts]).astype(np.float64),
        axis=1,
        return_inverse=True,
    )
    place = place.reshape(-1)
    parts: list[dict[Layer | None, tuple[Array, Array, Array]]] = []
    for first in range(0, columns.shape[1], _CHUNK):
        batch = _batch(*columns[:, first : first + _CHUNK])
        found: dict[Layer | None, tuple[Array, Array, Array]] = {
            layer: _layer(layer, model, device, precision, batch, launch_s) for layer in set(model.layers)
        }
        ends = step_work(replace(model, layers=()), Parallelism(), batch, precision).table
        zero = np.zeros(batch.size)
        parts.append({**found, None: (zero, zero, _seconds(ends.ops, device, batch.size, launch_s))})
    whole = {
        key: tuple(np.concatenate([part[key][i] for part in parts]) for i in range(3)) for key in parts[0]
    }

    def total(piece: tuple[tuple[Layer | None, int], ...]) -> Array:
        return np.asarray(sum(whole[layer][i] for layer, i in piece))[place]

    distinct = list(dict.fromkeys(pieces))
    shared = list(dict.fromkeys(kinds))
    return Rest(
        np.stack([total(piece) for piece in distinct]),
        np.array([distinct.index(piece) for piece in pieces], np.int64),
        np.stack([whole[kind][1][place] for kind in shared]),
        np.array([shared.index(kind) for kind in kinds], np.int64),
        total(tail),
    )


_Piece = tuple[tuple[Layer | None, int], ...]


def _pieces(model: Model) -> tuple[list[_Piece], list[Layer], _Piece]:
    """Parts in front of each MoE layer, the MoE layers, and the parts behind the last.

    A part is a layer and 0 up to its gate, 1 shared experts, 2 behind the routed experts.
    """
    pieces: list[_Piece] = []
    kinds: list[Layer] = []
    run: list[tuple[Layer | None, int]] = []
    for layer in model.layers:
        run.append((layer, 0))
        if isinstance(layer.ffn, MoE):
            pieces.append(tuple(run))
            kinds.append(layer)
            run = [(layer, 2)]
    return pieces, kinds, (*run, (None, 2))


def _batch(phase: Array, tokens: Array, context: Array, prompts: Array) -> Batch:
    """Steps as batches; a chunk of n tokens with a mean context c lies behind c - (n + 1) / 2 cached ones."""
    decode = phase == 1
    prompts = np.maximum(prompts, 1.0)
    chunk = tokens / prompts
    return Batch.of(
        sequences=np.where(decode, tokens, 0.0),
        context=np.where(decode, context, 0.0),
        prompts=np.where(decode, 0.0, prompts),
        chunk=np.where(decode, 0.0, chunk),
        past=np.where(decode, 0.0, np.maximum(context - (chunk + 1.0) / 2.0, 0.0)),
    )


def _layer(
    layer: Layer, model: Model, device: Device, precision: Precision, batch: Batch, launch_s: float
) -> tuple[Array, Array, Array]:
    ops = list(layer_ops(layer, model.hidden, batch, 1, precision))
    if not isinstance(layer.ffn, MoE):
        zero = np.zeros(batch.size)
        return _seconds(((op, 1) for op in ops), device, batch.size, launch_s), zero, zero
    # The last addition is the residual's, behind the experts; those before it are in front of the gate.
    behind = [op for op in ops[:-1] if op.name == "weighted_sum"] + ops[-1:]
    shared = [op for op in ops if op.name.startswith("shared_")]
    front = [op for op in ops if not any(op is other for other in (*behind, *shared))]
    first, beside, last = (
        _seconds(((op, 1) for op in part), device, batch.size, launch_s) for part in (front, shared, behind)
    )
    return first, beside, last


def _seconds(ops: Iterable[tuple[Op, int]], device: Device, batches: int, launch_s: float) -> Array:
    rows = tuple(ops)
    if not rows:
        return np.zeros(batches)
    table = OpTable(rows, (), batches)
    seconds = np.asarray((table.counts * op_times(table, device).seconds).sum(axis=0))
    started = sum(max(op.launches, op.name.startswith("shared_")) * count for op, count in rows)
    return np.asarray(np.maximum(seconds, launch_s * started))
