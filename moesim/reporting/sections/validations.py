"""Predictions beside measurements: serving and benchmark runs, kernels, published figures, a machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moesim.reporting import figures
from moesim.reporting.documents import (
    Document,
    KernelsValidation,
    PublishedValidation,
    ReferenceValidation,
    RunsValidation,
    ServingValidation,
)
from moesim.reporting.figures import Figure
from moesim.reporting.figures.given import percent
from moesim.reporting.sections.parts import Answer, Section, Table, filled, unique
from moesim.reporting.tiles import Number, Tile

_METRICS = {"tpot": "TPOT", "ttft": "TTFT"}
_STATISTICS = ("mean", "median", "p90", "p99")
_ROWS = 60

#: Of one document: answer, figures, tables, what is missing, tiles.
Parts = tuple[Answer, Sequence[Figure], Sequence[Table], Sequence[str], Sequence[Tile]]


def maker(key: str, parts: Callable[[Any], Parts]) -> Callable[..., list[Section]]:
    """What makes a section of each document of one kind."""

    def sections_of(found: Sequence[Document], labels: Sequence[str], several: bool) -> list[Section]:
        """A section for each."""
        made = []
        for nth, (one, label) in enumerate(zip(found, labels, strict=True)):
            answer, shown, tables, missing, numbers = parts(one)
            title = label if several or len(found) > 1 else ""
            kept = tuple(table for table in tables if table.rows)
            made.append(
                Section(
                    f"{key}{nth + 1}",
                    title,
                    answer,
                    tuple(shown),
                    kept,
                    tuple(missing),
                    unique(one.warnings),
                    tuple(numbers),
                )
            )
        return made

    return sections_of


def share(value: float | None, signed: bool = False) -> str:
    """An error in a cell, in percent.

    >>> share(0.0123), share(-0.5, signed=True), share(None)
    ('1.23', '-50.00', '-')
    """
    return "-" if value is None else f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


def said(value: float | None) -> str:
    """An error in a sentence."""
    return "an unknown share" if value is None else f"{100 * value:.3g} %"


def tile(title: str, value: float | None, note: str = "") -> Tile:
    """An error, large."""
    return Tile(
        title, "%", (Number("-" if value is None else f"{100 * value:.3g}", value, note=note),), (), "less"
    )


def serving(document: ServingValidation) -> Parts:
    """A table of measured serving runs."""
    summary, calibration = document.summary, document.summary.calibration
    fitted = calibration is not None and calibration.warning
    leads, proven, doubts = [], [], []
    shown: list[Figure] = []
    errors: dict[str, list[float]] = {}
    for metric, title in _METRICS.items():
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
    if fitted:
        lead = (
            f"These rows were fitted to, so their errors are those of a fit, no measure of accuracy: {lead}"
        )
        assert calibration is not None
        doubts.append(f"{calibration.warning}.")
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
        for metric, title in _METRICS.items()
        for key, table in getattr(summary, metric).by.items()
    ]
    tables.insert(0, _held_out(document))
    reasons = sorted(summary.not_predicted.items(), key=lambda row: -row[1])[:_ROWS]
    tables.append(Table("Not predicted", ("why", "rows"), tuple((why, f"{n:,}") for why, n in reasons)))
    judged_tiles = [
        tile(f"{title}, median error", found.median, "of a fit" if fitted else f"n = {found.n:,}")
        for metric, title in _METRICS.items()
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
        for name, one in list(sets.items())[:_ROWS]
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


def runs(document: RunsValidation) -> Parts:
    """Benchmark runs, request by request."""
    rows = document.rows
    leads = []
    for metric, title in _METRICS.items():
        found = document.summary.get(metric) or (rows[0].errors.get(metric) if len(rows) == 1 else None)
        if found is not None and found.mean_error is not None:
            apart = (
                ""
                if found.wasserstein is None
                else f", whole distributions by {said(found.wasserstein)} of the mean"
            )
            leads.append(f"mean {title} is off by {100 * found.mean_error:+.3g} %{apart}")
    sizes = f"{sum(row.requests for row in rows):,} requests"
    what = f"{rows[0].name}, {sizes}" if len(rows) == 1 else f"Median over {len(rows)} runs, {sizes}"
    lead = f"{what}: {'; '.join(leads)}." if leads else f"{what}: nothing was both measured and predicted."
    doubts = unique(f"{row.name} assumes: {text}." for row in rows for text in row.assumed)
    doubts += unique(f"{row.name}: {text}." for row in rows for text in row.notes)
    shown = []
    for metric, title in _METRICS.items():
        pairs = [
            (pair, f"{statistic} of {row.name}" if len(rows) > 1 else statistic)
            for row in rows
            for statistic in _STATISTICS
            if (pair := row.pair(metric, statistic)) is not None and min(pair) > 0
        ]
        if pairs:
            shown.append(
                figures.predicted_against_measured(
                    [predicted for (_, predicted), _ in pairs],
                    [measured for (measured, _), _ in pairs],
                    groups=[name.split(" of ", 1)[-1] if len(rows) > 1 else name for _, name in pairs],
                    metric=f"{metric}_s",
                    n=f"{len(pairs)} statistics of {len(rows)} run{'' if len(rows) == 1 else 's'}",
                )
            )
        del title
    cells = tuple(
        (
            row.name,
            f"{metric.upper()} {statistic}",
            f"{pair[0] * 1e3:,.4g}",
            f"{pair[1] * 1e3:,.4g}",
            share(getattr(row.errors[metric], f"{statistic}_error"), signed=True)
            if metric in row.errors
            else "-",
        )
        for row in rows
        for metric in ("ttft", "tpot", "itl", "e2el")
        for statistic in _STATISTICS
        if (pair := row.pair(metric, statistic)) is not None
    )
    tables = [
        Table(
            "Measured and predicted", ("run", "latency", "measured, ms", "predicted, ms", "error, %"), cells
        )
    ]
    numbers = [
        tile(f"{title}, error of the mean", None if e.mean_error is None else abs(e.mean_error))
        for metric, title in _METRICS.items()
        if (e := document.summary.get(metric)) is not None
    ]
    return Answer(lead, filled(("Uncertain", doubts))), shown, tables, (), numbers


def kernels(document: KernelsValidation) -> Parts:
    """Tables of measured kernels."""
    summary = document.summary
    lead = (
        f"{summary.kernels:,} kernels, {summary.n:,} measurements: in the median kernel, half of the "
        "modelled times "
        f"are within {said(summary.median_of_medians)} and nine in ten within {said(summary.median_of_p90)}."
    )
    known = [row for row in document.rows if row.median_abs_error is not None]
    worst = max(known, key=lambda row: row.median_abs_error or 0.0, default=None)
    doubts = (
        [f"{summary.without_surface} kernels have no surface to be modelled by."]
        if summary.without_surface
        else []
    )
    if worst is not None:
        doubts.append(
            f"Worst: {worst.kernel} {worst.dtype} of {worst.backend} on {worst.device}, off by "
            f"{said(worst.median_abs_error)} in the median of {worst.n:,}."
        )
    doubts.append(
        "Surfaces are fitted to such tables: of the same engine version, these are errors of a fit."
    )
    curves = {
        "median error of a kernel": [row.median_abs_error or 0.0 for row in known],
        "90th percentile of a kernel": [row.p90_abs_error for row in known if row.p90_abs_error is not None],
    }
    shown = (
        [figures.error_cdf({n: v for n, v in curves.items() if v}, n=f"{len(known)} kernels")]
        if known
        else []
    )
    rows = tuple(
        (
            row.device,
            row.kernel,
            row.dtype,
            f"{row.backend} {row.version}".strip(),
            row.modelled_by or "-",
            f"{row.n:,}",
            share(row.median_abs_error),
            share(row.p90_abs_error),
            share(row.median_signed_error, signed=True),
        )
        for row in document.rows
    )
    columns = ("device", "kernel", "data type", "measured with", "modelled by", "n", "median error, %",
               "90th percentile, %", "signed, %")  # fmt: skip
    return (
        Answer(lead, filled(("Uncertain", doubts))),
        shown,
        [Table("Kernels", columns, rows, folded=len(rows) > _ROWS)],
        (),
        [
            tile("Median error, median kernel", summary.median_of_medians),
            tile("Nine in ten within, median kernel", summary.median_of_p90),
        ],
    )


def published(document: PublishedValidation) -> Parts:
    """Figures that others published."""
    summary = document.summary
    judged = summary.judged
    lead = (
        f"Of {summary.rows:,} published figures, {judged.n:,} of first-hand grade can be predicted and "
        "were not fitted "
        f"to: predictions are off by {said(judged.median_abs_error)} in the median, "
        f"{said(judged.p90_abs_error)} at the "
        "90th percentile."
    )
    doubts = []
    if summary.fitted:
        doubts.append(f"{summary.fitted:,} more were fitted to, and are not judged.")
    if summary.unsupported.n:
        doubts.append(f"{summary.unsupported.n:,} cannot be predicted; the reasons are below.")
    groups: dict[str, list[float]] = {}
    for row in document.rows:
        if row.ratio is not None and row.grade == "P" and not row.fitted:
            groups.setdefault(row.kind or "other", []).append(row.ratio - 1)
    shown = [figures.error_cdf(groups, n=f"{sum(map(len, groups.values())):,} figures")] if groups else []
    columns = ("", "n", "median error, %", "mean, %", "90th percentile, %", "signed, %")

    def table(title: str, found: Mapping[str, Any]) -> Table:
        rows = tuple(
            (
                name,
                f"{one.n:,}",
                share(one.median_abs_error),
                share(one.mean_abs_error),
                share(one.p90_abs_error),
                share(one.median_signed_error, signed=True),
            )
            for name, one in found.items()
        )
        return Table(title, columns, rows)

    reasons = sorted(summary.unsupported.reasons.items(), key=lambda row: -row[1])[:_ROWS]
    single = tuple(
        (
            row.system,
            row.hardware,
            f"{row.metric} {row.unit}".strip(),
            "-" if row.published is None else f"{row.published:,.4g}",
            "-" if row.ours is None else f"{row.ours:,.4g}",
            "-" if row.ratio is None else f"{row.ratio:.3f}",
            row.grade,
            "fitted" if row.fitted else "",
        )
        for row in document.rows
        if row.ratio is not None
    )
    heading = ("system", "hardware", "metric", "published", "ours", "ratio", "grade", "")
    return (
        Answer(lead, filled(("Uncertain", doubts))),
        shown,
        [
            table("Judged, by kind", summary.judged_by_kind),
            table("Judged, by system", summary.judged_by_system),
            Table(
                "Not predicted", ("why", "figures"), tuple((why, f"{n:,}") for why, n in reasons), folded=True
            ),
            Table("Every predicted figure", heading, single, folded=True),
        ],
        (),
        [tile("Median error, judged", judged.median_abs_error, f"n = {judged.n:,}")],
    )


def reference(document: ReferenceValidation) -> Parts:
    """MoE layers run on a machine."""
    summary, rows = document.summary, document.rows
    lead = (
        f"{summary.n:,} held-out MoE layers on this {'GPU' if summary.device == 'cuda' else 'CPU'}: "
        f"{summary.verdict}. "
        f"Predictions are off by {said(summary.median_abs_error)} in the median and "
        f"{said(summary.p95_abs_error)} at "
        "the 95th percentile."
    )
    proven, doubts = [], []
    if summary.coverage is not None:
        level = "" if summary.interval_level is None else f" {summary.interval_level:.0%}"
        proven.append(f"{percent(summary.coverage)} of measurements lie inside the{level} interval.")
    if summary.roofline is not None:
        proven.append(
            f"A plain roofline of the same layers is off by {said(summary.roofline.median_abs_error)} in "
            "the median."
        )
    if summary.floor.median is not None:
        doubts.append(
            f"Two equal measurements of a layer differ by {said(summary.floor.median)} in the median on "
            "this machine."
        )
    measured = [row for row in rows if row.measured_s > 0 and row.predicted_s > 0]
    shown = []
    if measured:
        others = [
            (1 + row.roofline_error) * row.measured_s if row.roofline_error is not None else None
            for row in measured
        ]
        shown.append(
            figures.predicted_against_measured(
                [row.predicted_s for row in measured],
                [row.measured_s for row in measured],
                low=[row.low_s for row in measured],
                high=[row.high_s for row in measured],
                groups=[row.routing.partition(":")[0] or "routing" for row in measured],
                metric="seconds of a layer",
                level=summary.interval_level,
                others={"plain roofline": others} if any(v is not None for v in others) else None,  # type: ignore[dict-item]
            )
        )
        batches = [row for row in measured if row.tokens > 0]
        if batches:
            shown.append(
                figures.signed_errors(
                    [float(row.tokens) for row in batches],
                    [row.error for row in batches],
                    noise=summary.floor.p95,
                )
            )
    cells = tuple(
        (
            row.name or row.layer,
            f"{row.tokens:,}",
            row.routing,
            row.dtype,
            f"{row.measured_s * 1e3:,.4g}",
            f"{row.predicted_s * 1e3:,.4g}",
            f"{row.low_s * 1e3:,.4g} to {row.high_s * 1e3:,.4g}",
            share(row.error, signed=True),
        )
        for row in rows
    )
    columns = (
        "layer",
        "tokens",
        "routing",
        "data type",
        "measured, ms",
        "predicted, ms",
        "interval, ms",
        "error, %",
    )
    return (
        Answer(lead, filled(("Measured", proven), ("Uncertain", doubts))),
        shown,
        [Table("Layers", columns, cells, folded=len(cells) > _ROWS)],
        (),
        [tile("Median error", summary.median_abs_error), tile("95th percentile", summary.p95_abs_error)],
    )
