"""What the simulator says of one run of a layer, from a hardware description alone.

The same functions as everywhere: `moesim.cost.op_times` for the router, the choice of experts and the
weighted sum, `moesim.cost.expert_times` for the histogram of tokens, the host link for copies, and the
timeline for what runs beside what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.cost import Choice, ExpertShape, Rates, expert_times, op_times
from moesim.cost.roofline import peak_flops_per_s
from moesim.cost.surface import find_surface
from moesim.cost.waves import law_of
from moesim.engine.timeline import Task, makespan
from moesim.errors import ConfigError, Fault
from moesim.hardware import Hardware
from moesim.hardware.curves import Surface
from moesim.hardware.tiles import TileLaw
from moesim.offload import Path as Way
from moesim.ops import OpTable
from moesim.ops.primitives import gemm, top_k, weighted_sum
from moesim.reference.layer import Case, IntArray

CHOICE = Choice(backend="reference")
#: Quantile 95 % over the median of the absolute value, of a normal law.
_NORMAL = 1.645 / 0.6745
_OPS = ("router", "top_k", "weighted_sum")


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Experts that run together: all were there, or all are copied first.

    Parameters
    ----------
    runs
        Experts, int ``[n]``.
    copied
        Those of them that are copied before, in order, int ``[loads]``.
    waits
        For each copy the number of the turn that must have run before, as it reads what is overwritten; -1
        for none. int ``[loads]``.
    """

    runs: IntArray
    copied: IntArray
    waits: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A case as the policies of the simulator play it.

    Parameters
    ----------
    case
        What is run.
    counts
        Tokens of each expert, int ``[experts]``.
    turns
        In their order; every expert with tokens is in one of them.
    before
        Experts of the tokens that went before, int ``[n, top_k]``, where experts are offloaded; not part of
        files.
    """

    case: Case
    counts: IntArray
    turns: tuple[Turn, ...]
    before: IntArray | None = None

    @property
    def loads(self) -> int:
        """Experts copied."""
        return sum(len(turn.copied) for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Predicted:
    """Seconds of one run of a layer.

    Parameters
    ----------
    seconds
        The prediction.
    low, high
        Where 90 % of runs should lie, from the residuals of calibration.
    roofline_s
        ``max(FLOP / peak, bytes / bandwidth)`` of every operation, one after the other, with the ceilings of
        the description.
    bound_s
        What no order of the work can beat at these ceilings.
    parts
        Seconds by part: those of `Timing.parts`.
    """

    seconds: float
    low: float
    high: float
    roofline_s: float
    bound_s: float
    parts: Mapping[str, float]


def predict(work: Work, hardware: Hardware, copy_residual: float = 0.0) -> Predicted:
    """Predict one run.

    Copies go one after the other with everything else where the device is a CPU, which copies itself;
    elsewhere they have a stream of their own, and the experts of a turn wait for its copies.

    Parameters
    ----------
    work
        What is run.
    hardware
        On what.
    copy_residual
        Median error of the law of copies: a fraction, for the interval.
    """
    case, shape, device = work.case, work.case.shape, hardware.device
    table = OpTable(
        (
            (gemm("router", float(case.tokens), shape.hidden, shape.num_experts, case.dtype), 1),
            # Measured by the data type of the layer they are in.
            (replace(top_k(float(case.tokens), shape.num_experts, shape.top_k), dtype=case.dtype), 1),
            (replace(weighted_sum(float(case.tokens), shape.hidden, shape.top_k), dtype=case.dtype), 1),
        ),
        (),
        1,
    )
    ops = op_times(table, device, Rates.of(table, device, CHOICE))
    expert = ExpertShape(shape.hidden, shape.width, 3, case.dtype)
    tokens = np.zeros((len(work.turns), shape.num_experts))
    for row, turn in enumerate(work.turns):
        tokens[row, turn.runs] = work.counts[turn.runs]
    experts = expert_times(tokens, expert, device, CHOICE).seconds
    copy = _copy_seconds(hardware, expert) if work.loads else 0.0
    seconds = dict(zip(_OPS, (float(s) for s in ops.seconds[:, 0]), strict=True))
    alone = hardware.kind == "cpu"
    whole = _whole(seconds, experts, work.turns, copy, alone)
    parts = {**seconds, "experts": float(experts.sum()), "copy": work.loads * copy}
    low, high = _interval(parts, case.dtype, hardware, copy_residual)
    peak = peak_flops_per_s(device.processor, case.dtype)
    bandwidth = device.processor.bandwidth_bytes_per_s[device.memory.name]
    flops, read = _least(work.counts, expert)
    each = np.maximum(flops / peak, read / bandwidth)
    op_roof = np.maximum(ops.peak_compute_s, ops.peak_memory_s)[:, 0].sum()
    expert_roof = each.sum() if alone else max(flops.sum() / peak, read.sum() / bandwidth)
    copied = work.loads * expert.weight_bytes / _link_rate(hardware) if work.loads else 0.0
    roofline = float(op_roof + expert_roof)
    roofline = roofline + copied if alone else max(roofline, copied)
    # Weights once, arithmetic once, all overlapped: activations may stay in a cache.
    bound = max(flops.sum() / peak, (work.counts > 0).sum() * expert.weight_bytes / bandwidth, copied)
    return Predicted(whole, whole * low, whole * high, roofline, float(bound), parts)


def _whole(
    ops: Mapping[str, float],
    experts: npt.NDArray[np.float64],
    turns: Sequence[Turn],
    copy: float,
    alone: bool,
) -> float:
    """Seconds of all parts on their streams; `experts` are those of each turn, `copy` those of one expert."""
    compute, link = "compute", "compute" if alone else "link"

    def task(name: str, stream: str, seconds: float, *after: str) -> Task:
        return Task(name, stream, np.array([seconds]), after)

    tasks = [task(name, compute, ops[name]) for name in ("router", "top_k")]
    for i, turn in enumerate(turns):
        last = "top_k"
        for j, wait in enumerate(turn.waits):
            last = f"copy{i}.{j}"
            tasks.append(task(last, link, copy, f"experts{wait}" if wait >= 0 else "top_k"))
        tasks.append(task(f"experts{i}", compute, float(experts[i]), last))
    tasks.append(task("weighted_sum", compute, ops["weighted_sum"]))
    return float(makespan(tasks)[0])


def _interval(
    parts: Mapping[str, float], dtype: str, hardware: Hardware, copy_residual: float
) -> tuple[float, float]:
    """Ends of a 90 % interval, over the prediction.

    The residuals of one part are those of its surface: all experts of a layer have one shape, so that their
    errors are taken to be the same. Different parts have independent errors: their half-widths add as the
    root of the sum of squares. Of copies the median error is known; that it is of a normal law is assumed.
    """
    middle = below = above = 0.0
    for name, seconds in parts.items():
        low, median, high = _log_error(name, dtype, hardware)
        if name == "copy":
            low, high = -_NORMAL * copy_residual, _NORMAL * copy_residual
        middle += seconds * np.exp(median)
        below += (seconds * (np.exp(median) - np.exp(low))) ** 2
        above += (seconds * (np.exp(high) - np.exp(median))) ** 2
    total = sum(parts.values())
    return float((middle - below**0.5) / total), float((middle + above**0.5) / total)


def _log_error(part: str, dtype: str, hardware: Hardware) -> tuple[float, float, float]:
    """Quantiles 5, 50 and 95 % of ln(measured / modelled) of a part."""
    processor = hardware.device.processor
    law: Surface | TileLaw | None = law_of(processor, dtype) if part == "experts" else None
    if law is None:
        kernel = {"router": "gemm", "experts": "expert"}.get(part, part)
        law = find_surface(processor.kernels, kernel, dtype, CHOICE.backend)
    return law.log_error if law is not None else (0.0, 0.0, 0.0)


def _least(counts: IntArray, expert: ExpertShape) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """FLOP and bytes of each expert, ``[experts]``."""
    tokens = counts.astype(np.float64)
    return tokens * expert.flops_per_pair, (tokens > 0) * expert.weight_bytes + tokens * expert.bytes_per_pair


def _copy_seconds(hardware: Hardware, expert: ExpertShape) -> float:
    """Of one expert over the host link."""
    link = hardware.host_link
    return Way(link.latency_s if link else 0.0, _link_rate(hardware)).seconds(expert.weight_bytes)


def _link_rate(hardware: Hardware) -> float:
    link = hardware.host_link
    if link is None:
        raise ConfigError(
            Fault("is missing, and experts are to be copied over it", "host_link", None, "calibrate again"),
            hardware.path or hardware.name,
        )
    return link.bandwidth_bytes_per_s * link.efficiency
