"""Learn what one core of this machine makes of MoE layers: run them, fit, describe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np

from moesim._version import __version__
from moesim.calibrate.reference.ceilings import ceilings
from moesim.calibrate.reference.design import Trial, is_anchor, loads, trials
from moesim.calibrate.reference.laws import Ceilings, device_of, fit_law, line, raised
from moesim.calibrate.reference.observed import Load, Observed, best_round, observe
from moesim.calibrate.surfaces import Fitted
from moesim.errors import ConfigError
from moesim.reference.layer import Runner
from moesim.reference.protocol import Floor, Measured, measure, measured

DTYPES = ("fp32", "bf16")
#: Rounds, where there is time for them.
ROUNDS = 12
#: Part of the time that reads from a file may take.
FILE_PART = 0.1
#: Told what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies of experts into fast memory, as what they add to a layer: ``latency + bytes / rate``.

    Parameters
    ----------
    latency_s, bytes_per_s
        Of the line.
    residual
        Median error of the line, as a fraction.
    log_error
        Quantiles 5 %, 50 % and 95 % of ``ln(measured / line)``.
    loads
        Sizes that were measured.
    """

    latency_s: float
    bytes_per_s: float
    residual: float
    log_error: tuple[float, float, float]
    loads: int

    @classmethod
    def of(cls, loads: Sequence[Load]) -> Copies:
        """Fit the line."""
        size = np.array([load.size_bytes for load in loads])
        seconds = np.array([load.seconds for load in loads])
        latency, rate = line(size, seconds)
        log = np.log(seconds / (latency + size / rate))
        low, middle, high = (float(q) for q in np.quantile(log, (0.05, 0.5, 0.95)))
        error = float(np.median(np.abs(np.expm1(-log))))
        return cls(latency, rate, error, (low, middle, high), len(size))


@dataclass(frozen=True, slots=True, eq=False)
class CpuCalibration:
    """All that is known after the runs.

    Parameters
    ----------
    ceilings
        Of one core.
    fits
        Surfaces of all kernels and data types.
    copies, reads
        Loads of experts from memory, and from a file; None where no file could be written.
    floor
        A/A noise of the layers.
    rounds
        That were run.
    anchors
        Layers to find out later how much slower or faster the machine has become, with their seconds now.
    """

    ceilings: Ceilings
    fits: tuple[Fitted, ...]
    copies: Copies
    reads: Copies | None
    floor: Floor
    rounds: int
    anchors: tuple[tuple[Trial, float], ...]


def calibrate_cpu(
    runner: Callable[[str], AbstractContextManager[Runner]],
    *,
    limit_s: float,
    seed: int = 0,
    progress: Progress = lambda *_: None,
    best: Callable[[], Ceilings] = ceilings,
) -> CpuCalibration:
    """Run all layers, and fit.

    Parameters
    ----------
    runner
        Opens a runner whose slow memory is ``memory`` or a ``file``.
    limit_s
        Time for the rounds; at least two are run.
    seed
        Of their orders.
    progress
        Told of every run.
    best
        Measures the ceilings.
    """
    layers = [trial for dtype in DTYPES for trial in trials(dtype)]
    stored = loads("fp32")
    with runner("memory") as device:
        progress("ceilings", 0, 1)
        limits = best()
        timed = _run(device, layers, limit_s * (1 - FILE_PART), seed, partial(progress, "layers"))
        # Neighbours of a shared machine come and go: a ceiling is the best that was ever seen.
        limits = limits.best(best())
    read: Measured | None = None
    # Without room for a file the rest is still worth knowing.
    with contextlib.suppress(ConfigError), runner("file") as device:
        read = _run(device, stored, limit_s * FILE_PART, seed, partial(progress, "loads from a file"))
    from threadpoolctl import threadpool_limits

    # The fits are many small products: more threads would only wait for each other.
    with threadpool_limits(1, user_api="blas"):
        return learn(limits, layers, timed, stored, read)


def _run(
    device: Runner, layers: Sequence[Trial], limit_s: float, seed: int, progress: Callable[[int, int], None]
) -> Measured:
    prepared = []
    try:
        for trial in layers:
            prepared.append(device.prepare(trial.case, trial.ids))
        return measure(prepared, ROUNDS, seed, progress, limit_s)
    finally:
        for one in prepared:
            one.close()


def learn(
    limits: Ceilings,
    layers: Sequence[Trial],
    timed: Measured,
    stored: Sequence[Trial],
    read: Measured | None,
) -> CpuCalibration:
    """Fit everything to timed rounds.

    Parameters
    ----------
    limits
        Ceilings; raised where an expert exceeded them.
    layers, timed
        What was run, and its times.
    stored, read
        The same of layers with experts in a file, if there are any.
    """
    seen: list[Observed] = []
    anchors: list[tuple[Trial, float]] = []
    for dtype in DTYPES:
        chosen = [i for i, trial in enumerate(layers) if trial.case.dtype == dtype]
        mine = [layers[i] for i in chosen]
        found = observe(mine, measured([[row[i] for i in chosen] for row in timed.timings]), __version__)
        expert = found.rows["expert"]
        reached = ((expert.flops / expert.seconds).max(), (expert.data / expert.seconds).max())
        for flops_per_s, bytes_per_s in (reached, best_round(layers, timed)):
            limits = raised(limits, float(flops_per_s), float(bytes_per_s))
        seen.append(found)
        anchors += [(t, float(s)) for t, s in zip(mine, found.seconds, strict=True) if is_anchor(t)]
    device = device_of(limits)
    return CpuCalibration(
        limits,
        tuple(fit_law(rows, device) for found in seen for rows in found.rows.values()),
        Copies.of([load for found in seen for load in found.loads]),
        None if read is None else Copies.of(observe(stored, read, __version__).loads),
        timed.floor,
        timed.rounds,
        tuple(anchors),
    )
