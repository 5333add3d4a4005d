"""Errors of predictions against real runs, with the noise of the runs beside them.

A machine is now faster, now slower. Anchors are cases that were run at calibration too and are run again
among the held-out ones: in every round, the median of ``measured / measured at calibration`` over the anchors
says by how much the machine has drifted. The *paired* error of a case is the median over rounds of
``predicted * drift / measured``, less one; the *raw* error takes no drift into account. An anchor is never
scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.reference.protocol import INCONCLUSIVE, Floor, aa_floor
from moesim.validate.reference.cases import frozen
from moesim.validate.reference.described import Described
from moesim.validate.reference.predict import Predicted, predict
from moesim.validate.reference.runs import Runs

Array = npt.NDArray[np.float64]
#: Ends of the interval of `Predicted`.
LEVEL = 0.9


@dataclass(frozen=True, slots=True)
class Gate:
    """What a machine must keep to: fractions.

    Parameters
    ----------
    median, p95
        Of the absolute error.
    signed
        Of the absolute median of the signed error.
    """

    median: float
    p95: float
    signed: float = float("inf")


GATES = {"cpu": Gate(0.10, 0.20), "cuda": Gate(0.05, 0.10, 0.02)}


def scored(runs: Runs, machine: Described) -> dict[str, Any]:
    """Rows and summary of a set of runs.

    Parameters
    ----------
    runs
        Of a machine.
    machine
        Its description.

    Returns
    -------
    dict
        ``rows``: one a held-out case. ``summary``: ``n``, whether they are the ``frozen`` cases, errors under
        the names of `errors_of` of the headline ``statistic``; those of either under ``raw`` and ``paired``,
        of the plain roofline under ``roofline``, and ``by`` data type, routing, offloaded part and layer;
        ``floor`` and ``paired_floor`` (the noise without the drift), ``drift``, ``beaten``, ``gate`` and
        ``verdict``.
    """
    held = np.flatnonzero(np.isnan(runs.anchor_s))
    drift = drift_of(runs)
    paired = bool(np.isfinite(drift).all()) and len(held) < len(runs.works)
    answers = [predict(runs.works[i], machine.hardware, machine.copy_residual) for i in held]
    rows = [
        _row(runs, int(i), answer, drift if paired else np.ones_like(drift))
        for i, answer in zip(held, answers, strict=True)
    ]
    floor = aa_floor(runs.seconds)
    statistic = "paired" if paired else "raw"
    summary = {
        "device": runs.device,
        "n": len(rows),
        "rounds": len(runs.seconds),
        "frozen": {runs.works[i].case for i in held} == set(frozen(runs.device)),
        "statistic": statistic,
        **errors_of(row["error"] for row in rows),
        "coverage": float(np.mean([row["inside"] for row in rows])),
        "interval_level": LEVEL,
        "raw": errors_of(row["raw_error"] for row in rows),
        "paired": errors_of(row["error"] for row in rows) if paired else None,
        "roofline": errors_of(row["roofline_error"] for row in rows),
        "floor": {**_floor(floor), "most": INCONCLUSIVE},
        "paired_floor": _floor(aa_floor(runs.seconds / drift)) if paired else None,
        "drift": {"anchors": len(runs.works) - len(held), **_spread(drift)} if paired else None,
        "beaten": sum(row["beaten"] for row in rows),
        "beaten_by": max(row["beaten_by"] for row in rows),
        "loads_as_predicted": sum(row["loads"] == row["predicted_loads"] for row in rows),
        "by": {
            name: _by(rows, key)
            for name, key in (
                ("dtype", lambda row: row["dtype"]),
                ("routing", _routing),
                ("offloaded", lambda row: f"{row['offloaded']:.0%}"),
                ("layer", lambda row: row["layer"]),
            )
        },
    }
    gate = GATES[runs.device]
    limits = {"median": gate.median, "p95": gate.p95}
    summary["gate"] = limits | ({"signed": gate.signed} if np.isfinite(gate.signed) else {})
    summary["calibration"] = "measured" if machine.quiet else "inconclusive"
    summary["verdict"] = verdict(summary, gate, floor, machine.quiet)
    return {"rows": rows, "summary": summary}


def verdict(summary: Mapping[str, Any], gate: Gate, floor: Floor, quiet: bool) -> str:
    """``passed``, ``failed``, or ``inconclusive`` where two equal measurements are too far apart to tell."""
    if not floor.conclusive or not quiet:
        return "inconclusive"
    kept = (
        summary["median_abs_error"] <= gate.median
        and summary["p95_abs_error"] <= gate.p95
        and abs(summary["median_signed_error"]) <= gate.signed
    )
    return "passed" if kept else "failed"


def drift_of(runs: Runs) -> Array:
    """By how much the machine was slower than at calibration, ``[rounds, cases]``; NaN without anchors."""
    drift = np.full(runs.seconds.shape, np.nan)
    for group in np.unique(runs.groups):
        inside = runs.groups == group
        anchors = inside & ~np.isnan(runs.anchor_s)
        if anchors.any():
            ratio = runs.seconds[:, anchors] / runs.anchor_s[anchors]
            drift[:, inside] = np.median(ratio, axis=1)[:, None]
    return drift


def errors_of(errors: Any) -> dict[str, float]:  # noqa: ANN401 - any iterable of numbers
    """Quantiles of signed errors ``predicted / measured - 1``.

    >>> errors_of([0.1, -0.2, 0.0])["median_abs_error"], errors_of([0.1, -0.2, 0.0])["median_signed_error"]
    (0.1, 0.0)
    """
    signed = np.array(list(errors), dtype=np.float64)
    size = np.abs(signed)
    return {
        "median_abs_error": float(np.median(size)),
        "p90_abs_error": float(np.quantile(size, 0.9)),
        "p95_abs_error": float(np.quantile(size, 0.95)),
        "max_abs_error": float(size.max()),
        "median_signed_error": float(np.median(signed)),
    }


def _row(runs: Runs, i: int, answer: Predicted, drift: Array) -> dict[str, Any]:
    """One held-out case, predicted and measured."""
    work, case = runs.works[i], runs.works[i].case
    seconds = runs.seconds[:, i]
    level = seconds / drift[:, i]
    measured = float(np.exp(np.median(np.log(level))))
    law, _, name = case.routing.partition(":")
    recording = runs.recordings.get(name) if law == "trace" else None
    return {
        "name": case.name,
        "layer": case.shape.name,
        "tokens": case.tokens,
        "routing": case.routing,
        "recorded": None if recording is None else bool(recording["real"]),
        "offloaded": case.offloaded,
        "dtype": case.dtype,
        "experts_hit": int((work.counts > 0).sum()),
        "loads": int(runs.loads[i]),
        "predicted_loads": work.loads,
        "predicted_s": answer.seconds,
        "low_s": answer.low,
        "high_s": answer.high,
        "measured_s": measured,
        "raw_measured_s": float(np.median(seconds)),
        "error": answer.seconds / measured - 1.0,
        "raw_error": answer.seconds / float(np.median(seconds)) - 1.0,
        "roofline_error": answer.roofline_s / measured - 1.0,
        "inside": bool(answer.low <= measured <= answer.high),
        "bound_s": answer.bound_s,
        "beaten": bool(seconds.min() < answer.bound_s),
        "beaten_by": max(0.0, 1.0 - float(seconds.min()) / answer.bound_s),
        "parts": {
            name: {
                "predicted_s": answer.parts.get(name),
                "measured_s": float(np.median(runs.parts[name][:, i] / drift[:, i]))
                if name in runs.parts
                else None,
            }
            for name in dict.fromkeys((*answer.parts, *runs.parts))
        },
    }


def _by(rows: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]) -> dict[str, Any]:
    """Errors of the rows that share something, in the order of first appearance."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return {
        name: {
            "n": len(group),
            **errors_of(row["error"] for row in group),
            "coverage": float(np.mean([row["inside"] for row in group])),
        }
        for name, group in sorted(groups.items())
    }


def _routing(row: Mapping[str, Any]) -> str:
    """Law of a row's routing; whether a trace was recorded from a model or drawn."""
    if row["recorded"] is None:
        return str(row["routing"])
    return "trace, recorded" if row["recorded"] else "trace, drawn from a profile"


def _floor(floor: Floor) -> dict[str, float]:
    return {"median": floor.median, "p95": floor.p95}


def _spread(drift: Array) -> dict[str, float]:
    return {
        "median": float(np.median(drift)),
        "least": float(drift.min()),
        "most": float(drift.max()),
    }
