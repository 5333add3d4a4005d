"""Seconds of operations on a processor: the roofline, softened by measured efficiency.

``t = floor * launches + (t_compute**p + t_memory**p) ** (1/p)``, with ``t_compute = flops / (peak * e)`` and
``t_memory = bytes / (bandwidth * e)``. With efficiency 1, no floor and p infinite this is the roofline of
Williams, Waterman and Patterson (CACM 52(4), 2009).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.cost.surface import AXES, Stack, find_surface
from moesim.hardware.curves import Curve, Surface
from moesim.hardware.types import Device, Processor
from moesim.ops.table import KINDS, Array, OpTable

#: Kinds that units beside a memory do. Those with vector units do elementwise work too.
NEAR_KINDS = KINDS
#: Data types a weight type is multiplied in, best first; the first that the processor has is used.
#: Weight-only types (int4; mxfp4 before Blackwell) are expanded to 16 bits on the way; 32 bits are rounded to
#: 16 where a machine has no rate for them.
_COMPUTE = {
    "fp32": ("tf32", "fp32", "bf16", "fp16"),
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"),
    "int8": ("int8", "bf16", "fp16", "fp32"),
    "int4": ("bf16", "fp16", "fp32"),
    "mxfp4": ("bf16", "fp16", "fp32"),
    "nvfp4": ("fp4", "bf16", "fp16", "fp32"),
}


def computed_in(processor: Processor, weight_dtype: str) -> str:
    """Data type that weights of one type are multiplied in.

    A processor with 4-bit tensor cores multiplies mxfp4 weights with 8-bit activations.

    >>> from moesim.hardware import load_hardware
    >>> processor = load_hardware("cerebras-wse3").device.processor
    >>> [computed_in(processor, dtype) for dtype in ("fp8", "int4", "fp32")]
    ['fp16', 'fp16', 'fp16']
    """
    peaks = processor.peak_flops_per_s
    order = _COMPUTE[weight_dtype]
    if weight_dtype == "mxfp4" and "fp4" in peaks:
        order = ("fp8", *order)
    return next(dtype for dtype in order if dtype in peaks)


def peak_flops_per_s(processor: Processor, weight_dtype: str) -> float:
    """Peak at which weights of this type are multiplied."""
    return processor.peak_flops_per_s[computed_in(processor, weight_dtype)]


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
    peak_compute_s, peak_memory_s, peak_kv_s
        What each resource would take at its peak, that of all processors together; `peak_kv_s` is of the
        memory of the KV cache, where that is another than the main one, else 0.
    near
        Whether the op runs on the processor beside the memory, bool ``[ops, batches]``.
    """

    peak_compute_s: Array
    peak_memory_s: Array
    near: npt.NDArray[np.bool_]
    peak_kv_s: Array


@dataclass(frozen=True, slots=True)
class Choice:
    """Which measured kernels apply.

    Parameters
    ----------
    backend
        The serving engine; empty for any.
    block_scaled
        Whether fp8 weights have a scale per block, which engines multiply with other kernels.
    """

    backend: str = ""
    block_scaled: bool = False

    def dtype(self, dtype: str) -> str:
        """Data type as measured kernels name it."""
        if dtype == "fp16":
            return "bf16"
        return "fp8_block" if self.block_scaled and dtype == "fp8" else dtype


