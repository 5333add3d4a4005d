"""Tutel and what it is compared with: fairseq's MoE layer, whose dispatch is a dense product with a mask.

fairseq's top-2 gate makes masks of ``[tokens, experts, slots]``; with ``slots = k f tokens / experts``
these have ``k f tokens**2`` entries whatever the number of experts. Tokens reach their slots by a product
with the mask, and come back by another: two products forward and three backward (the mask of the way out
has no gradient). Tutel moves rows instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from moesim.cost import op_times
from moesim.fabric import all_to_all
from moesim.hardware.types import Hardware
from moesim.model.dtypes import bytes_per_param
from moesim.ops.primitives import elementwise, gemm
from moesim.ops.table import Op, OpTable
from moesim.overlap import DEGREES, LayerSeconds, backward, layer_seconds

#: Bytes of passes over a mask's entry, by fairseq's top2gate.py and moe_layer.py: two weighted masks in 32
#: bits are written (8), read and added (8 + 4), compared (4 + 1), cast to 16 bits (1 + 2, 4 + 2) and read
#: by the products (2 + 2); backward, products read and write them in 16 bits (2 + 2 + 2), the gradient is
#: cast (2 + 4) and goes back through both masks (8 + 8).
MASK_TRAFFIC_BYTES = {"forward": 38.0, "backward": 28.0}
#: Bytes of a mask's entry that are alive at once: three masks in 32 bits, one of booleans, two in 16 bits,
#: and the gradient in 16 and 32 bits.
MASK_BYTES = 4.0 * 3 + 1.0 + 2.0 * 2 + 2.0 + 4.0
#: Vectors of 16 bits per token that a layer keeps: in and out, and for each of k experts two on either side
#: of each exchange, and the inner one before and after its activation.
VECTORS, VECTORS_PER_EXPERT = 2, 6
#: Rows of the smallest matrix product of an A100's tensor cores (mma.m16n8k16).
TILE_ROWS = 16


@dataclass(frozen=True, slots=True)
class Layer:
    """A MoE layer of which every device holds some experts.

    Parameters
    ----------
    tokens
        On a device.
    hidden, width
        Outer and inner width.
    experts
        On a device.
    top_k
        Experts per token.
    factor
        Capacity factor.
    dtype
        Of weights and activations.
    """

    tokens: int
    hidden: int
    width: int
    experts: int
    top_k: int
    factor: float = 1.0
    dtype: str = "fp16"

    @property
    def rows(self) -> float:
        """Rows that a device sends, and works on."""
        return self.top_k * self.factor * self.tokens

    @property
    def sent_bytes(self) -> float:
        """Of one exchange."""
        return bytes_per_param(self.dtype) * self.rows * self.hidden

    @property
    def mask_entries(self) -> float:
        """Entries of a mask of tokens, experts and slots."""
        return self.tokens * self.rows


class Options(NamedTuple):
    """What of Tutel is used; all off is fairseq.

    Parameters
    ----------
    kernels
        Rows are moved instead of multiplied with a mask.
    hierarchical
        Two-level all-to-all where it is faster.
    flexible
        Rows from all devices make one product per expert, not one per device and expert.
    pipelined
        The best of `DEGREES` chunks, not one.
    """

    kernels: bool = True
    hierarchical: bool = True
    flexible: bool = True
    pipelined: bool = True


FAIRSEQ = Options(False, False, False, False)
TUTEL = Options()


def seconds_of(hardware: Hardware, ops: list[Op]) -> float:
    """Seconds of operations one after the other on one device."""
    table = OpTable(tuple((op, 1) for op in ops), (), 1)
    return float(op_times(table, hardware.device).seconds.sum())


def ordering_seconds(layer: Layer, hardware: Hardware, kernels: bool) -> tuple[float, float]:
    """Seconds to put tokens in slots and back: forward, and backward."""
    if kernels:
        moved = (layer.tokens + layer.rows) * layer.hidden
        ops = [elementwise(name, moved, flops_each=1.0, tensors=1.0) for name in ("encode", "decode")]
        return seconds_of(hardware, ops), seconds_of(hardware, ops)
    product = gemm("mask", layer.rows, layer.tokens, layer.hidden, layer.dtype)
    parts = []
    for direction, products in (("forward", 2), ("backward", 3)):
        mask = elementwise(
            "gate", layer.mask_entries, flops_each=4.0, tensors=MASK_TRAFFIC_BYTES[direction] / 2.0
        )
        parts.append(seconds_of(hardware, [product] * products + [mask]))
    return parts[0], parts[1]


def expert_seconds(layer: Layer, hardware: Hardware, devices: int, flexible: bool) -> float:
    """Seconds of a device's experts, forward."""
    slots = layer.rows / (layer.experts * devices)
    padded = 1.0 if flexible else float(np.ceil(slots / TILE_ROWS) * TILE_ROWS / slots)
    rows = padded * layer.rows / layer.experts
    one = [
        gemm("up", rows, layer.hidden, layer.width, layer.dtype),
        elementwise("activation", rows * layer.width, flops_each=8.0, tensors=2.0),
        gemm("down", rows, layer.width, layer.hidden, layer.dtype),
    ]
    return layer.experts * seconds_of(hardware, one)


def tutel_seconds(
    layer: Layer,
    hardware: Hardware,
    options: Options = TUTEL,
    *,
    message_s: float | None = None,
    efficiency: float | None = None,
    training: bool = True,
) -> float:
    """Seconds of a layer, forward and (where training) backward, on all devices of the hardware.

    Parameters
    ----------
    layer, hardware
        What runs, on what.
    options
        What of Tutel is used.
    message_s
        What each message over the network costs its sender.
    efficiency
        Part of the network's rate that an all-to-all reaches; the link's own if None.
    training
        Whether the backward pass counts.
    """
    devices, network = hardware.num_devices, hardware.scale_out
    if efficiency is not None and network is not None:
        hardware = replace(hardware, scale_out=replace(network, efficiency=efficiency))

    def exchange(bytes_: float) -> float:
        flat = float(all_to_all(hardware, devices, bytes_, "flat", message_s=message_s))
        if not options.hierarchical:
            return flat
        return min(flat, float(all_to_all(hardware, devices, bytes_, "two_level", message_s=message_s)))

    there, back = ordering_seconds(layer, hardware, options.kernels)
    gate = seconds_of(
        hardware, [gemm("gate", layer.tokens, layer.hidden, layer.experts * devices, layer.dtype)]
    )
    # What an exchange of next to nothing takes is what every chunk pays again.
    start = exchange(1.0)
    whole = exchange(layer.sent_bytes)
    forward = LayerSeconds(
        dispatch=whole,
        combine=whole,
        experts=expert_seconds(layer, hardware, devices, options.flexible),
        before=gate,
        dispatch_startup=start,
        combine_startup=start,
    )
    degrees = DEGREES if options.pipelined else (1,)
    total = there + float(layer_seconds(forward, "tutel", degrees).seconds)
    if training:
        total += back + float(layer_seconds(backward(forward), "tutel", degrees).seconds)
    return total


def layer_bytes(layer: Layer, kernels: bool) -> float:
    """Bytes of memory that grow with the tokens: activations, and masks where there are any.

    >>> layer = Layer(16384, 4096, 4096, 2, 2)
    >>> [round(layer_bytes(layer, kernels) / 2**30, 1) for kernels in (True, False)]
    [1.8, 13.2]
    """
    vectors = VECTORS + VECTORS_PER_EXPERT * layer.top_k
    activations = 2.0 * vectors * layer.tokens * layer.hidden
    return activations + (0.0 if kernels else MASK_BYTES * layer.mask_entries)
