"""Many configurations at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
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
from moesim.shown import block, table
from moesim.tabular import Tabular
from moesim.trace.types import LoadCounts, RoutingTrace

#: Rows that a notebook shows at once.
MOST_ROWS = 24


@dataclass(frozen=True, slots=True, eq=False)
class Sweep(Tabular):
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

    def columns(self) -> dict[str, Any]:
        """A row per configuration, layouts outermost."""
        pairs = [(layout, load) for layout in self.layouts for load in self.workloads]
        asked = ("input_len", "output_len", "concurrency", "request_rate")
        return {
            "layout": [str(layout) for layout, _ in pairs],
            "devices": [layout.world for layout, _ in pairs],
            **{name: [getattr(load, name) for _, load in pairs] for name in asked},
            "feasible": self.feasible.ravel(),
            **{name: values.ravel() for name, values in self.metrics.items()},
        }

    def _repr_html_(self) -> str:
        found = self.columns()
        load = "concurrency" if self.workloads and self.workloads[0].request_rate is None else "request_rate"
        rows = zip(
            found["layout"],
            found["input_len"],
            found["output_len"],
            found[load],
            *(1e3 * found[name] for name in ("ttft_s", "tpot_s")),
            found["output_throughput"],
            strict=True,
        )
        shown = list(islice(rows, MOST_ROWS))
        left = len(found["layout"]) - len(shown)
        return block(
            f"{len(self.layouts)} layouts x {len(self.workloads)} workloads, "
            f"{int(self.feasible.sum())} of {self.feasible.size} feasible",
            table(
                [
                    "layout",
                    "tokens in",
                    "tokens out",
                    load.replace("_", " "),
                    "TTFT, ms",
                    "TPOT, ms",
                    "output tokens/s",
                ],
                shown,
            ),
            notes=[f"{left} more rows: .to_pandas()"] if left else [],
        )


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
