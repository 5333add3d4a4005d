"""A user's runs, in the terms of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.correction import Calibration
from moesim.engine.load import Load
from moesim.engine.traits import Traits
from moesim.errors import ConfigError, Fault
from moesim.hardware import Hardware
from moesim.layout import Parallelism
from moesim.learning.traits_fit import Probes, probes_at
from moesim.model import Model
from moesim.prediction import Engine, Workload
from moesim.prediction.question import check, load_of
from moesim.prediction.served import Served
from moesim.validate.physics import FIELDS, PREDICTED, Physics
from moesim.validate.rows import AGG, LENGTH, ServingRow
from moesim.validate.run_report import Given, setup_of
from moesim.validate.runs import BenchmarkRun


@dataclass(frozen=True, slots=True, eq=False)
class OwnRun:
    """A measured run.

    Parameters
    ----------
    path
        Where it is from.
    model, hardware, layout, engine, workload
        As `moesim.predict` takes them.
    tpot_s, ttft_s
        Means. The latter is None where it tells nothing: a queue that grew while requests came faster than
        they were answered.
    """

    path: str
    model: Model
    hardware: Hardware
    layout: Parallelism
    engine: Engine
    workload: Workload
    tpot_s: float
    ttft_s: float | None

    @property
    def load(self) -> Load:
        """The traffic as arrays of one."""
        return load_of([self.workload], self.engine)

    def served(self, calibration: Calibration) -> Served:
        """What answered."""
        return Served.of(self.model, self.hardware, self.layout, self.engine, calibration)


def own_run(run: BenchmarkRun, given: Given) -> OwnRun:
    """A benchmark's run in the terms of a prediction.

    Of an open loop as many requests count as decoded at once: throughput times time spent decoding, by
    Little's law.

    Raises
    ------
    ConfigError
        If it does not say what was served, or TPOT was not measured.
    """
    setup, _ = setup_of(run, given)
    inputs, outputs = run.input_tokens.mean, run.output_tokens.mean
    tpot, ttft = run.measured["tpot"].mean, run.measured["ttft"].mean
    concurrency = None if run.concurrency is None else float(min(run.concurrency, run.completed))
    rate = run.request_throughput
    closed = concurrency is not None and run.request_rate is None
    if not closed and rate and tpot and outputs:
        concurrency = max(rate * (outputs - 1.0) * tpot, 1.0)
    if not inputs or not outputs or not tpot or concurrency is None:
        missing = "mean lengths, TPOT, and concurrency or requests/s are needed"
        raise ConfigError(Fault("does not say enough to learn from", allowed=missing), run.path)
    workload = Workload(max(inputs, 1.0), max(outputs, 1.0), concurrency)
    check(setup.model, setup.hardware, setup.layout, [workload], None, None, setup.engine)
    return OwnRun(
        run.path,
        setup.model,
        setup.hardware,
        setup.layout,
        setup.engine,
        workload,
        tpot,
        ttft if closed and ttft else None,
    )


def probes_of_runs(runs: Sequence[OwnRun]) -> Probes:
    """Physical times of runs for any constants of their engines."""

    def physics(traits: Traits) -> Physics:
        traits = replace(traits, over_bridge=traits.communication)
        states = [
            run.served(Calibration({run.engine.backend: traits}, {})).physical(run.load) for run in runs
        ]
        tpot, fixed, steps, bound_tpot, bound_ttft, running = (
            np.array([float(getattr(state, name)[0]) for state in states]) for name in FIELDS
        )
        blank = [""] * len(runs)
        predicted = [PREDICTED] * len(runs)
        return Physics(tpot, fixed, steps, bound_tpot, bound_ttft, running, predicted, blank, blank)

    return probes_at([_row(run) for run in runs], physics)


def _row(run: OwnRun) -> ServingRow:
    """A run as a row of a table; a user's own is not doubted."""
    return ServingRow(
        line=0,
        id=run.path,
        source="",
        backend=run.engine.backend,
        version="",
        model_path="",
        model=run.model.name,
        system="",
        hardware=run.hardware.name,
        nodes=None,
        precision="",
        dtype=run.engine.dtype,
        mode=AGG,
        isl=run.workload.input_len / LENGTH,
        osl=run.workload.output_len / LENGTH,
        concurrency=run.workload.concurrency or 0.0,
        layout=run.layout,
        prefill=None,
        decode=None,
        measured="",
        config_id="",
        campaign="",
        repairs=(),
        doubtful="",
        ttft_ms=1e3 * (run.ttft_s or run.tpot_s),
        tpot_ms=1e3 * run.tpot_s,
    )
