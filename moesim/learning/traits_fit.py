"""Fit the constants of serving engines to measured runs: few, each with a meaning, each held by a prior.

Physical times are linear in every constant, so that each one's share is the difference of two evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from moesim.engine.traits import Traits
from moesim.validate.names import is_moe
from moesim.validate.physics import Physics, physics_of
from moesim.validate.rows import AGG, ServingRow

Array = npt.NDArray[np.float64]

#: Where nothing is known: a tenth of the start-up queue, as for ten waves, and no waiting.
PRIOR = Traits(host_s=1e-4, communication=1.5, request_s=0.01, first_steps=5.0, start_up=0.1)
#: Width of the priors of the logarithms.
WIDTH = {"host_s": 2.0, "communication": 0.3, "request_s": 1.0, "first_steps": 1.0, "start_up": 0.5}
#: Error of a row, in logarithm, at which it starts to count less.
ERROR = {"tpot": 0.1, "ttft": 0.2}
#: Rows of one model on one machine count together as so many at most.
_SQRT = 0.5


def fit_traits(rows: Sequence[ServingRow]) -> dict[str, Traits]:
    """Constants of every backend that has rows.

    Parameters
    ----------
    rows
        Measured; aggregated rows with both measurements and a layout that can be believed are used, those of
        dense models only for backends without any of mixtures: dense runs are of few models and old versions,
        and bend constants that they share with mixtures.
    """
    known = [r for r in rows if r.supported and r.mode == AGG and not r.doubtful]
    used = [r for r in known if r.ttft_ms and r.tpot_ms]
    mixed = {r.backend for r in used if is_moe(r.model)}
    used = [r for r in used if is_moe(r.model) or r.backend not in mixed]
    return {
        backend: _fit([r for r in used if r.backend == backend], backend)
        for backend in sorted({r.backend for r in used})
    }


def _fit(rows: list[ServingRow], backend: str) -> Traits:
    at = {name: _physics(rows, backend, **change) for name, change in _PROBES.items()}
    good = at["none"].predicted
    tpot = np.array([r.tpot_ms for r in rows], dtype=np.float64)[good] / 1e3
    ttft = np.array([r.ttft_ms for r in rows], dtype=np.float64)[good] / 1e3
    weight = _weights([r for r, g in zip(rows, good, strict=True) if g])
    none = at["none"]
    base = none.tpot_s[good]
    slopes = {
        "host_s": (at["host_s"].tpot_s[good] - base) / 1e-3,
        "communication": at["communication"].tpot_s[good] - base,
    }
    host, communication = _solve(
        ("host_s", "communication"),
        lambda x: np.log(base + x[0] * slopes["host_s"] + (x[1] - 1.0) * slopes["communication"]),
        np.log(tpot),
        weight,
        ERROR["tpot"],
    )
    fixed, steps = none.ttft_fixed_s[good], none.ttft_steps[good]
    each_request = at["request_s"].ttft_fixed_s[good] - fixed
    queue = at["start_up"].ttft_fixed_s[good] - fixed
    # Measured TPOT stands for the step here: its error is not TTFT's.
    request, first, start_up = _solve(
        ("request_s", "first_steps", "start_up"),
        lambda x: np.log(fixed + x[0] * each_request + x[2] * queue + (steps + x[1]) * tpot),
        np.log(ttft),
        weight,
        ERROR["ttft"],
    )
    return Traits(host, communication, request, first, start_up)


_NONE = Traits(start_up=0.0)
_PROBES: Mapping[str, dict[str, float]] = {
    "none": {},
    "host_s": {"host_s": 1e-3},
    "communication": {"communication": 2.0},
    "request_s": {"request_s": 1.0},
    "start_up": {"start_up": 1.0},
}


def _physics(rows: list[ServingRow], backend: str, **change: float) -> Physics:
    return physics_of(rows, {backend: replace(_NONE, **change)})


def _weights(rows: list[ServingRow]) -> Array:
    cells = [(r.model, r.hardware) for r in rows]
    count = {cell: cells.count(cell) for cell in set(cells)}
    weight = np.array([count[cell] ** -_SQRT for cell in cells])
    return np.asarray(weight / np.sqrt(np.mean(weight**2)))


def _solve(names: Sequence[str], model: object, y: Array, weight: Array, error: float) -> list[float]:
    start = np.log([getattr(PRIOR, name) for name in names])
    width = np.array([WIDTH[name] for name in names])

    def residual(x: Array) -> Array:
        off = weight * (model(np.exp(x)) - y) / error  # type: ignore[operator]
        return np.concatenate([off, (x - start) / width * np.sqrt(len(y) / 100.0)])

    found = least_squares(residual, start, loss="soft_l1", bounds=(start - 7.0, start + 7.0)).x
    return [float(np.exp(x)) for x in found]
