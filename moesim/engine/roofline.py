"""Where the operations of a step lie under the roofs of a device: work, traffic, seconds.

The roofline model is that of Williams, Waterman and Patterson (CACM 52(4), 2009): what does ``i`` operations
per byte does no more of them per second than ``min(peak, i * bandwidth)``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moesim.cost import bandwidth_together, peak_together
from moesim.cost.roofline import computed_in, near_processor, peak_of
from moesim.engine.step import StepTimes
from moesim.hardware.types import Device, Processor
from moesim.ops.table import Op


@dataclass(frozen=True, slots=True)
class Roof:
    """What nothing of its kind is faster than.

    Parameters
    ----------
    name
        The data type computed in, with the processor and the memory where they are not the main ones.
    flops_per_s, bytes_per_s
        Bare peaks of one device.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float

    def at(self, intensity: float) -> float:
        """FLOP/s that so many operations per byte allow.

        >>> Roof("bf16", 100.0, 10.0).at(5.0), Roof("bf16", 100.0, 10.0).at(50.0)
        (50.0, 100.0)
        """
        return min(self.flops_per_s, intensity * self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class RooflinePoint:
    """One operation of a step, all its runs together, on one rank.

    Parameters
    ----------
    op
        Its name in the breakdown.
    flops, bytes, seconds
        Of the step; of `experts` the mean over ranks.
    roof
        Name of its `Roof`.
    bound_by
        The resource that most of the time is spent on, launches included; empty if not known.
    """

    op: str
    flops: float
    bytes: float
    seconds: float
    roof: str
    bound_by: str = ""


@dataclass(frozen=True, slots=True)
class Roofline:
    """Operations, the longest first, and the roofs over them.

    Messages between devices are no part of it: they do no arithmetic.
    """

    ops: tuple[RooflinePoint, ...]
    roofs: tuple[Roof, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ops": [asdict(op) for op in self.ops], "roofs": [asdict(roof) for roof in self.roofs]}


def roofline_of(times: StepTimes) -> Roofline:
    """The operations of the first batch of a step, under the roofs of the device that it was timed on.

    Parameters
    ----------
    times
        Seconds of the step, and the work they are of.
    """
    device, found, roofs = times.hardware.device, dict[tuple[str, str], RooflinePoint](), dict[str, Roof]()
    bound = {
        entry.op: max(entry.shares, key=lambda resource: float(entry.shares[resource][0]))
        for entry in times.entries()
    }

    def add(op: str, roof: Roof, flops: float, moved: float, seconds: float) -> None:
        if seconds <= 0:
            return
        over = roofs.get(roof.name, roof)
        # Caches of several shapes share a name: the roof of all is that of the fastest.
        roofs[roof.name] = Roof(roof.name, roof.flops_per_s, max(roof.bytes_per_s, over.bytes_per_s))
        old = found.get((op, roof.name), RooflinePoint(op, 0.0, 0.0, 0.0, roof.name, bound.get(op, "")))
        found[op, roof.name] = RooflinePoint(
            op, old.flops + flops, old.bytes + moved, old.seconds + seconds, roof.name, old.bound_by
        )

    table = times.work.table
    flops, moved = table.column("flops")[:, 0], table.column("bytes")[:, 0]
    cached = table.column("cache_bytes")[:, 0]
    for row, (op, count) in enumerate(table.ops):
        roof = _roof(op, device, bool(times.ops.near[row, 0]), float(cached[row]), float(moved[row]))
        add(
            op.name,
            roof,
            count * float(flops[row]),
            count * float(moved[row]),
            count * float(times.ops.seconds[row, 0]),
        )
    for work, group in zip(times.work.experts, times.groups, strict=True):
        together = near_processor(device) is not None
        name = computed_in(device.processor, work.dtype) + (", both processors" if together else "")
        peak = peak_together(device, "gemm", work.dtype)
        add(
            "experts",
            Roof(name, peak, bandwidth_together(device)),
            *(float(group[field][0]) for field in ("mean_flops", "mean_bytes", "balanced_s")),
        )
    return Roofline(
        tuple(sorted(found.values(), key=lambda point: (-point.seconds, point.op))), tuple(roofs.values())
    )


def _roof(op: Op, device: Device, near: bool, cached: float, moved: float) -> Roof:
    """The roof over an operation that moves so many bytes, some of them of the cache."""
    processor = device.near if near and device.near is not None else device.processor
    name = _computed_in(processor, op)
    if near:
        name += f", {processor.name}"
    bandwidth = processor.bandwidth_bytes_per_s[device.memory.name]
    if cached and device.kv_memory is not device.memory:
        # From two memories, one after the other.
        name += f", cache in {device.kv_memory.name}"
        elsewhere = processor.bandwidth_bytes_per_s[device.kv_memory.name]
        bandwidth = moved / ((moved - cached) / bandwidth + cached / elsewhere)
    return Roof(name, peak_of(processor, op.kind, op.dtype), bandwidth)


def _computed_in(processor: Processor, op: Op) -> str:
    if op.kind == "elementwise" and processor.peak_flops_per_s.get("fp32"):
        return "fp32"
    weights = op.dtype if op.kind == "gemm" else "bf16"
    return computed_in(processor, weights)
