"""Seconds of operations on a processor: the roofline, softened by measured efficiency.

``t = floor * launches + (t_compute**p + t_memory**p) ** (1/p)``, with ``t_compute = flops / (peak * e)`` and
``t_memory = bytes / (bandwidth * e)``. With efficiency 1, no floor and p infinite this is the roofline of
Williams, Waterman and Patterson (CACM 52(4), 2009).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.hardware.types import Curve, Device, Processor
from moesim.ops.table import Array, OpTable

#: Data types a weight type is multiplied in, best first; the first that the processor has is used.
#: Weight-only types (int4; mxfp4 before Blackwell) are expanded to 16 bits on the way.
_COMPUTE = {
    "fp32": ("tf32", "fp32"),
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"),
    "int8": ("int8", "bf16", "fp16", "fp32"),
    "int4": ("bf16", "fp16", "fp32"),
    "mxfp4": ("bf16", "fp16", "fp32"),
    "nvfp4": ("fp4", "bf16", "fp16", "fp32"),
}


def peak_flops_per_s(processor: Processor, weight_dtype: str) -> float:
    """Peak at which weights of this type are multiplied.

    A processor with 4-bit tensor cores multiplies mxfp4 weights with 8-bit activations.
    """
    peaks = processor.peak_flops_per_s
    order = _COMPUTE[weight_dtype]
    if weight_dtype == "mxfp4" and "fp4" in peaks:
        order = ("fp8", *order)
    return next(peaks[dtype] for dtype in order if dtype in peaks)


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Seconds and what they are made of, all of one shape.

    Parameters
    ----------
    seconds
        The whole.
    compute_s, memory_s
        What each resource alone would take at its efficiency.
    floor_s
        Launch floors inside `seconds`.
    """

    seconds: Array
    compute_s: Array
    memory_s: Array
    floor_s: Array


@dataclass(frozen=True, slots=True, eq=False)
class OpTimes(Times):
    """Seconds of one run of each op, ``[ops, batches]``, and what the bare peaks would allow.

    Parameters
    ----------
    peak_compute_s, peak_memory_s
        What each resource would take at its peak.
    """

    peak_compute_s: Array
    peak_memory_s: Array


def op_times(table: OpTable, device: Device) -> OpTimes:
    """Seconds of one run of each op.

    Parameters
    ----------
    table
        The work.
    device
        Its main processor does it, from its main memory.
    """
    processor, memory_name = device.processor, device.memory.name
    flops, weight = table.column("flops"), table.column("weight_bytes")
    moved = table.column("activation_bytes") + table.column("cache_bytes")
    active = (flops + moved) > 0
    data = np.where(active, weight + moved, 0.0)
    known: dict[tuple[str, str], _Rates] = {}
    rates = []
    for op, _ in table.ops:
        key = (op.kind, op.dtype)
        if key not in known:
            known[key] = _rates(processor, memory_name, *key)
        rates.append(known[key])
    peak, bandwidth, floor, sharpness = np.array([r[:4] for r in rates]).T[:, :, None]
    launches = np.array([op.launches for op, _ in table.ops], dtype=np.float64)[:, None]
    peak_compute, peak_memory = flops / peak, data / bandwidth
    compute = peak_compute / _efficiency([r[4] for r in rates], flops)
    memory = peak_memory / _efficiency([r[5] for r in rates], data)
    floors = active * (floor * launches)
    seconds = floors + soft_max(compute, memory, sharpness)
    return OpTimes(seconds, compute, memory, floors, peak_compute, peak_memory)


#: Peak FLOP/s, bandwidth, floor, sharpness, and the curves of compute and memory efficiency.
_Rates = tuple[float, float, float, float, Curve, Curve]


def peak_of(processor: Processor, kind: str, dtype: str) -> float:
    """Peak FLOP/s of a kind of operation: attention in 16 bits, elementwise work on the vector units."""
    if kind == "elementwise":
        return processor.peak_flops_per_s.get("fp32") or peak_flops_per_s(processor, "bf16")
    return peak_flops_per_s(processor, "bf16" if kind.startswith("attention") else dtype)


def _rates(processor: Processor, memory: str, kind: str, dtype: str) -> _Rates:
    e = processor.efficiency_of(kind, dtype)
    peak, bandwidth = peak_of(processor, kind, dtype), processor.bandwidth_bytes_per_s[memory]
    return peak, bandwidth, e.floor_s, e.sharpness, e.compute, e.memory


def _efficiency(curves: list[Curve], sizes: Array) -> Array:
    """Each row's curve at its sizes."""
    table = np.empty(sizes.shape)
    for row, curve in enumerate(curves):
        table[row] = curve[0][1] if len(curve) == 1 else at(curve, sizes[row])
    return table


def at(curve: Curve, size: Array | float) -> Array:
    """Value of a piecewise log-linear curve.

    >>> round(float(at(((1e3, 0.2), (1e5, 0.6)), 1e4)), 6)
    0.4
    """
    x, y = zip(*curve, strict=True)
    return np.asarray(np.interp(np.log(np.maximum(size, 1e-300)), np.log(x), y))


def soft_max(a: Array, b: Array, sharpness: Array | float) -> Array:
    """``(a**p + b**p) ** (1/p)`` without overflow: the sum for p = 1, the maximum for p infinite.

    >>> three, four = np.array(3.0), np.array(4.0)
    >>> float(soft_max(three, four, 2.0)), float(soft_max(three, four, np.inf))
    (5.0, 4.0)
    """
    top = np.maximum(a, b)
    ratio = np.divide(np.minimum(a, b), top, out=np.zeros_like(top), where=top > 0)
    return np.asarray(top * (1.0 + ratio**sharpness) ** (1.0 / np.asarray(sharpness)))
