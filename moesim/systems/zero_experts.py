"""A MoE layer with zero-computation experts (MoE++, arXiv:2410.07348), op by op as in its released code.

``moe_plus_plus_layer.py`` of SkyworkAI/MoE-plus-plus: the router works in plain 32 bits and has two layers,
of 8 E and E columns; every expert, whatever it computes, is found by a comparison of all choices, waits for
the host to learn how many tokens it has, gathers them, scales them and adds them to the output. So only the
products of the experts follow the tokens that reach them; the rest is there for every token and every expert.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.cost import op_times
from moesim.engine.eager import LAUNCH_S
from moesim.hardware.types import Device
from moesim.ops.primitives import elementwise, gemm, softmax
from moesim.ops.table import Op, OpTable

TOP_K = 2
#: Columns of the router's first layer per expert.
ROUTER_WIDTH = 8


@dataclass(frozen=True, slots=True)
class ZeroLayer:
    """A top-2 layer, in 16 bits.

    Parameters
    ----------
    hidden, width
        Of an expert with weights: three matrices.
    experts
        With weights.
    constants, copies, zeros
        Experts that mix in a learnt vector, return their input, return nothing.
    tau
        Share of an expert with weights over that of one without, in a balanced batch.
    """

    hidden: int
    width: int
    experts: int
    constants: int = 0
    copies: int = 0
    zeros: int = 0
    tau: float = 1.0

    @property
    def without(self) -> int:
        """Experts without weights."""
        return self.constants + self.copies + self.zeros

    @property
    def rho(self) -> float:
        """Part of the choices that reach an expert with weights: ``tau N_F / (tau N_F + N_Z)``.

        >>> ZeroLayer(768, 2048, 16, 2, 1, 1).rho
        0.8
        """
        return self.tau * self.experts / (self.tau * self.experts + self.without)


def ops_of(layer: ZeroLayer, tokens: float) -> list[tuple[Op, int]]:
    """Ops of a layer and how often they run."""
    hidden, every = layer.hidden, layer.experts + layer.without
    pairs = TOP_K * tokens
    columns = float(ROUTER_WIDTH * every)
    rows = layer.rho * pairs / layer.experts
    other = (1.0 - layer.rho) * pairs / max(layer.without, 1)
    found: list[tuple[Op, int]] = [
        # To 32 bits, and read again; products outside of tensor cores.
        (elementwise("router", tokens * hidden, flops_each=2.0 * columns, tensors=5.0), 1),
        (elementwise("router_2", tokens * columns, flops_each=2.0 * every, tensors=6.0), 1),
        (softmax("softmax", 2.0 * tokens * every), 1),
        (elementwise("top_k", 2.0 * tokens * every, flops_each=4.0, tensors=2.0, launches=5), 1),
        # Choices are 64-bit numbers; a byte each is written and read twice.
        (elementwise("find", pairs, flops_each=1.0, tensors=5.5, launches=4), every),
        (elementwise("output", tokens * hidden, flops_each=0.0, tensors=1.0), 1),
        (elementwise("double", tokens * hidden, flops_each=1.0, tensors=2.0), 1),
    ]
    for name, each, count in (("expert", rows, layer.experts), ("other", other, layer.without)):
        if count:
            found += [
                (elementwise(f"{name}_gather", each * hidden, flops_each=0.0, tensors=2.0), count),
                (elementwise(f"{name}_scale", each * hidden, flops_each=1.0, tensors=2.0), count),
                (elementwise(f"{name}_add", each * hidden, flops_each=1.0, tensors=3.0), count),
            ]
    found += [
        (gemm("gate", rows, hidden, layer.width), layer.experts),
        (gemm("up", rows, hidden, layer.width), layer.experts),
        (elementwise("silu_mul", rows * layer.width, flops_each=6.0, tensors=5.0, launches=2), layer.experts),
        (gemm("down", rows, layer.width, hidden), layer.experts),
    ]
    if layer.constants:
        found.append(
            (
                elementwise("constant", other * hidden, flops_each=7.0, tensors=7.0, launches=5),
                layer.constants,
            )
        )
    if layer.zeros:
        found.append((elementwise("zero", other * hidden, flops_each=0.0, tensors=1.0), layer.zeros))
    return found


def layer_s(layer: ZeroLayer, tokens: float, device: Device, launch_s: float = LAUNCH_S) -> float:
    """Seconds of a layer; the device is idle while the host learns the tokens of each expert.

    Parameters
    ----------
    tokens
        Of the batch.
    launch_s
        Host seconds from a result to the next kernel.
    """
    table = OpTable(tuple(ops_of(layer, tokens)), (), 1)
    times = op_times(table, device).seconds
    return float((times * table.counts).sum()) + launch_s * (layer.experts + layer.without)


def tokens_of(layer: ZeroLayer, seconds: float, device: Device, launch_s: float = LAUNCH_S) -> float:
    """Tokens with which a layer takes so long: bisection, as time grows with tokens."""
    low, high = 1.0, 2.0
    while layer_s(layer, high, device, launch_s) < seconds:
        high *= 2.0
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if layer_s(layer, middle, device, launch_s) < seconds else (low, middle)
    return (low + high) / 2.0
