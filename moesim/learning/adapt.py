"""Bring a calibration nearer to a user's own runs, of which there are few.

Constants of the engines are fitted again, held near the known ones. What is then left of the runs is learnt
as one more campaign of the same effects: the process is conditioned on its residuals as if it knew nothing
else (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 2.7), so that it follows
the user's runs where there are any, and what was known before elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.correction import NOVELTY, Calibration, Family, Identity, Process
from moesim.correction.calibration import CAMPAIGN
from moesim.engine.load import Load
from moesim.engine.traits import Traits
from moesim.errors import ConfigError, Fault
from moesim.learning.covariance import covariance
from moesim.learning.held_out import NOISE
from moesim.learning.own_runs import OwnRun, probes_of_runs
from moesim.learning.process_fit import equal_bits
from moesim.learning.traits_fit import refit

Array = npt.NDArray[np.float64]
#: Where effects are believed for less, own runs are not blown up to make up for it.
LEAST_TRUST = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """Runs before and after; arrays are ``[runs]``, logarithms of measured over predicted.

    Parameters
    ----------
    runs
        What was learnt from.
    before
        By metric, by the calibration as it was.
    after
        By metric, each run predicted from the others; NaN where there are none, or nothing was measured.
    """

    runs: tuple[OwnRun, ...]
    before: Mapping[str, Array]
    after: Mapping[str, Array]


def adapt(calibration: Calibration, runs: Sequence[OwnRun], source: str = "") -> tuple[Calibration, Adapted]:
    """A calibration that knows a user's runs.

    Parameters
    ----------
    calibration
        To start from.
    runs
        Measured.
    source
        Where they are from, for the provenance.

    Raises
    ------
    ConfigError
        If the calibration knows no deployments of such a kind.
    """
    traits = dict(calibration.traits)
    for backend in sorted({run.engine.backend for run in runs}):
        own = [run for run in runs if run.engine.backend == backend]
        told = np.array([run.ttft_s is not None for run in own])
        traits[backend] = _refitted(own, traits.get(backend, Traits()), told)
    families = dict(calibration.families)
    before = _off(calibration, runs)
    after = {metric: np.full(len(runs), np.nan) for metric in before}
    with_traits = replace(calibration, traits=traits)
    for name, family in calibration.families.items():
        mine = [i for i, run in enumerate(runs) if run.served(calibration).family is family]
        if not mine:
            continue
        families[name], left = _extended(with_traits, family, [runs[i] for i in mine])
        for metric, values in left.items():
            after[metric][mine] = values
    if all(families[name] is family for name, family in calibration.families.items()):
        kinds = ", ".join(calibration.families) or "none"
        raise ConfigError(Fault("the calibration knows no deployments of this kind", allowed=kinds), source)
    provenance = {**calibration.provenance, "adapted": {"runs": len(runs), "source": source}}
    adapted = Calibration(traits, families, calibration.level, provenance)
    return adapted, Adapted(tuple(runs), before, after)


def _refitted(runs: Sequence[OwnRun], known: Traits, told: npt.NDArray[np.bool_]) -> Traits:
    """Constants of one engine; what collectives take in a step is of the links that the runs were on."""
    bridge = all(run.hardware.scale_up.topology == "tree" for run in runs)
    prior = replace(known, communication=known.over_bridge) if bridge else known
    found = refit(probes_of_runs(runs), prior, told)
    if not bridge:
        return found
    return replace(found, communication=known.communication, over_bridge=found.communication)


def _off(calibration: Calibration, runs: Sequence[OwnRun]) -> dict[str, Array]:
    """Logarithm of measured over predicted."""
    found = {metric: np.full(len(runs), np.nan) for metric in ("tpot", "ttft")}
    for i, run in enumerate(runs):
        served = run.served(calibration)
        state = served.state(run.load)
        found["tpot"][i] = np.log(run.tpot_s / state.tpot_s[0])
        if run.ttft_s is not None:
            found["ttft"][i] = np.log(run.ttft_s / state.ttft_s[0])
    return found


def _extended(
    calibration: Calibration, family: Family, runs: Sequence[OwnRun]
) -> tuple[Family, dict[str, Array]]:
    """The family with one more campaign, and what is left of each run when the others are known."""
    served = [run.served(calibration) for run in runs]
    labels = [s.identity.labels() for s in served]
    values = np.vstack([_values(s.identity, run.load) for s, run in zip(served, runs, strict=True)])
    physical = [s.physical(run.load) for s, run in zip(served, runs, strict=True)]
    whole = np.array(
        [float((p.ttft_fixed_s + p.ttft_steps * r.tpot_s)[0]) for p, r in zip(physical, runs, strict=True)]
    )
    beyond = {
        "tpot": np.log([r.tpot_s / float(p.tpot_s[0]) for p, r in zip(physical, runs, strict=True)]),
        "ttft": np.array([np.nan if r.ttft_s is None else r.ttft_s for r in runs]),
    }
    beyond["ttft"] = np.log(beyond["ttft"] / whole)
    processes, left = {}, {}
    for metric, trust in zip(("tpot", "ttft"), family.trust[CAMPAIGN][NOVELTY[0]], strict=True):
        process: Process = getattr(family, metric)
        # Predictions will take this share of the process: what they are to say is learnt undivided.
        processes[metric], left[metric] = conditioned(
            process, labels, values, beyond[metric] / max(trust, LEAST_TRUST), NOISE[metric]
        )
    silent = np.zeros(len(runs))
    scales = {
        novelty: {metric: process.with_rows(labels, values, silent) for metric, process in by.items()}
        for novelty, by in family.scales.items()
    }
    return replace(family, tpot=processes["tpot"], ttft=processes["ttft"], scales=scales), left


def conditioned(
    process: Process, labels: Sequence[tuple[str, ...]], values: Array, y: Array, noise: float
) -> tuple[Process, Array]:
    """A process that knows some more rows; those without a value have no say.

    Returns
    -------
    tuple
        The process, and what is left of each row when it is predicted from all others, ``[rows]``.
    """
    known = ~np.isnan(y)
    silent = process.with_rows(labels, values, np.zeros(len(y)))
    weights, left = np.zeros(len(y)), np.full(len(y), np.nan)
    if known.any():
        codes = silent.codes[-len(y) :][known]
        own = values[known]
        own_labels = [labels[i] for i in np.flatnonzero(known).tolist()]
        residual = np.asarray(y[known]) - process.mean(process.encode(own_labels), own)
        masks, rates, variances = silent.effects
        matrix = covariance(equal_bits(codes), own, masks, rates, variances) + noise * np.eye(known.sum())
        inverse = np.linalg.inv(matrix)
        weights[known] = inverse @ residual
        if known.sum() > 1:
            # Each row predicted from all others (Rasmussen and Williams, eq. 5.12).
            left[known] = weights[known] / np.diag(inverse)
    return process.with_rows(labels, values, weights), left


def _values(identity: Identity, load: Load) -> Array:
    return identity.values(load.input_len, load.output_len, load.concurrency)
