"""Kernels of engines of early 2025 on Hopper: block-scaled fp8 products and latent attention in Triton.

SGLang up to April 2025 ran DeepSeek-V3's products through Triton 3.1 (torch 2.5.1), without split K. A block
of 64 x 128 outputs walks along the inputs in steps of 128; every started tile costs the same, full or not:

    t = floor + inputs / 128 * step + tiles * (2 * 64 * 128 * inputs) / rate

`OLD` is fitted on the tables of sgl-project/sglang pull request 3893 (H200, February 2025), `NEW` on those
of 5207 and 5820 (April 2025, Triton 3.2), by benchmarks/systems/triton_fp8.py: median errors on rows left out
5 % and 12 %. The rate doubled. Experts are the same product over groups. Today's table of them is known, so
that the old one is today's and the difference of the two laws of tiles.

Decoding read the latent cache once for every 16 heads, with the slope of FlagGems pull request 510 (Triton
kernel on H800, 2175 to 32895 tokens: 1.63 to 1.69 TB/s), in 8 splits whose partial results cross the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from moesim.cost import Choice, ExpertShape, Rates, expert_times, op_times
from moesim.hardware.curves import Axis, Surface, Surfaces
from moesim.hardware.types import Device, Hardware
from moesim.ops.primitives import gemm
from moesim.ops.table import Op, OpTable, Shape

Array = npt.NDArray[np.float64]
#: A tile of outputs, and inputs of a step: default block of ``w8a8_block_fp8_matmul``.
TILE_ROWS, TILE_OUTPUTS, STEP_INPUTS = 64, 128, 128
#: A product without work: the floor of the GEMMs of hardware/kernels/h200-sxm.json.
FLOOR_S = 3.0e-6


@dataclass(frozen=True, slots=True)
class TileLaw:
    """Seconds of one step along the inputs, and FLOP/s of all tiles together."""

    step_s: float
    flops_per_s: float

    def latency_s(self, inputs: float) -> float:
        """Of a product along `inputs` without work: what a second product takes longer than one wider."""
        return FLOOR_S + inputs / STEP_INPUTS * self.step_s

    def seconds(self, rows: Array | float, outputs: Array | float, inputs: Array | float) -> Array:
        """Of a product ``[rows, inputs] x [inputs, outputs]``.

        >>> float(OLD.seconds(4.0, 512.0, 7168.0)) == float(OLD.seconds(64.0, 512.0, 7168.0))
        True
        """
        tiles = np.ceil(np.asarray(rows) / TILE_ROWS) * np.ceil(np.asarray(outputs) / TILE_OUTPUTS)
        flops = 2.0 * tiles * TILE_ROWS * TILE_OUTPUTS * np.asarray(inputs)
        return np.asarray(FLOOR_S + np.asarray(inputs) / STEP_INPUTS * self.step_s + flops / self.flops_per_s)


#: By benchmarks/systems/triton_fp8.py.
OLD = TileLaw(0.343e-6, 331e12)
NEW = TileLaw(0.491e-6, 681e12)
#: Decoding: bytes/s of cache that blocks of 16 heads read, splits of a sequence, and the two kernels without
#: work (one sequence of 511 tokens: 17 us, SGLang's Triton kernel in the L40S table of aiconfigurator).
CACHE_BYTES_PER_S = 1.65e12
HEADS_TOGETHER, SPLITS, DECODE_FLOOR_S = 16, 8, 17e-6
#: Share of the bandwidth that plain copies reach: as of elementwise kernels in hardware/efficiency.
COPY_SHARE = 0.8
_LATENT, _ROPE = 512, 64
_BACKEND = "sglang"


def decode_s(sequences: Array | float, context: Array | float, heads: Array | float, device: Device) -> Array:
    """Seconds of latent attention of one layer, one new token of each sequence."""
    blocks = np.ceil(np.asarray(heads) / HEADS_TOGETHER)
    cache = np.asarray(sequences) * np.asarray(context) * blocks * (_LATENT + _ROPE) * 2.0
    # Partial results in 32 bits, written and read.
    partial = np.asarray(sequences) * np.asarray(heads) * SPLITS * _LATENT * 4.0 * 2.0
    copies = COPY_SHARE * device.processor.bandwidth_bytes_per_s[device.memory.name]
    return np.asarray(DECODE_FLOOR_S + cache / CACHE_BYTES_PER_S + partial / copies)


def _axis(low: float, high: float) -> Axis:
    return Axis(low, 1.0, round(high - low) + 1)


def _surface(
    kernel: str,
    dtype: str,
    axes: tuple[Axis, ...],
    device: Device,
    op_of: Callable[..., Op],
    seconds_of: Callable[..., Array],
) -> Surface:
    """The surface on which `op_times` gives `seconds_of` at every knot."""
    knots = [2.0 ** (axis.low + axis.step * np.arange(axis.knots)) for axis in axes]
    sizes = np.array(list(product(*knots))).T
    count = sizes.shape[1]
    flat = Surface(
        kernel,
        dtype,
        _BACKEND,
        "triton-3.1",
        0.0,
        float("inf"),
        tuple(replace(axis, knots=1) for axis in axes),
        (0.0,),
    )
    bare = _with(device, {(kernel, dtype, _BACKEND): flat})
    table = OpTable(((op_of(*sizes), 1),), (), count)
    choice = Choice(backend=_BACKEND, block_scaled=dtype == "fp8_block")
    roof = op_times(table, bare, Rates.of(table, bare, choice)).seconds[0]
    values = np.log(seconds_of(*sizes) / roof)
    return replace(flat, axes=axes, values=tuple(float(v) for v in values))


def _with(device: Device, kernels: Surfaces) -> Device:
    return replace(device, processors=(replace(device.processor, kernels=kernels), *device.processors[1:]))


def _latent_op(sequences: Array, context: Array, heads: Array) -> Op:
    """As `moesim.ops` describes latent attention while decoding."""
    pairs = sequences * context
    return Op(
        "attention",
        "attention_decode",
        "bf16",
        flops=2.0 * pairs * heads * (2 * _LATENT + _ROPE),
        activation_bytes=sequences * heads * (2 * _LATENT + _ROPE) * 2.0,
        cache_bytes=pairs * (_LATENT + _ROPE) * 2.0,
        shape=Shape("mla_decode", (sequences, context, heads)),
    )


def grouped_extra_s(tokens: Array, flops_per_pair: float) -> Array:
    """Seconds that grouped products took longer under `OLD` than under `NEW`.

    Parameters
    ----------
    tokens
        Of each expert, ``[..., experts]``; the last tile of each is half full on average.
    flops_per_pair
        Of one token in one expert.
    """
    tiles = np.where(tokens > 0, np.maximum(1.0, tokens / TILE_ROWS + 0.5), 0.0).sum(axis=-1)
    each = TILE_ROWS * flops_per_pair
    return np.asarray(tiles * each * (1.0 / OLD.flops_per_s - 1.0 / NEW.flops_per_s))


def _slower(surface: Surface, device: Device, hidden: int = 7168) -> Surface:
    """The surface of experts with what Triton 3.1 took longer."""
    knots = [2.0 ** (axis.low + axis.step * np.arange(axis.knots)) for axis in surface.axes]
    shared = surface.kernel == "experts_ep"
    choice = Choice(backend=surface.backend, block_scaled=True)
    values = []
    points = product(*knots)
    for (each, hit, width), value in zip(points, surface.values, strict=True):
        shape = ExpertShape(hidden, width, 3, "fp8")
        # A part of an expert hit stands for a rank that has one only now and then.
        count = max(1, round(hit))
        tokens = np.full((1, count), each)
        today = float(expert_times(tokens, shape, device, choice, shared=shared).seconds[0])
        extra = float(grouped_extra_s(tokens, shape.flops_per_pair)[0])
        values.append(value + float(np.log1p(extra / today)))
    return replace(surface, version="triton-3.1", values=tuple(values))


def with_old_kernels(hardware: Hardware) -> Hardware:
    """The machine as Triton 3.1 used it for block-scaled fp8; for Hopper alone, where it was measured."""
    device = hardware.device
    kernels: Mapping[tuple[str, str, str], Surface] = device.processor.kernels
    kept = {
        key: surface
        for key, surface in kernels.items()
        if not (key[0] == "gemm" and key[1] in ("fp8", "fp8_block")) and key[0] != "mla_decode"
    }
    for name in ("experts", "experts_ep"):
        key = (name, "fp8_block", _BACKEND)
        if key in kept:
            kept[key] = _slower(kept[key], device)
    rows, outputs, inputs = _axis(0, 15), _axis(5, 16), _axis(7, 15)
    kept["gemm", "fp8_block", _BACKEND] = _surface(
        "gemm",
        "fp8_block",
        (rows, outputs, inputs),
        device,
        lambda m, n, k: gemm("gemm", m, k, n, "fp8", weights=n * k),
        OLD.seconds,
    )
    kept["mla_decode", "bf16", _BACKEND] = _surface(
        "mla_decode",
        "bf16",
        (_axis(0, 10), _axis(5, 17), _axis(0, 7)),
        device,
        _latent_op,
        lambda s, c, h: decode_s(s, c, h, device),
    )
    return replace(hardware, device=_with(device, kept))
