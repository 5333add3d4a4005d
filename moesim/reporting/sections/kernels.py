"""Modelled kernels beside tables of measured ones."""

from __future__ import annotations

from moesim.reporting import figures
from moesim.reporting.documents import KernelsValidation
from moesim.reporting.sections.parts import Answer, Table, filled
from moesim.reporting.sections.validations import MOST_ROWS, Parts, said, share, tile


def parts(document: KernelsValidation) -> Parts:
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
        [Table("Kernels", columns, rows, folded=len(rows) > MOST_ROWS)],
        (),
        [
            tile("Median error, median kernel", summary.median_of_medians),
            tile("Nine in ten within, median kernel", summary.median_of_p90),
        ],
    )
