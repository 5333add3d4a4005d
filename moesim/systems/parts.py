"""Seconds of the parts of a step on a box with one accelerator and its host."""

from __future__ import annotations

import functools
from collections.abc import Callable

from moesim.cost import op_times
from moesim.hardware.types import Device
from moesim.layout import Parallelism
from moesim.model.types import Model, MoE
from moesim.ops import Batch, Precision, step_work
from moesim.ops.table import Op, OpTable

#: What a kernel without work takes in a CUDA graph: the floor of elementwise kernels in hardware/efficiency.
KERNEL_S = 2.5e-6


@functools.lru_cache(maxsize=256)
def _table(model: Model, batch: tuple[str, float, float], dtype: str) -> OpTable:
    kind, tokens, context = batch
    made = Batch.decode(tokens, context) if kind == "decode" else Batch.prefill(1, tokens)
    return step_work(model, Parallelism(), made, Precision.of(model, dtype), fused=False).table


def device_s(
    model: Model,
    device: Device,
    batch: tuple[str, float, float],
    dtype: str = "bf16",
    keep: Callable[[Op], bool] = lambda _: True,
) -> float:
    """Seconds of a step on one device, everything but routed experts.

    Parameters
    ----------
    model, device
        What runs, on what.
    batch
        ``("decode", sequences, context)`` or ``("prefill", tokens, 0)``.
    dtype
        Of the weights.
    keep
        Which ops count.
    """
    table = _table(model, batch, dtype)
    times = op_times(table, device).seconds
    return float(
        sum(count * seconds.max() for (op, count), seconds in zip(table.ops, times, strict=True) if keep(op))
    )


def expert_params(model: Model) -> float:
    """Parameters of one routed expert."""
    moe = moe_of(model)
    return float(moe.matrices * model.hidden * moe.intermediate)


def moe_of(model: Model) -> MoE:
    """The MoE block of a model whose MoE layers are all alike."""
    return next(layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE))


def moe_layers(model: Model) -> int:
    """MoE layers of the decoder."""
    return len(model.moe_layer_ids)
