"""Static and dynamic gating of a MoE layer (Towards MoE Deployment, arXiv:2303.06182).

Static gating gives every expert ``C = capacity x S`` rows whatever the load: a mask ``[S, E, C]`` is made and
multiplied with the tokens to dispatch them, and again to combine them. Dynamic gating sorts the tokens by
expert and sends what there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.cost import ExpertShape, all_to_all_seconds, expert_times, op_times
from moesim.hardware.types import Hardware
from moesim.ops.primitives import elementwise, gemm
from moesim.ops.table import Op, OpTable


@dataclass(frozen=True, slots=True)
class GatedLayer:
    """A MoE layer spread over all devices of a node.

    Parameters
    ----------
    tokens
        Per device.
    hidden, width, experts, top_k
        Of the layer.
    capacity
        Rows of each expert over the tokens of a device, under static gating.
    """

    tokens: int
    hidden: int
    width: int
    experts: int
    top_k: int
    capacity: float

    @property
    def shape(self) -> ExpertShape:
        """Of one expert: two matrices in 16 bits."""
        return ExpertShape(self.hidden, self.width, 2, "fp16")


def _seconds(hardware: Hardware, layer: GatedLayer, ops: list[Op], rows: float) -> float:
    """Ops, experts and two exchanges, for so many rows that a device sends."""
    devices = hardware.num_devices
    local = layer.experts // devices
    each = np.full((1, local), rows / local)
    work = float(expert_times(each, layer.shape, hardware.device).seconds[0])
    sent = np.full((1, devices), rows * layer.hidden * 2.0 * (devices - 1) / devices)
    moved = float(np.max(all_to_all_seconds(sent, np.zeros((1, devices)), hardware)))
    table = OpTable(tuple((op, 1) for op in ops), (), 1)
    return work + 2 * moved + float(op_times(table, hardware.device).seconds.sum())


def static_s(layer: GatedLayer, hardware: Hardware, passes: float) -> float:
    """Seconds of a layer under static gating.

    Parameters
    ----------
    passes
        Times that a tensor of the mask's size crosses the memory, in 16 bits, while it is made.
    """
    rows = layer.experts * layer.capacity * layer.tokens
    ops = [
        gemm("router", float(layer.tokens), layer.hidden, layer.experts, "fp16"),
        elementwise("mask", layer.tokens * rows, flops_each=1.0, tensors=passes),
        gemm("dispatch", rows, layer.tokens, layer.hidden, "fp16"),
        gemm("combine", float(layer.tokens), rows, layer.hidden, "fp16"),
    ]
    return _seconds(hardware, layer, ops, rows)


def dynamic_s(layer: GatedLayer, hardware: Hardware) -> float:
    """Seconds of a layer under dynamic gating."""
    rows = float(layer.top_k * layer.tokens)
    ops = [
        gemm("router", float(layer.tokens), layer.hidden, layer.experts, "fp16"),
        elementwise("sort", rows * np.log2(max(rows, 2.0)), flops_each=1.0, tensors=4.0),
        elementwise("gather", rows * layer.hidden, flops_each=0.0, tensors=2.0),
        elementwise("scatter", rows * layer.hidden, flops_each=1.0, tensors=2.0),
    ]
    return _seconds(hardware, layer, ops, rows)