_ANY = Choice()


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """What a processor makes of the ops of a table, whatever their sizes; arrays are ``[ops, 1]``.

    Parameters
    ----------
    peak, bandwidth
        Bare.
    floor, sharpness
        Of the roofline, without launches.
    launched
        Whether a row is launched on its own, bool ``[ops, 1]``.
    compute, memory
        Efficiency curves of the rows that were not measured.
    curved, measured
        Numbers of the rows that were not measured, and of those that were.
    stack
        Surfaces of the measured rows.
    can
        Whether the processor does such ops, bool ``[ops, 1]``.
    near
        The same of the processor beside the memory; None without.
    kv_bandwidth
        To the memory of the KV cache; None where that is the main one.
    """

    peak: Array
    bandwidth: float
    floor: Array
    sharpness: Array
    launched: npt.NDArray[np.bool_]
    compute: tuple[Curve, ...]
    memory: tuple[Curve, ...]
    curved: npt.NDArray[np.int64]
    measured: npt.NDArray[np.int64]
    stack: Stack
    can: npt.NDArray[np.bool_]
    near: Rates | None = None
    kv_bandwidth: float | None = None

    @classmethod
    def of(
        cls, table: OpTable, device: Device, choice: Choice = _ANY, near_kinds: Collection[str] = NEAR_KINDS
    ) -> Rates:
        """Rates of the rows of a table on the processors of a device, from its main memory.

        Parameters
        ----------
        near_kinds
            Kinds of ops that may run beside the memory, where the device has a processor there. Beside a
            memory of the KV cache alone, attention does.
        """
        main = cls._on(table, device.processor, device, choice, KINDS)
        unit = near_processor(device)
        if unit is None and device.kv_memory is not device.memory and device.near is not None:
            unit = device.near
            near_kinds = [kind for kind in near_kinds if kind.startswith("attention")]
        return main if unit is None else replace(main, near=cls._on(table, unit, device, choice, near_kinds))

    @classmethod
    def _on(
        cls, table: OpTable, processor: Processor, device: Device, choice: Choice, kinds: Collection[str]
    ) -> Rates:
        bandwidth = processor.bandwidth_bytes_per_s[device.memory.name]
        apart = device.kv_memory is not device.memory
        rows, curves = [], []
        surfaces: dict[int, Surface] = {}
        # The main processor does all there is; catalogues do not always say how fast its vector units are.
        main = processor is device.processor
        can = [op.kind in kinds and (main or runs(processor, op.kind, op.dtype)) for op, _ in table.ops]
        for row, (op, _) in enumerate(table.ops):
            e = processor.efficiency_of(op.kind, op.dtype)
            surface = None
            # What was measured read the cache from the main memory.
            if op.shape is not None and not (apart and op.kind.startswith("attention")):
                dtype = op.dtype if op.kind.startswith("attention") else choice.dtype(op.dtype)
                dtype = "bf16" if dtype == "fp16" else dtype
                surface = find_surface(processor.kernels, op.shape.kernel, dtype, choice.backend)
            floor, sharpness = e.floor_s * op.launches, e.sharpness
            if surface is None:
                curves.append((row, e.compute, e.memory))
            else:
                floor, sharpness = surface.floor_s, surface.sharpness
                surfaces[row] = surface
            rows.append((peak_of(processor, op.kind, op.dtype) if can[row] else 1.0, floor, sharpness))
        peak, floors, sharp = np.array(rows).reshape(-1, 3).T[:, :, None]
        return cls(
            peak,
            bandwidth,
            floors,
            sharp,
            np.array([[op.launches > 0] for op, _ in table.ops], dtype=bool).reshape(-1, 1),
            tuple(c[1] for c in curves),
            tuple(c[2] for c in curves),
            np.array([c[0] for c in curves], dtype=np.int64),
            np.array(list(surfaces), dtype=np.int64),
            Stack.of(list(surfaces.values())),
            np.array(can, dtype=bool).reshape(-1, 1),
            kv_bandwidth=processor.bandwidth_bytes_per_s[device.kv_memory.name] if apart else None,
        )


def near_processor(device: Device) -> Processor | None:
    """The processor that reaches the main memory through more bandwidth than the main one, if there is one.

    One that is beside another memory (MoNDE's) has no part in work from the main memory.
    """
    unit, memory = device.near, device.memory.name
    if unit is None or unit.bandwidth_bytes_per_s[memory] <= device.processor.bandwidth_bytes_per_s[memory]:
        return None
    return unit


def processors_of(device: Device) -> tuple[Processor, ...]:
    """The processors that work from the main memory."""
    unit = near_processor(device)
    return (device.processor,) if unit is None else (device.processor, unit)


def peak_together(device: Device, kind: str, dtype: str) -> float:
    """Peak FLOP/s of all processors that work from the main memory, of those that do such operations."""
    # The main one does all there is, whether or not its vector units are described.
    able = (p for p in processors_of(device) if p is device.processor or runs(p, kind, dtype))
    return sum(peak_of(p, kind, dtype) for p in able)


def bandwidth_together(device: Device) -> float:
    """Bytes per second that all of them read from the main memory at most."""
    return sum(p.bandwidth_bytes_per_s[device.memory.name] for p in processors_of(device))


def runs(processor: Processor, kind: str, dtype: str) -> bool:
    """Whether a processor does an operation: elementwise work needs vector units, others their data type."""
    if kind == "elementwise":
        return "fp32" in processor.peak_flops_per_s
    weight = "bf16" if kind.startswith("attention") else dtype
    return any(known in processor.peak_flops_per_s for known in _COMPUTE[weight])


