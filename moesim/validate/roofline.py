"""The line a physical model must beat: a bare roofline with two efficiencies fitted per system and backend.

Time is what FLOPs take at a fraction of the peak, or what bytes take at a fraction of the bandwidth,
whichever is longer. No launch cost, no communication, no imbalance. The two fractions are fitted to
measurements of other groups, so that a group is never predicted by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import bandwidth_together, peak_together
from moesim.engine.deployment import Deployment
from moesim.engine.memory import cache_per_sequence
from moesim.engine.step import StepTimes
from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.ops import Batch
from moesim.prediction import Engine
from moesim.prediction.kept import deployment_of
from moesim.validate.groups import folds
from moesim.validate.rows import ServingRow

Array = npt.NDArray[np.float64]

#: Fractions of the peaks that are tried.
GRID = np.geomspace(0.02, 2.0, 41)
FOLDS = 5
#: Waves of requests in a run whose mean TTFT holds one start-up.
WAVES = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Seconds at bare peaks, ``[rows]``; NaN for rows that cannot be laid out.

    Parameters
    ----------
    decode_compute, decode_memory
        Of one decode step.
    prompt_compute, prompt_memory
        Of one prompt.
    share
        Prompts that hold up each token, ``(X - 1) / O``.
    queue
        Prompts before the mean first one.
    """

    decode_compute: Array
    decode_memory: Array
    prompt_compute: Array
    prompt_memory: Array
    share: Array
    queue: Array

    def tpot(self, compute: Array | float, memory: Array | float) -> Array:
        """Seconds per token at these fractions of the peaks."""
        step = np.maximum(self.decode_compute / compute, self.decode_memory / memory)
        return np.asarray(step + self.share * self._prompt(compute, memory))

    def ttft(self, compute: Array | float, memory: Array | float) -> Array:
        """Seconds to the first token at these fractions of the peaks."""
        return np.asarray((1.0 + self.queue) * self._prompt(compute, memory))

    def _prompt(self, compute: Array | float, memory: Array | float) -> Array:
        return np.asarray(np.maximum(self.prompt_compute / compute, self.prompt_memory / memory))

    def part(self, chosen: npt.NDArray[np.bool_]) -> Peaks:
        """Some of the rows."""
        return Peaks(*(getattr(self, name)[chosen] for name in self.__slots__))


def peaks(rows: Sequence[ServingRow], length: float = 0.9) -> Peaks:
    """What bare peaks allow for every aggregated row.

    Parameters
    ----------
    length
        Mean over longest length.
    """
    table = np.full((6, len(rows)), np.nan)
    alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row.supported and row.layout is not None:
            alike[row.model, row.hardware, row.nodes, row.dtype, row.layout].append(i)
    for members in alike.values():
        try:
            table[:, members] = _alike([rows[i] for i in members], length)
        except (ConfigError, InfeasibleError):
            continue
    return Peaks(*table)


def baseline(
    found: Peaks, measured: npt.ArrayLike, cells: Sequence[str], groups: Sequence[str], metric: str
) -> Array:
    """Predictions of the fitted roofline, each from other groups, in the unit of seconds, ``[rows]``.

    Parameters
    ----------
    found
        Of `peaks`.
    measured
        Seconds, ``[rows]``; NaN where blank.
    cells
        System and backend of each row: efficiencies are fitted to each. A cell that other groups do not have
        takes the fit of all cells.
    groups
        Rows that are never on both sides.
    metric
        ``ttft`` or ``tpot``.
    """
    seconds = np.asarray(measured, np.float64)
    of_fold, of_cell = folds(groups, FOLDS), np.asarray(cells, dtype=str)
    usable = np.isfinite(seconds) & np.isfinite(found.decode_compute) & (seconds > 0)
    predicted = np.full(len(seconds), np.nan)
    for fold in range(FOLDS):
        train = usable & (of_fold != fold)
        if not train.any():
            continue
        everywhere = fit(found.part(train), seconds[train], metric)
        for cell in np.unique(of_cell[of_fold == fold]):
            mine, test = train & (of_cell == cell), (of_fold == fold) & (of_cell == cell)
            pair = fit(found.part(mine), seconds[mine], metric) if mine.any() else everywhere
            predicted[test] = getattr(found.part(test), metric)(*pair)
    return predicted


def fit(found: Peaks, measured: Array, metric: str) -> tuple[float, float]:
    """Fractions of the compute and memory peaks with the least mean ``|log(predicted / measured)|``."""
    true = np.log(measured)
    errors = [
        # One fraction of memory, all fractions of compute.
        np.abs(np.log(getattr(found, metric)(GRID[:, None], memory)) - true).mean(axis=1)
        for memory in GRID
    ]
    memory, compute = np.unravel_index(int(np.argmin(errors)), (len(GRID), len(GRID)))
    return float(GRID[compute]), float(GRID[memory])


def _alike(rows: Sequence[ServingRow], length: float) -> Array:
    """Fields of `Peaks` for rows that differ in nothing but lengths and concurrency, ``[6, rows]``."""
    one = rows[0]
    assert one.layout is not None
    layout, engine = one.layout, Engine(dtype=one.dtype)
    model, hardware = load_model(one.model), load_hardware(one.hardware, nodes=one.nodes)
    layout.check(model, hardware)
    deployment = deployment_of(model, hardware, layout, engine, None, None, 0)
    inputs, outputs, load = np.array(
        [(length * row.isl, length * row.osl, row.concurrency) for row in rows], dtype=np.float64
    ).T
    context = inputs + outputs / 2
    room = deployment.memory(engine.chunk_tokens, engine.memory_utilisation).cache_budget_bytes
    each = cache_per_sequence(deployment.kinds, layout, deployment.precision, context)
    running = np.minimum(load, np.maximum(room / each, 1.0) * layout.dp)
    decode = _busy(deployment, Batch.decode_over(running / layout.pp, context, layout.dp))
    # A prompt on every rank: each device does its part of all of them.
    prompt = _busy(deployment, Batch.prefill(1.0, inputs)) / layout.dp
    others = np.maximum(running - 1.0, 0.0)
    return np.stack([*decode, *prompt, others / outputs, others / 2 / WAVES])


def _busy(deployment: Deployment, batch: Batch) -> Array:
    """Seconds of compute and of memory of a step at bare peaks, experts spread evenly, ``[2, batches]``."""
    step: StepTimes = deployment.step(batch)
    device = deployment.hardware.device
    counts = step.work.table.counts
    compute = (counts * step.ops.peak_compute_s).sum(axis=0)
    memory = (counts * step.ops.peak_memory_s).sum(axis=0)
    bandwidth = bandwidth_together(device)
    for group, values in zip(step.work.experts, step.groups, strict=True):
        compute = compute + values["mean_flops"] / peak_together(device, "gemm", group.dtype)
        memory = memory + values["mean_bytes"] / bandwidth
    return np.stack([compute, memory])
