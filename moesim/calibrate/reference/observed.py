"""From timed rounds of layers to rows that surfaces are fitted to, and to what a load costs.

Rounds differ: the machine is slower in some. Every layer was run in every round, so the median ratio of a
round to all rounds is taken out; what is left is averaged over the middle half of the rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.calibrate.reference.design import Trial
from moesim.calibrate.rows import Array, Rows
from moesim.cost import ExpertShape
from moesim.ops.primitives import gemm, top_k, weighted_sum
from moesim.ops.table import Op
from moesim.reference.cpu import CpuTiming
from moesim.reference.protocol import Measured

#: Name of the path among serving engines.
BACKEND = "reference"
#: Each operation beside the experts: its part of a run, as a function of its layer.
OPS = ("gemm", "top_k", "weighted_sum")


@dataclass(frozen=True, slots=True)
class Load:
    """What one expert from slow memory adds to a layer.

    Parameters
    ----------
    size_bytes
        Of its weights.
    seconds
        Of its copy, and of what it runs longer or shorter with weights that were just written.
    """

    size_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """All that the rounds of one data type say.

    Parameters
    ----------
    rows
        By kernel: ``expert``, ``gemm`` (routers, and the products of experts), ``top_k``, ``weighted_sum``.
    loads
        Of the layers with experts in slow memory.
    seconds
        Of each whole layer, ``[layers]``.
    """

    rows: Mapping[str, Rows]
    loads: tuple[Load, ...]
    seconds: Array


def best_round(layers: Sequence[Trial], timed: Measured) -> tuple[float, float]:
    """Most FLOP/s, and most bytes/s of weights, that the experts of a layer reached in any round.

    Layers with experts in slow memory are left out: what was just copied may still lie in a cache.
    """
    flops_per_s = bytes_per_s = 0.0
    for seconds, trial in zip(timed.parts["experts"].min(axis=0), layers, strict=True):
        shape, counts = trial.case.shape, np.array(trial.counts)
        if trial.case.offloaded == 0.0:
            expert = ExpertShape(shape.hidden, shape.width, 3, trial.case.dtype)
            flops_per_s = max(flops_per_s, float(counts.sum() * expert.flops_per_pair / seconds))
            bytes_per_s = max(bytes_per_s, float((counts > 0).sum() * expert.weight_bytes / seconds))
    return flops_per_s, bytes_per_s


def steady(seconds: Array) -> Array:
    """Mean of the middle half of the rounds, ``[rounds, ...] -> [...]``.

    >>> steady(np.array([1.0, 2.0, 3.0, 99.0])[:, None]).tolist()
    [2.5]
    """
    rounds = len(seconds)
    cut = rounds // 4
    return np.asarray(np.sort(seconds, axis=0)[cut : rounds - cut].mean(axis=0))


def pace(seconds: Array) -> Array:
    """How much slower than usual each round was, ``[rounds, layers] -> [rounds]``."""
    log = np.log(seconds)
    return np.asarray(np.exp(np.median(log - np.median(log, axis=0), axis=1)))


def observe(trials: Sequence[Trial], measured: Measured, version: str) -> Observed:
    """Rows of all kernels.

    Parameters
    ----------
    trials
        The layers, all of one data type.
    measured
        Their times.
    version
        Of moesim.
    """
    slower, parts = pace(measured.seconds)[:, None], measured.parts
    # What has no timer of its own is done once a layer, for the choice of experts: all that is fitted adds
    # up to the layer. Times of single experts leave out the way into their loop.
    alone = np.array([[_named(_cpu(timing)) for timing in row] for row in measured.timings])
    choice = measured.seconds - parts["router"] - parts["weighted_sum"] - alone
    timed = {"gemm": parts["router"], "top_k": choice, "weighted_sum": parts["weighted_sum"]}
    ops = {kernel: steady(seconds / slower) for kernel, seconds in timed.items()}
    experts, loads = _experts(trials, measured, slower[:, 0])
    dtype = trials[0].case.dtype
    rows = {"expert": _expert_rows(experts, dtype, version)}
    for kernel, seconds in ops.items():
        rows[kernel] = _op_rows(kernel, trials, seconds, dtype, version)
    rows["gemm"] = _both(rows["gemm"], _products(rows["expert"]))
    return Observed(rows, loads, steady(measured.seconds / slower))


def _experts(
    trials: Sequence[Trial], measured: Measured, slower: Array
) -> tuple[list[tuple[int, int, int, int, float]], tuple[Load, ...]]:
    """Layer, tokens, hidden size, width, seconds of experts with equal tokens; and loads."""
    found, loads = [], []
    for layer, trial in enumerate(trials):
        timings = [row[layer] for row in measured.timings]
        shape, counts = trial.case.shape, np.array(trial.counts)
        seconds = np.stack([_cpu(timing).expert_s for timing in timings]) / slower[:, None]
        copies = np.stack([_cpu(timing).copy_s for timing in timings]) / slower[:, None]
        here = ~_cpu(timings[0]).loaded
        for n in np.unique(counts[counts > 0]):
            alike = seconds[:, here & (counts == n)].mean(axis=1)
            found.append((layer, int(n), shape.hidden, shape.width, float(steady(alike))))
            away = ~here & (counts == n)
            if away.any():
                copied = copies[:, away].mean(axis=1)
                more = float(steady(copied + seconds[:, away].mean(axis=1) - alike))
                size = shape.params * (4.0 if trial.case.dtype == "fp32" else 2.0)
                # Less than nothing is noise.
                loads.append(Load(size, more if more > 0 else float(steady(copied))))
    return found, tuple(loads)


def _named(timing: CpuTiming) -> float:
    """Seconds of experts and copies, by their own timers."""
    return float(timing.expert_s.sum() + timing.copy_s.sum())


def _cpu(timing: object) -> CpuTiming:
    assert isinstance(timing, CpuTiming)
    return timing


def _expert_rows(experts: Sequence[tuple[int, int, int, int, float]], dtype: str, version: str) -> Rows:
    layer, n, hidden, width, seconds = np.array(experts, dtype=np.float64).T
    shapes = [ExpertShape(int(h), w, 3, dtype) for h, w in zip(hidden, width, strict=True)]
    flops = n * np.array([shape.flops_per_pair for shape in shapes])
    data = np.array([s.weight_bytes + m * s.bytes_per_pair for s, m in zip(shapes, n, strict=True)])
    sizes = np.stack([n, hidden, width], axis=1)
    return _rows("expert", "gemm", dtype, version, sizes, flops, data, seconds, layer)


def _products(experts: Rows) -> Rows:
    """Products of experts, each with its share of the operations: gates and ups, and the way back down."""
    n, hidden, width = experts.sizes.T
    parts = []
    for share, inputs, outputs in ((2 / 3, hidden, 2 * width), (1 / 3, width, hidden)):
        op = gemm("", n, inputs, outputs, experts.dtype)
        parts.append(
            replace(
                experts,
                kernel="gemm",
                sizes=np.stack([n, outputs, inputs], axis=1),
                flops=np.asarray(op.flops),
                data=np.asarray(op.bytes),
                seconds=experts.seconds * share,
            )
        )
    return _both(*parts)


def _both(a: Rows, b: Rows) -> Rows:
    """Rows of one kernel, one behind the other."""
    return replace(
        a,
        sizes=np.concatenate([a.sizes, b.sizes]),
        flops=np.concatenate([a.flops, b.flops]),
        data=np.concatenate([a.data, b.data]),
        seconds=np.concatenate([a.seconds, b.seconds]),
        group=np.concatenate([a.group, b.group]),
    )


def op_of(kernel: str, trial: Trial) -> Op:
    """An operation of a layer, as predictions count it."""
    case, shape = trial.case, trial.case.shape
    tokens = float(case.tokens)
    if kernel == "gemm":
        return gemm("router", tokens, shape.hidden, shape.num_experts, case.dtype)
    if kernel == "top_k":
        return top_k(tokens, shape.num_experts, shape.top_k)
    return weighted_sum(tokens, shape.hidden, shape.top_k)


def _op_rows(kernel: str, trials: Sequence[Trial], seconds: Array, dtype: str, version: str) -> Rows:
    ops = [op_of(kernel, trial) for trial in trials]
    flops = np.array([float(op.flops) for op in ops])
    data = np.array([float(op.bytes) for op in ops])
    sizes = np.array([[float(x) for x in op.shape.sizes] for op in ops if op.shape is not None])
    layer = np.arange(len(trials), dtype=np.float64)
    return _rows(kernel, ops[0].kind, dtype, version, sizes, flops, data, seconds, layer)


def _rows(
    kernel: str,
    kind: str,
    dtype: str,
    version: str,
    sizes: Array,
    flops: Array,
    data: Array,
    seconds: Array,
    layer: Array,
) -> Rows:
    # A part of nothing but clock ticks has no logarithm.
    real: npt.NDArray[np.bool_] = seconds > 0
    rows = Rows(
        kernel, dtype, BACKEND, version, dtype, kind, sizes, flops, data, seconds, layer.astype(np.int64)
    )
    return rows.pick(real)
