"""Static and dynamic gating of a MoE layer (Towards MoE Deployment, arXiv:2303.06182).

Static gating gives every expert ``C = capacity x S`` rows whatever the load: a mask ``[S, E, C]`` is made and
multiplied with the tokens to dispatch them, and again to combine them. Tutel's has the same rows without the
mask. Dynamic gating sorts the tokens by expert and sends what there is, so that the fullest device sets the
pace.

Experts run one after the other, as in fairseq, and the host starts every kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.cost import ExpertShape, all_to_all_seconds, expert_times, op_times
from moesim.hardware.types import Hardware
from moesim.ops.primitives import elementwise, gemm
from moesim.ops.table import Op, OpTable

#: Kernels of an expert: two products and the activation between.
EXPERT_KERNELS = 3


@dataclass(frozen=True, slots=True)
class GatedLayer:
    """A MoE layer spread over all devices of some nodes.

    Parameters
    ----------
    tokens
        Per device.
    hidden, width, experts, top_k
        Of the layer.
    capacity
        Rows of each expert over the tokens of a device, under static gating.
    fullest
        Part of the tokens of a node that its fullest device gets under dynamic gating; None is an even share.
    launch_s
        Host seconds of starting a kernel.
    nodes
        Nodes that experts are spread over.
    nic_bytes_per_s
        Of a node's network, either way.
    """

    tokens: int
    hidden: int
    width: int
    experts: int
    top_k: int
    capacity: float
    fullest: float | None = None
    launch_s: float = 0.0
    nodes: int = 1
    nic_bytes_per_s: float = 12.5e9

    @property
    def shape(self) -> ExpertShape:
        """Of one expert: two matrices in 16 bits."""
        return ExpertShape(self.hidden, self.width, 2, "fp16")

    @property
    def padded_rows(self) -> float:
        """Rows that a device sends under static gating."""
        return self.experts * self.capacity * self.tokens

    @property
    def used_rows(self) -> float:
        """Rows that a device sends under dynamic gating."""
        return float(self.top_k * self.tokens)


def exchange_s(layer: GatedLayer, hardware: Hardware, rows: float) -> float:
    """Seconds of one all-to-all of so many rows per device: inside nodes, then between them."""
    devices = hardware.num_devices
    sent = np.full((1, devices), rows * layer.hidden * 2.0 * (devices - 1) / devices)
    inside = float(np.max(all_to_all_seconds(sent, np.zeros((1, devices)), hardware)))
    leaving = devices * rows * layer.hidden * 2.0 * (layer.nodes - 1) / layer.nodes
    return inside + leaving / layer.nic_bytes_per_s


def _seconds(
    hardware: Hardware, layer: GatedLayer, ops: list[Op], rows: float, worked: float, batched: bool = False
) -> float:
    """Ops, experts and two exchanges.

    Parameters
    ----------
    rows
        That a device sends.
    worked
        That the fullest device works on.
    batched
        Whether one kernel does all experts of a device; else each takes its own.
    """
    local = max(1, layer.experts // (hardware.num_devices * layer.nodes))
    each = np.full((1, local), worked / local)
    work = float(expert_times(each, layer.shape, hardware.device).seconds[0])
    table = OpTable(tuple((op, 1) for op in ops), (), 1)
    busy = work + 2 * exchange_s(layer, hardware, rows)
    busy += float(op_times(table, hardware.device).seconds.sum())
    kernels = EXPERT_KERNELS * (1 if batched else local) + sum(op.launches for op in ops) + 2
    return max(busy, layer.launch_s * kernels)


def static_s(layer: GatedLayer, hardware: Hardware, passes: float) -> float:
    """Seconds of a layer under static gating.

    Parameters
    ----------
    passes
        Times that a tensor of the mask's size crosses the memory, in 16 bits, while it is made.
    """
    rows = layer.padded_rows
    ops = [
        gemm("router", float(layer.tokens), layer.hidden, layer.experts, "fp16"),
        elementwise("mask", layer.tokens * rows, flops_each=1.0, tensors=passes),
        gemm("dispatch", rows, layer.tokens, layer.hidden, "fp16"),
        gemm("combine", float(layer.tokens), rows, layer.hidden, "fp16"),
    ]
    return _seconds(hardware, layer, ops, rows, rows)


def tutel_s(layer: GatedLayer, hardware: Hardware) -> float:
    """Seconds of a layer with padded buffers, filled and emptied without a mask."""
    rows = layer.padded_rows
    ops = [
        gemm("router", float(layer.tokens), layer.hidden, layer.experts, "fp16"),
        elementwise("encode", rows * layer.hidden, flops_each=0.0, tensors=2.0),
        elementwise("decode", layer.used_rows * layer.hidden, flops_each=1.0, tensors=2.0),
    ]
    return _seconds(hardware, layer, ops, rows, rows, batched=True)


def dynamic_s(layer: GatedLayer, hardware: Hardware) -> float:
    """Seconds of a layer under dynamic gating."""
    rows = layer.used_rows
    ops = [
        gemm("router", float(layer.tokens), layer.hidden, layer.experts, "fp16"),
        elementwise("sort", rows * np.log2(max(rows, 2.0)), flops_each=1.0, tensors=4.0),
        elementwise("gather", rows * layer.hidden, flops_each=0.0, tensors=2.0),
        elementwise("scatter", rows * layer.hidden, flops_each=1.0, tensors=2.0),
    ]
    worked = rows if layer.fullest is None else layer.fullest * hardware.num_devices * rows
    return _seconds(hardware, layer, ops, rows, worked)


def activation_bytes(layer: GatedLayer, static: bool) -> float:
    """Bytes of the gate's own tensors and of rows on their way, of one layer.

    Static: the mask in 32 bits as it is made, in 16 as it is used, and as bytes. Either way the rows four
    times, before and after the experts and both exchanges.
    """
    rows = layer.padded_rows if static else layer.used_rows
    mask = layer.tokens * layer.padded_rows * (4.0 + 2.0 + 1.0) if static else 0.0
    return mask + 4.0 * rows * layer.hidden * 2.0
