"""Fit the constants of serving engines to measured runs: few, each with a meaning, each held by a prior.

Only what no kernel table knows of time to first token is fitted. Host time per step and slower collectives
are left at their neutral values: fitted, they lower errors on the runs they saw by less than half a point,
and raise them on models and systems they did not see, for each engine served too few models to tell them
from what is special about a model.

Physical times are linear in every constant, so that each one's share is the difference of two evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from moesim.engine.traits import Traits
from moesim.validate.names import is_moe
from moesim.validate.physics import Physics, physics_of
from moesim.validate.rows import ServingRow

Array = npt.NDArray[np.float64]

#: Where nothing is known: a tenth of the start-up queue, as for ten waves.
PRIOR = Traits(request_s=0.01, first_tokens=5.0, start_up=0.1)
#: Width of the priors of the logarithms.
WIDTH = {"request_s": 1.0, "first_tokens": 1.0, "start_up": 0.5}
#: Error of a row, in logarithm, at which it starts to count less.
ERROR = 0.2
_NONE = Traits(start_up=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """Physical times of measured rows for any constants; arrays are ``[rows]``.

    Parameters
    ----------
    rows
        Those that physics can answer.
    none
        Without any of the constants.
    each_request, queue
        What TTFT gains per second of `Traits.request_s`, and with all of the start-up queue.
    """

    rows: tuple[ServingRow, ...]
    none: Physics
    each_request: Array
    queue: Array

    def physics(self, traits: Mapping[str, Traits]) -> Physics:
        """Times with these constants: exact for one pool, within a few percent of TTFT for two."""
        own = [traits.get(row.backend, Traits()) for row in self.rows]
        request, first, start_up = np.array([(t.request_s, t.first_tokens, t.start_up) for t in own]).T
        return replace(
            self.none,
            ttft_fixed_s=self.none.ttft_fixed_s + request * self.each_request + start_up * self.queue,
            ttft_steps=self.none.ttft_steps + first - 1.0,
        )


def probes_of(rows: Sequence[ServingRow]) -> Probes:
    """Physical times of those rows that have any."""
    backends = {row.backend for row in rows}
    at = [
        physics_of(rows, dict.fromkeys(backends, traits))
        for traits in (_NONE, replace(_NONE, request_s=1.0), replace(_NONE, start_up=1.0))
    ]
    index = np.flatnonzero(at[0].predicted)
    none, request, queue = (physics.part(index) for physics in at)
    return Probes(
        tuple(rows[i] for i in index.tolist()),
        none,
        request.ttft_fixed_s - none.ttft_fixed_s,
        queue.ttft_fixed_s - none.ttft_fixed_s,
    )


def fit_traits(
    probes: Sequence[Probes], use: Callable[[ServingRow], bool] = lambda _: True
) -> dict[str, Traits]:
    """Constants of every backend that has rows.

    Rows are used if their layout can be believed, those of dense models only for backends without any of
    mixtures: dense runs are of few models and old versions, and bend constants that they share with mixtures.

    Parameters
    ----------
    probes
        Of aggregated rows, by family.
    use
        Which of their rows may be learnt from.
    """
    believed = [[not row.doubtful and use(row) for row in p.rows] for p in probes]
    mixed = {
        row.backend
        for p, good in zip(probes, believed, strict=True)
        for row, known in zip(p.rows, good, strict=True)
        if known and is_moe(row.model)
    }
    chosen = [
        np.array(
            [
                known and (is_moe(row.model) or row.backend not in mixed)
                for row, known in zip(p.rows, good, strict=True)
            ],
            dtype=bool,
        )
        for p, good in zip(probes, believed, strict=True)
    ]
    rows = [p.rows[i] for p, c in zip(probes, chosen, strict=True) for i in np.flatnonzero(c).tolist()]
    backend = np.array([row.backend for row in rows])
    # By column: TTFT without constants, steps in it, and its slopes.
    columns = [
        np.column_stack([p.none.ttft_fixed_s, p.none.ttft_steps, p.each_request, p.queue])[c]
        for p, c in zip(probes, chosen, strict=True)
    ]
    times = np.vstack(columns) if columns else np.empty((0, 4))
    found = {}
    for name in sorted(set(backend.tolist())):
        own = np.flatnonzero(backend == name)
        found[name] = _fit([rows[i] for i in own.tolist()], times[own])
    return found


def _fit(rows: list[ServingRow], times: Array) -> Traits:
    tpot, ttft = (np.array([getattr(r, name) for r in rows], dtype=np.float64) / 1e3 for name in _MEASURED)
    fixed, steps, each_request, queue = times.T
    weight = _weights(rows)
    names = tuple(WIDTH)
    start = np.log([getattr(PRIOR, name) for name in names])
    width = np.array(list(WIDTH.values()))

    def residual(x: Array) -> Array:
        request, first, start_up = np.exp(x)
        # Measured TPOT stands for the step here: its error is not TTFT's.
        predicted = fixed + request * each_request + start_up * queue + (steps + first - 1.0) * tpot
        off = weight * np.log(predicted / ttft) / ERROR
        return np.concatenate([off, (x - start) / width * np.sqrt(len(ttft) / 100.0)])

    found = least_squares(residual, start, loss="soft_l1", bounds=(start - 7.0, start + 7.0)).x
    request, first, start_up = (float(np.exp(x)) for x in found)
    return Traits(request_s=request, first_tokens=max(first, 1.0), start_up=start_up)


_MEASURED = ("tpot_ms", "ttft_ms")


def _weights(rows: list[ServingRow]) -> Array:
    """Every model counts alike, however many of its runs were measured."""
    models = [row.model for row in rows]
    count = {model: models.count(model) for model in set(models)}
    weight = np.array([1.0 / count[model] for model in models])
    return np.asarray(weight / np.sqrt(np.mean(weight**2)))
