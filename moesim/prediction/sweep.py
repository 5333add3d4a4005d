"""Many configurations at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.engine.memory import cache_per_sequence
from moesim.engine.routing import Array
from moesim.engine.steady import steady
from moesim.hardware.types import Hardware
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.prediction.kept import deployment_of
from moesim.prediction.predict import throughput
from moesim.prediction.question import Engine, Workload, check, load_of
from moesim.trace.types import LoadCounts, RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Answers to many configurations, arrays ``[layouts, workloads]``.

    Infeasible configurations hold NaN.
    """

    layouts: tuple[Parallelism, ...]
    workloads: tuple[Workload, ...]
    feasible: np.ndarray[Any, np.dtype[np.bool_]]
    metrics: dict[str, Array]

    def __getitem__(self, metric: str) -> Array:
        """One metric."""
        return self.metrics[metric]


def sweep(
    model: Model,
    hardware: Hardware,
    layouts: Sequence[Parallelism],
    workloads: Sequence[Workload],
    *,
    trace: RoutingTrace | LoadCounts | None = None,
    engine: Engine | None = None,
    seed: int = 0,
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
    """
    engine = engine or Engine()
    load = load_of(workloads, engine)
    rows: dict[str, list[Array]] = {}
    feasible = np.zeros((len(layouts), len(workloads)), dtype=bool)
    for i, layout in enumerate(layouts):
        check(model, hardware, layout, workloads if i == 0 else [], trace, None, engine)
        deployment = deployment_of(model, hardware, layout, engine, trace, None, seed)
        memory = deployment.memory(engine.chunk_tokens, engine.memory_utilisation)
        whole = cache_per_sequence(
            deployment.kinds, layout, deployment.precision, load.input_len + load.output_len
        )
        fits = np.asarray(memory.cache_budget_bytes >= whole)
        feasible[i] = fits
        values = _empty(len(workloads))
        if fits.any():
            part = load.part(fits)
            found = throughput(steady(deployment, part, memory), part, deployment)
            for name, value in found.items():
                values[name][fits] = value
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    return Sweep(tuple(layouts), tuple(workloads), feasible, {n: np.array(v) for n, v in rows.items()})


_ANSWERS = (
    "ttft_s",
    "tpot_s",
    "e2el_s",
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "output_throughput_per_device",
)


def _empty(size: int) -> dict[str, Array]:
    return {name: np.full(size, np.nan) for name in _ANSWERS}
