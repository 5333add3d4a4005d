"""Fit the constants of serving engines to measured runs: few, each with a meaning, each held by a prior.

Physical times are linear in every constant, so that each one's share is the difference of two evaluations;
the start-up queue is one of steps, and grows with what they take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from moesim.engine.traits import OVER_BRIDGE, Traits
from moesim.validate.names import is_moe
from moesim.validate.physics import Physics, physics_of
from moesim.validate.rows import ServingRow

Array = npt.NDArray[np.float64]

#: Where nothing is known: a tenth of the start-up queue, as for ten waves.
PRIOR = Traits(host_s=1e-4, communication=1.5, request_s=0.01, first_steps=5.0, start_up=0.1)
#: Width of the priors of the logarithms.
WIDTH = {"host_s": 2.0, "communication": 0.3, "request_s": 1.0, "first_steps": 1.0, "start_up": 0.5}
#: What each metric tells.
OF_TPOT, OF_TTFT = ("host_s", "communication"), ("request_s", "first_steps", "start_up")
#: Error of a row, in logarithm, at which it starts to count less.
ERROR = {"tpot": 0.1, "ttft": 0.2}
#: Least constant to start from, as a share of the usual one.
LEAST = 0.01
#: Constants at which they do nothing, and how far each is moved to see what it does.
_NONE = Traits(start_up=0.0)
_MOVED = {"host_s": 1e-3, "communication": 1.0, "request_s": 1.0, "start_up": 1.0}


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """Physical times of measured rows for any constants; arrays are ``[rows]``.

    Parameters
    ----------
    rows
        Those that physics can answer.
    none
        Without any of the constants.
    fixed
        By constant, what the fixed part of TTFT gains per unit of it.
    step
        The same of TPOT.
    queue
        By constant of steps, what a unit of it adds to what TTFT gains per unit of `Traits.start_up`.
    """

    rows: tuple[ServingRow, ...]
    none: Physics
    fixed: Mapping[str, Array]
    step: Mapping[str, Array] = field(default_factory=dict)
    queue: Mapping[str, Array] = field(default_factory=dict)

    def physics(self, traits: Mapping[str, Traits]) -> Physics:
        """Times with these constants: exact for one pool, within a few percent of TTFT for two."""
        own = [traits.get(row.backend, Traits()) for row in self.rows]

        def moved(name: str) -> Array:
            return np.array([getattr(t, name) - getattr(_NONE, name) for t in own], dtype=np.float64)

        return replace(
            self.none,
            tpot_s=self.none.tpot_s + sum(moved(name) * slope for name, slope in self.step.items()),
            ttft_fixed_s=self.none.ttft_fixed_s
            + sum(moved(name) * slope for name, slope in self.fixed.items())
            + moved("start_up") * sum(moved(name) * slope for name, slope in self.queue.items()),
            ttft_steps=self.none.ttft_steps + moved("first_steps"),
        )

    def part(self, chosen: npt.NDArray[np.bool_]) -> Probes:
        """Some of the rows."""
        index = np.flatnonzero(chosen)
        return Probes(
            tuple(self.rows[i] for i in index.tolist()),
            self.none.part(index),
            {name: slope[index] for name, slope in self.fixed.items()},
            {name: slope[index] for name, slope in self.step.items()},
            {name: slope[index] for name, slope in self.queue.items()},
        )


def probes_of(rows: Sequence[ServingRow]) -> Probes:
    """Physical times of those rows that have any."""
    backends = {row.backend for row in rows}
    return probes_at(rows, lambda traits: physics_of(rows, dict.fromkeys(backends, traits)))


def probes_at(rows: Sequence[ServingRow], at: Callable[[Traits], Physics]) -> Probes:
    """Physical times of those rows that have any.

    Parameters
    ----------
    at
        Physical times of all rows with some constants.
    """
    none = at(_NONE)
    index = np.flatnonzero(none.predicted)
    none = none.part(index)

    def moved(*names: str) -> Physics:
        changes = {name: getattr(_NONE, name) + _MOVED[name] for name in names}
        return at(replace(_NONE, **changes)).part(index)

    one = {name: moved(name) for name in _MOVED}
    fixed = {name: (p.ttft_fixed_s - none.ttft_fixed_s) / _MOVED[name] for name, p in one.items()}
    step = {name: (one[name].tpot_s - none.tpot_s) / _MOVED[name] for name in OF_TPOT}
    queue = {
        name: (moved("start_up", name).ttft_fixed_s - one[name].ttft_fixed_s - fixed["start_up"])
        / _MOVED[name]
        for name in OF_TPOT
    }
    return Probes(tuple(rows[i] for i in index.tolist()), none, fixed, step, queue)


def fit_traits(
    probes: Sequence[Probes], use: Callable[[ServingRow], bool] = lambda _: True
) -> dict[str, Traits]:
    """Constants of every backend that has rows.

    Doubtful layouts tell nothing, and dense models only of backends without any mixture: dense runs are of
    few models and old versions, and bend constants that they share with mixtures.

    Parameters
    ----------
    probes
        Of aggregated rows, by family.
    use
        Which of their rows to learn from.
    """
    usable = [p.part(np.array([use(r) and not r.doubtful for r in p.rows], dtype=bool)) for p in probes]
    mixed = {r.backend for p in usable for r in p.rows if is_moe(r.model)}
    found = {}
    for backend in sorted({r.backend for p in usable for r in p.rows}):
        own = [
            p.part(
                np.array([r.backend == backend and (is_moe(r.model) or backend not in mixed) for r in p.rows])
            )
            for p in usable
            if p.rows
        ]
        fitted = _fit([p for p in own if p.rows])
        found[backend] = replace(fitted, over_bridge=OVER_BRIDGE.get(backend, fitted.communication))
    return found


def refit(probes: Probes, prior: Traits, told: npt.NDArray[np.bool_]) -> Traits:
    """Constants of one engine from a few runs, held near those that are known.

    Parameters
    ----------
    probes
        Of the runs, all of one engine.
    prior
        The constants that are known; they count as much as one run does.
    told
        Runs whose time to first token tells something, ``[rows]``.
    """
    return _fit([probes], prior, 1.0, told)


def _fit(
    probes: Sequence[Probes],
    prior: Traits = PRIOR,
    held: float | None = None,
    told: npt.NDArray[np.bool_] | None = None,
) -> Traits:
    rows = [row for p in probes for row in p.rows]
    tpot, ttft = (
        np.array([getattr(r, name) for r in rows], dtype=np.float64) / 1e3 for name in ("tpot_ms", "ttft_ms")
    )
    weight = _weights(rows)

    def slopes(kind: str, names: Sequence[str]) -> Array:
        return np.array(
            [
                np.concatenate([getattr(p, kind).get(name, np.zeros(len(p.rows))) for p in probes])
                for name in names
            ]
        )

    base = np.concatenate([p.none.tpot_s for p in probes])
    by_step = slopes("step", OF_TPOT)
    neutral = np.array([getattr(_NONE, name) for name in OF_TPOT])
    step = _solve(
        OF_TPOT,
        lambda x: np.log(base + (x - neutral) @ by_step),
        np.log(tpot),
        weight,
        ERROR["tpot"],
        prior,
        held,
    )
    fixed = np.concatenate([p.none.ttft_fixed_s for p in probes])
    fixed = fixed + (step - neutral) @ slopes("fixed", OF_TPOT)
    steps = np.concatenate([p.none.ttft_steps for p in probes])
    request_s, queue = slopes("fixed", ("request_s", "start_up"))
    queue = queue + (step - neutral) @ slopes("queue", OF_TPOT)
    # Measured TPOT stands for the step here: its error is not TTFT's.
    first = _solve(
        OF_TTFT,
        lambda x: np.log(fixed + x[0] * request_s + x[2] * queue + (steps + x[1]) * tpot),
        np.log(ttft),
        weight if told is None else weight * told,
        ERROR["ttft"],
        prior,
        held,
    )
    return replace(prior, **dict(zip((*OF_TPOT, *OF_TTFT), map(float, (*step, *first)), strict=True)))


def _solve(
    names: Sequence[str],
    model: Callable[[Array], Array],
    y: Array,
    weight: Array,
    error: float,
    prior: Traits,
    held: float | None,
) -> Array:
    # A constant that is known to be nothing may turn out to be something.
    start = np.log([max(getattr(prior, name), LEAST * getattr(PRIOR, name)) for name in names])
    strength = np.sqrt(len(y) / 100.0) if held is None else held
    width = np.array([WIDTH[name] for name in names])

    def residual(x: Array) -> Array:
        off = weight * (model(np.exp(x)) - y) / error
        return np.concatenate([off, (x - start) / width * strength])

    found = least_squares(residual, start, loss="soft_l1", bounds=(start - 7.0, start + 7.0)).x
    return np.asarray(np.exp(found))


def _weights(rows: Sequence[ServingRow]) -> Array:
    """Every model counts alike, however many of its runs were measured."""
    models = [row.model for row in rows]
    count = {model: models.count(model) for model in set(models)}
    weight = np.array([1.0 / count[model] for model in models])
    return np.asarray(weight / np.sqrt(np.mean(weight**2)))
