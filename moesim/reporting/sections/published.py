"""Predictions beside figures that others published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.reporting import figures
from moesim.reporting.documents import PublishedValidation
from moesim.reporting.sections.parts import Answer, Table, filled
from moesim.reporting.sections.validations import MOST_ROWS, Parts, said, share, tile


def parts(document: PublishedValidation) -> Parts:
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

    reasons = sorted(summary.unsupported.reasons.items(), key=lambda row: -row[1])[:MOST_ROWS]
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
