"""Calibrate a GPU: ceilings, the calibration set, the law's fit, and one description of it all."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim._version import __version__
from moesim.calibrate.reference.cuda_ceilings import Ceilings, Told, ceilings, contention, reading, silent
from moesim.calibrate.reference.cuda_file import bare_device, document
from moesim.calibrate.reference.cuda_runs import (
    DTYPE,
    PARTS,
    MakeRunner,
    Run,
    moves_of,
    product_rows,
    run_points,
    surface_rows,
)
from moesim.calibrate.reference.cuda_set import Sizes, points
from moesim.calibrate.reference.cuda_surfaces import fit_small, moves_curve
from moesim.calibrate.reference.cuda_waves import FittedWaves, Machine, fit_waves
from moesim.calibrate.reference.written import anchor_entry
from moesim.calibrate.surfaces import Error, Fitted
from moesim.cost.waves import wave_times
from moesim.hardware.tiles import Tile
from moesim.hardware.types import Device
from moesim.reference.cuda.backend import Backend, Launch
from moesim.reference.protocol import Floor

COLUMNS = (
    "aim, configuration, experts, experts per token, hidden, width, tokens, experts hit, most tokens of an"
    " expert, then us of router, top-k, sorting, gate and up, down, weighted sum"
)
#: Kernels whose time is a part of others': no floor of their own.
JOINED = ("weighted_sum",)


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedCuda:
    """What was found.

    Parameters
    ----------
    device
        Peaks and law.
    waves
        The law with its error on points left out.
    fits
        Surfaces of the small kernels.
    ceilings
        Of the machine.
    layers
        Error of the law's experts over all points with more than one, against the same parts as measured.
    floor
        How far two equal measurements are apart.
    document
        The hardware description.
    """

    device: Device
    waves: FittedWaves
    fits: tuple[Fitted, ...]
    ceilings: Ceilings
    layers: Error
    floor: Floor
    document: dict[str, Any]

    @property
    def verdict(self) -> str:
        """``measured``, or ``inconclusive`` on a machine that is too noisy."""
        return str(self.measured["verdict"])

    @property
    def measured(self) -> dict[str, Any]:
        """What the file says of how it came about."""
        processors = self.document["devices"][self.device.name]["processors"]
        return dict(processors["sm"]["kernels"]["measured"])


def calibrate_cuda(
    backend: Backend,
    make: MakeRunner,
    tiles: Sequence[Tile],
    *,
    sizes: Sizes | None = None,
    told: Told = silent,
    machine: Mapping[str, Any] | None = None,
    command: str = "moesim calibrate cuda",
    today: dt.date | None = None,
) -> CalibratedCuda:
    """Run everything and fit it.

    Parameters
    ----------
    backend
        The device.
    make
        Makes runners on it, with one configuration or choosing.
    tiles
        Configurations that the runner chooses from: names, sizes and limits.
    sizes
        How large.
    told
        Called before each step.
    machine
        State of the machine, for the file.
    command, today
        For the file.
    """
    sizes = sizes or Sizes()
    start = time.monotonic()
    facts = {
        "name": backend.name,
        "capability": list(backend.capability),
        "multiprocessors": backend.multiprocessors,
        "memory_bytes": backend.memory()[1],
        **backend.facts(),
    }
    found = ceilings(backend, sizes, told)
    runs, floor = run_points(points(tiles, backend.multiprocessors, sizes), make, sizes.rounds, told)
    told("contention of copies and kernels")
    beside = _contention(backend, make, runs, sizes)
    told("fit")
    bare = bare_device(facts, found.bandwidth_bytes_per_s, _best_flops(runs))
    processor, memory = bare.processor, bare.memory
    shares = Machine(processor.peak_flops_per_s[DTYPE] / (processor.cores or 1), memory.bandwidth_bytes_per_s)
    launch_s = found.launch_s["graph"]
    launches, moves = moves_curve(*moves_of(runs), launch_s, memory.bandwidth_bytes_per_s)
    waves = fit_waves(
        product_rows(runs, tiles, bare), tiles, shares, launch_s=launch_s, launches=launches, moves=moves
    )
    fits = tuple(
        fit_small(rows, bare, 0.0 if rows.kernel in JOINED else launch_s)
        for rows in surface_rows(runs, __version__)
    )
    device = bare_device(facts, found.bandwidth_bytes_per_s, _best_flops(runs), {DTYPE: waves.law})
    layers = _layers(runs, device)
    kept = {
        "date": (today or dt.datetime.now(dt.UTC).date()).isoformat(),
        "command": command,
        "seconds": round(time.monotonic() - start, 1),
        "verdict": "measured" if floor.conclusive else "inconclusive",
        "emulated": backend.emulated,
        "device": facts,
        "machine": dict(machine or {}),
        "floor": {"median": floor.median, "p95": floor.p95},
        "ceilings": found.to_dict(),
        "contention": beside,
        "copies": {"residual": found.host["h2d_pinned"].residual},
        "best_flops_per_s": _best_flops(runs),
        "left_out": {"products": waves.left_out.to_dict(), "experts": layers.to_dict()},
        "anchors": [
            anchor_entry(run.point.case, run.counts.tolist(), run.seconds)
            for run in runs
            if run.point.aim == "anchor"
        ],
        "run_columns": COLUMNS,
        "runs": [_kept(run) for run in runs],
    }
    whole = document(device, waves.law, fits, found, kept, backend.capability)
    return CalibratedCuda(device, waves, fits, found, layers, floor, whole)


def _best_flops(runs: Sequence[Run]) -> float:
    """Most FLOP per second that a product reached."""
    each = (
        2.0 * run.pairs * run.shape.hidden * run.shape.width * matrices / run.parts[part]
        for run in runs
        for part, matrices in (("up", 2), ("down", 1))
    )
    return max(each)


def _layers(runs: Sequence[Run], device: Device) -> Error:
    """The law's seconds of experts, as the simulator gives them, against those of its own points."""
    law = device.processor.tiles[DTYPE]
    chosen = [run for run in runs if run.point.tile is None]
    modelled = [
        float(wave_times(run.counts[None].astype(float), run.expert, device, law).seconds[0])
        for run in chosen
    ]
    measured = [sum(run.parts[name] for name in ("permute", "up", "down")) for run in chosen]
    return Error.of(np.array(modelled), np.array(measured))


