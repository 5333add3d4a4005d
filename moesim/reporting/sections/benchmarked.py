"""Predictions beside benchmark runs, request by request."""

from __future__ import annotations

from moesim.reporting import figures
from moesim.reporting.documents import RunsValidation
from moesim.reporting.sections.parts import Answer, Table, filled, unique
from moesim.reporting.sections.validations import METRICS, STATISTICS, Parts, said, share, tile


def parts(document: RunsValidation) -> Parts:
    """Benchmark runs, request by request."""
    rows = document.rows
    leads = []
    for metric, title in METRICS.items():
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
    for metric, title in METRICS.items():
        pairs = [
            (pair, f"{statistic} of {row.name}" if len(rows) > 1 else statistic)
            for row in rows
            for statistic in STATISTICS
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
        for statistic in STATISTICS
        if (pair := row.pair(metric, statistic)) is not None
    )
    tables = [
        Table(
            "Measured and predicted", ("run", "latency", "measured, ms", "predicted, ms", "error, %"), cells
        )
    ]
    numbers = [
        tile(f"{title}, error of the mean", None if e.mean_error is None else abs(e.mean_error))
        for metric, title in METRICS.items()
        if (e := document.summary.get(metric)) is not None
    ]
    return Answer(lead, filled(("Uncertain", doubts))), shown, tables, (), numbers
