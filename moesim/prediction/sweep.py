"""Many configurations at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.correction import Calibration, shipped
from moesim.engine.load import Load
from moesim.engine.routing import Array
from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.prediction.question import Engine, Workload, check, load_of
from moesim.prediction.served import Served
from moesim.trace.types import LoadCounts, RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Answers to many configurations, arrays ``[layouts, workloads]``.

    Infeasible configurations hold NaN.
    """

    layouts: tuple[Parallelism | Disaggregated, ...]
    workloads: tuple[Workload, ...]
    feasible: np.ndarray[Any, np.dtype[np.bool_]]
    metrics: dict[str, Array]

    def __getitem__(self, metric: str) -> Array:
        """One metric."""
        return self.metrics[metric]


def sweep(
    model: Model,
    hardware: Hardware,
    layouts: Sequence[Parallelism | Disaggregated],
    workloads: Sequence[Workload],
    *,
    trace: RoutingTrace | LoadCounts | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> Sweep:
    """Predict every workload on every layout.

    Parameters
    ----------
    layouts, workloads
        The configurations are all pairs.

    Returns
    -------
    Sweep
        Equal to calling `predict` on each pair.

    Raises
    ------
    ConfigError
        With every fault, or if some workloads have a rate and others a concurrency.
    """
    engine = engine or Engine()
    calibration = shipped() if calibration is None else calibration
    if len({w.request_rate is None for w in workloads}) > 1:
        raise ConfigError(Fault("some have a request rate and others a concurrency", "workloads"))
    load = load_of(workloads, engine)
    rows: dict[str, list[Array]] = {}
    feasible = np.zeros((len(layouts), len(workloads)), dtype=bool)
    for i, layout in enumerate(layouts):
        check(model, hardware, layout, workloads if i == 0 else [], trace, None, engine)
        served = Served.of(model, hardware, layout, engine, calibration, trace, seed=seed)
        feasible[i], values = _answers(served, load)
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    return Sweep(tuple(layouts), tuple(workloads), feasible, {n: np.array(v) for n, v in rows.items()})


def _answers(served: Served, load: Load) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], dict[str, Array]]:
    """Which loads can be answered, and the answers; NaN where not."""
    fits = served.fits(load)
    values = {name: np.full(len(fits), np.nan) for name in _ANSWERS}
    if not fits.any():
        return fits, values
    part, stable = served.settled(load.part(fits))
    fits[fits] = stable
    if fits.any():
        part = part.part(stable)
        for name, value in served.metrics(served.state(part), part).items():
            values[name][fits] = value
    return fits, values


_ANSWERS = (
    "ttft_s",
    "tpot_s",
    "e2el_s",
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "output_throughput_per_device",
)
