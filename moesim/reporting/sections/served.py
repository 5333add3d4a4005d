"""Predictions beside a table of measured serving runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.reporting import figures
from moesim.reporting.documents import ServingValidation
from moesim.reporting.figures import Figure
from moesim.reporting.figures.given import percent
from moesim.reporting.sections.parts import Answer, Table, filled
from moesim.reporting.sections.validations import METRICS, MOST_ROWS, Parts, said, share, tile


def parts(document: ServingValidation) -> Parts:
    """A table of measured serving runs."""
    summary, calibration = document.summary, document.summary.calibration
    fitted = calibration is not None and calibration.warning
    leads, proven, doubts = [], [], []
    shown: list[Figure] = []
    errors: dict[str, list[float]] = {}
    for metric, title in METRICS.items():
        scores = getattr(summary, metric)
        judged = scores.sets.get("judged")
        if judged is None or not judged.n:
            continue
        leads.append(
            f"{title} of {judged.n:,} runs is off by {said(judged.median)} in the median and "
            f"{said(judged.p90)} at "
            "the 90th percentile"
        )
        if judged.coverage is not None:
            proven.append(
                f"{percent(judged.coverage)} of measured {title} lie inside the predicted interval."
            )
        line, same = scores.roofline.get("roofline"), scores.roofline.get("predicted")
        if line is not None and same is not None and line.n:
            proven.append(
                f"On the {line.n:,} of them that a fitted roofline can predict, it is off by "
                f"{said(line.median)} in "
                f"the median, moesim by {said(same.median)}."
            )
        points = document.points.get(metric)  # type: ignore[call-overload]
        if points is not None and points.measured:
            shown.append(
                figures.predicted_against_measured(
                    points.predicted, points.measured, low=points.low, high=points.high, groups=points.names,
                    metric=f"{metric}_s",
                )
            )  # fmt: skip
            errors[title] = [
                p / m - 1
                for p, m in zip(points.predicted, points.measured, strict=True)
                if p is not None and m
            ]
    if any(errors.values()):
        shown.append(figures.error_cdf({name: values for name, values in errors.items() if values}))
    lead = f"{'; '.join(leads)}." if leads else "No row has both a measurement and a prediction."
    held = _told(document)
    if fitted and calibration is not None:
        warning = calibration.warning or ""
        lead = f"{held} The rows themselves were fitted to: {lead[:1].upper()}{lead[1:]}".strip()
        doubts.append(f"{warning[:1].upper()}{warning[1:]}.")
    elif held:
        proven.append(held)
    counts = summary.counts
    doubts += [
        f"{n:,} rows are {what}." for name, what in (
            ("doubtful", "doubtful as they are recorded, and not judged"),
            ("inconsistent", "in contradiction to other rows, and not judged"),
            ("repaired", "read otherwise than they are written"),
        ) if (n := counts.get(name, 0))
    ]  # fmt: skip
    tables = [_scores(summary.tpot.sets, "TPOT"), _scores(summary.ttft.sets, "TTFT")]
    tables += [
        _scores(table, f"{title} by {key}", folded=True)
        for metric, title in METRICS.items()
        for key, table in getattr(summary, metric).by.items()
    ]
    tables.insert(0, _held_out(document))
    reasons = sorted(summary.not_predicted.items(), key=lambda row: -row[1])[:MOST_ROWS]
    tables.append(Table("Not predicted", ("why", "rows"), tuple((why, f"{n:,}") for why, n in reasons)))
    judged_tiles = [
        tile(f"{title}, median error", found.median, "of a fit" if fitted else f"n = {found.n:,}")
        for metric, title in METRICS.items()
        if (found := getattr(summary, metric).sets.get("judged")) is not None
    ]
    missing = [] if document.points else ["Single runs: the data holds no rows."]
    return (
        Answer(lead, filled(("Measured", proven), ("Uncertain", doubts))),
        shown,
        tables,
        missing,
        judged_tiles,
    )


def _scores(sets: Mapping[str, Any], title: str, folded: bool = False) -> Table:
    rows = tuple(
        (
            name,
            f"{one.n:,}",
            share(one.median),
            share(one.mean),
            share(one.p90),
            share(one.signed, signed=True),
            share(one.coverage),
        )
        for name, one in list(sets.items())[:MOST_ROWS]
        if one.n
    )
    columns = (
        "rows",
        "n",
        "median error, %",
        "mean, %",
        "90th percentile, %",
        "signed, %",
        "inside interval, %",
    )
    return Table(f"{title}: predicted over measured, less one", columns, rows, folded=folded)


def _told(document: ServingValidation) -> str:
    """How far predictions of held-out runs are off: the best and the worst kind of split."""
    calibration = document.summary.calibration
    found: list[str] = []
    for metric, title in METRICS.items():
        known = [
            (median, f"{family}, new {split}s")
            for family, splits in ((calibration.held_out or {}) if calibration else {}).items()
            for split, metrics in splits.items()
            if (median := metrics.get(metric, {}).get("median")) is not None
        ]
        if known:
            (low, near), (high, far) = min(known), max(known)
            found.append(f"{title} is off by {said(low)} ({near}) to {said(high)} ({far}) in the median")
    return f"Of held-out runs, by fits that had not seen them, {' and '.join(found)}." if found else ""


def _held_out(document: ServingValidation) -> Table:
    calibration = document.summary.calibration
    rows = tuple(
        (
            family,
            split,
            metric.upper(),
            *(share(values.get(name)) for name in ("median", "p90", "coverage")),
        )
        for family, splits in ((calibration.held_out or {}) if calibration else {}).items()
        for split, metrics in splits.items()
        for metric, values in metrics.items()
    )
    columns = (
        "family",
        "held out by",
        "metric",
        "median error, %",
        "90th percentile, %",
        "inside interval, %",
    )
    return Table("Held-out runs of the calibration, by fits that had not seen them", columns, rows)