def _contention(backend: Backend, make: MakeRunner, runs: Sequence[Run], sizes: Sizes) -> dict[str, Any]:
    """Of copies from the host with gate and up of the largest layer; with reading if it tells no kernels."""
    most = max((run for run in runs if run.point.aim == "experts"), key=lambda run: run.pairs)
    with ExitStack() as stack:
        runner = make(None)
        stack.callback(getattr(runner, "close", lambda: None))
        prepared = runner.prepare(most.point.case, most.point.ids())
        stack.callback(prepared.close)
        launches: Sequence[Launch] = getattr(prepared, "launches", tuple)()
        up = [launch for launch in launches if launch.kernel == "experts_up"]
        if up:
            prepared.run()
            return {"with": "experts_up", **contention(backend, up[0], sizes.transfer_bytes[-1])}
        free, _ = backend.memory()
        size = max(n for n in sizes.memory_bytes if n <= free / 4 or n == min(sizes.memory_bytes))
        buffer, sink = backend.empty((size,), np.uint8), backend.empty((16,), np.uint8)
        stack.callback(backend.free, buffer)
        stack.callback(backend.free, sink)
        return {
            "with": "read_bytes",
            **contention(backend, reading(backend, buffer, sink), sizes.transfer_bytes[-1]),
        }


def _kept(run: Run) -> str:
    """A run as the file keeps it, in the order of `COLUMNS`."""
    point, shape, us = run.point, run.shape, [1e6 * run.parts[name] for name in PARTS]
    sizes = shape.num_experts, shape.top_k, shape.hidden, shape.width, point.case.tokens
    counts = int((run.counts > 0).sum()), int(run.counts.max())
    words = (point.aim, point.tile or "-", *sizes, *counts, *(f"{x:.2f}" for x in us))
    return " ".join(map(str, words))