def op_times(table: OpTable, device: Device, rates: Rates | None = None) -> OpTimes:
    """Seconds of one run of each op.

    Parameters
    ----------
    table
        The work.
    device
        Does it from its main memory: each op on the processor that takes less time, the main one if neither
        does. What runs beside the memory is started by the main processor: it takes no less to launch.
        The KV cache may lie in another memory (`Device.kv_in`); what an op moves from either counts one after
        the other, as queries arrive before the cache is read and results leave after.
    rates
        `Rates` of a table with the same rows, if they were made before.
    """
    rates = Rates.of(table, device) if rates is None else rates
    main = _times(table, rates)
    if rates.near is None:
        return main
    other = _times(table, rates.near)
    wait = np.maximum(main.floor_s - other.floor_s, 0.0)
    near = rates.near.can & (other.seconds + wait < main.seconds)
    # Both processors at their peaks at once: what no division of the work between them can beat.
    together = [
        np.divide(a * b, a + b, out=np.zeros_like(a), where=(a + b) > 0)
        for a, b in (
            (main.peak_compute_s, other.peak_compute_s),
            (main.peak_memory_s, other.peak_memory_s),
            (main.peak_kv_s, other.peak_kv_s),
        )
    ]
    compute, memory, kv = (
        np.where(rates.near.can, both, alone)
        for both, alone in zip(
            together, (main.peak_compute_s, main.peak_memory_s, main.peak_kv_s), strict=True
        )
    )
    return OpTimes(
        np.where(near, other.seconds + wait, main.seconds),
        np.where(near, other.compute_s, main.compute_s),
        np.where(near, other.memory_s, main.memory_s),
        np.where(near, other.floor_s + wait, main.floor_s),
        compute,
        memory,
        near,
        kv,
    )


def _times(table: OpTable, rates: Rates) -> OpTimes:
    """Seconds of one run of each op on one processor."""
    flops, weight, cached = table.column("flops"), table.column("weight_bytes"), table.column("cache_bytes")
    moved = table.column("activation_bytes") + cached
    active = (flops + moved) > 0
    data = np.where(active, weight + moved, 0.0)
    if rates.kv_bandwidth is None:
        peak_memory, peak_kv = data / rates.bandwidth, np.zeros(data.shape)
    else:
        peak_memory, peak_kv = (data - cached) / rates.bandwidth, cached / rates.kv_bandwidth
    peak_compute = flops / rates.peak
    compute, memory = peak_compute.copy(), peak_memory + peak_kv
    curved = rates.curved
    compute[curved] /= _efficiency(rates.compute, flops[curved])
    memory[curved] /= _efficiency(rates.memory, data[curved])
    floors = active * rates.floor
    seconds = floors + soft_max(compute, memory, rates.sharpness)
    measured = rates.measured
    if len(measured):
        factor = np.exp(rates.stack.log_correction(_sizes(table, measured)))
        # Weights that stay in a cache between runs can beat the roofline in a table, but not in a step.
        roof = np.maximum(peak_compute[measured], peak_memory[measured])
        # What runs beside something else is launched while that works.
        hidden = np.where(rates.launched[measured], 0.0, floors[measured] * factor)
        seconds[measured] = np.maximum(seconds[measured] * factor - hidden, roof)
        floors[measured] = np.minimum(floors[measured] * factor - hidden, seconds[measured])
    near = np.zeros(seconds.shape, dtype=bool)
    return OpTimes(seconds, compute, memory, floors, peak_compute, peak_memory, near, peak_kv)


def _sizes(table: OpTable, rows: npt.NDArray[np.int64]) -> Array:
    """Sizes of measured rows, ``[rows, AXES, batches]``."""
    sizes = np.ones((len(rows), AXES, table.batches))
    for i, row in enumerate(rows):
        shape = table.ops[row][0].shape
        if shape is not None:
            for j, size in enumerate(shape.sizes):
                sizes[i, j] = size
    return sizes


def peak_of(processor: Processor, kind: str, dtype: str) -> float:
    """Peak FLOP/s of a kind of operation: attention in 16 bits, elementwise work on the vector units."""
    if kind == "elementwise":
        return processor.peak_flops_per_s.get("fp32") or peak_flops_per_s(processor, "bf16")
    return peak_flops_per_s(processor, "bf16" if kind.startswith("attention") else dtype)


def _efficiency(curves: Sequence[Curve], sizes: Array) -> Array:
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
