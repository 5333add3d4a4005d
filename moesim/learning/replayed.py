"""Constants of an engine from runs of which every request is known: each run is served again, until it fits.

What a step adds to its kernels (`Traits.host_s`) and what collectives take in a step over the same alone are
fitted to the times of requests; the rest of the constants are left alone. They are held near those that are
known, which count as much as one run, so that what a run cannot tell stays as it was: one device has no
collectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from moesim.correction import Calibration
from moesim.engine.traits import Traits
from moesim.errors import ConfigError, Fault
from moesim.learning.traits_fit import LEAST, PRIOR, WIDTH
from moesim.validate.distances import Sample
from moesim.validate.replay import Setup, replay
from moesim.validate.run_report import Given, requests_of, setup_of
from moesim.validate.runs import BenchmarkRun

Array = npt.NDArray[np.float64]

#: Error in logarithm at which a metric starts to count less, and groups of requests by arrival in which the
#: time between tokens is compared: early and late ones meet batches of other sizes.
ERROR = {"ttft": 0.15, "tpot": 0.05, "e2el": 0.05}
GROUPS = 5
#: Constants that are fitted, the second by the link of the run's machine.
FITTED = ("host_s", "communication", "over_bridge")
#: Runs of the simulator for one fit, and the step in logarithm in which slopes are taken.
MOST_RUNS, STEP = 8, 0.1


@dataclass(frozen=True, slots=True)
class Fit:
    """Errors of one run, signed, of the means by metric.

    Parameters
    ----------
    path
        The run.
    before, after
        With the constants as they were, and fitted to all runs.
    from_others
        Fitted to all other runs of its engine; None where there are none.
    """

    path: str
    before: dict[str, float]
    after: dict[str, float]
    from_others: dict[str, float] | None


def fit_replayed(
    runs: Sequence[BenchmarkRun], given: Given, known: Calibration, source: str = "", seed: int = 0
) -> tuple[Calibration, list[Fit]]:
    """A calibration with constants fitted to runs, and how far off it is.

    Parameters
    ----------
    runs
        With their requests and the time of each.
    given
        What the user knows better about them.
    known
        The calibration to start from.
    source
        Where the runs are from, for the provenance.
    seed
        Of routing draws.

    Raises
    ------
    ConfigError
        Naming runs whose requests are not recorded one by one.
    """
    faults = [
        Fault(f"{run.path}: requests and their times are not recorded one by one")
        for run in runs
        if run.requests is None or not {"ttft", "tpot", "e2el"} <= run.samples.keys()
    ]
    if faults:
        raise ConfigError(faults)
    served = [_Served(run, setup_of(run, given)[0], seed) for run in runs]
    traits = dict(known.traits)
    found: list[Fit] = []
    for backend in sorted({one.setup.backend for one in served}):
        own = [one for one in served if one.setup.backend == backend]
        prior = known.traits.get(backend, Traits())
        traits[backend] = _fitted(own, prior)
        for one in own:
            others = [other for other in own if other is not one]
            apart = _fitted(others, prior) if others else None
            found.append(
                Fit(
                    one.run.path,
                    one.errors(prior),
                    one.errors(traits[backend]),
                    None if apart is None else one.errors(apart),
                )
            )
    provenance = {**known.provenance, "replayed": {"runs": len(runs), "source": source}}
    return Calibration(traits, known.families, known.level, provenance), found


class _Served:
    """A run, and what it would have been with some constants."""

    def __init__(self, run: BenchmarkRun, setup: Setup, seed: int) -> None:
        self.run, self.setup, self.seed = run, setup, seed
        self.requests, _ = requests_of(run, seed)

    def logs(self, traits: Traits) -> Array:
        """Logarithms of predicted over measured, in units of `ERROR`."""
        samples = self._samples(traits)
        parts = []
        for metric, error in ERROR.items():
            mine, true = samples[metric].values, self.run.samples[metric].values
            both = np.isfinite(mine) & np.isfinite(true) & (true > 0)
            groups = GROUPS if metric == "tpot" else 1
            for part in np.array_split(np.flatnonzero(both), groups):
                if len(part):
                    log = np.log(mine[part].mean() / true[part].mean())
                    parts.append(log / error / np.sqrt(groups))
        return np.array(parts)

    def errors(self, traits: Traits) -> dict[str, float]:
        """Signed errors of means."""
        samples = self._samples(traits)
        return {
            metric: float(
                np.nanmean(samples[metric].values) / np.nanmean(self.run.samples[metric].values) - 1
            )
            for metric in ERROR
        }

    def _samples(self, traits: Traits) -> Mapping[str, Sample]:
        found = replay(self.requests, replace(self.setup, traits=traits), self.seed)
        return found.samples(self.run.itl_of, self.run.counted_from)


def _fitted(runs: Sequence[_Served], prior: Traits) -> Traits:
    """Constants that fit runs of one engine, held near those that are known."""
    links = {one.setup.hardware.scale_up.topology == "tree" for one in runs}
    ranks = max(one.setup.layout.world for one in runs)
    names = ["host_s"]
    if ranks > 1:
        names += [name for name, tree in (("communication", False), ("over_bridge", True)) if tree in links]
    start = np.log([max(getattr(prior, name), LEAST * getattr(PRIOR, name)) for name in names])
    width = np.array([WIDTH["communication" if name == "over_bridge" else name] for name in names])

    def traits_at(x: Array) -> Traits:
        return replace(prior, **dict(zip(names, map(float, np.exp(x)), strict=True)))

    def residual(x: Array) -> Array:
        return np.concatenate([*(one.logs(traits_at(x)) for one in runs), (x - start) / width])

    best = least_squares(
        residual, start, diff_step=STEP / np.abs(start), max_nfev=MOST_RUNS, xtol=1e-3, ftol=1e-3,
        bounds=(start - 7.0, start + 7.0),
    )  # fmt: skip
    return traits_at(best.x)
