"""Predictions beside MoE layers run on a machine."""

from __future__ import annotations

from moesim.reporting import figures
from moesim.reporting.documents import ReferenceValidation
from moesim.reporting.figures.given import percent
from moesim.reporting.sections.parts import Answer, Table, filled
from moesim.reporting.sections.validations import MOST_ROWS, Parts, said, share, tile


def parts(document: ReferenceValidation) -> Parts:
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
        [Table("Layers", columns, cells, folded=len(cells) > MOST_ROWS)],
        (),
        [tile("Median error", summary.median_abs_error), tile("95th percentile", summary.p95_abs_error)],
    )
