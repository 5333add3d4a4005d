"""What the calibration in use says of itself, beside the errors on rows that it may have seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from moesim.cli.common import print_table, stderr

if TYPE_CHECKING:
    from moesim.correction import Calibration
    from moesim.validate import Evaluation

_SHARES = ("median", "p90", "coverage")


def calibration_document(found: Evaluation, calibration: Calibration, name: str) -> dict[str, Any]:
    """The calibration in use, how many rows it was fitted to, and its errors on held-out runs."""
    seen = int(found.seen.sum())
    return {
        "name": name,
        **{key: calibration.provenance.get(key) for key in ("source", "digest", "rows", "held_out")},
        "seen": seen,
        "warning": warning_of(found),
    }


def warning_of(found: Evaluation) -> str | None:
    """Why the errors are no measure of accuracy; None if they are one."""
    seen = int(found.seen.sum())
    if not seen:
        return None
    return (
        f"the calibration was fitted to {seen:,} of these {len(found.rows):,} rows: their errors are those "
        "of a fit, no measure of accuracy. What is one: the errors of held-out runs, rows `judged new`, and "
        "--calibration none, which is physics alone"
    )


def print_calibration(
    found: Evaluation, calibration: Calibration, accepted: Mapping[str, Any] | None
) -> None:
    """Errors of held-out runs, and a warning where the rows were seen."""
    before = accepted.get("held_out", {}) if accepted is not None else {}
    lines = [_line(place, row, before) for place, row in held_out_rows(calibration.provenance)]
    if lines:
        typer.echo()
        print_table(
            ("family", "held out", "metric", "median", "p90", "in interval", "hi/lo", "accepted median"),
            lines,
            title="Held-out runs of the calibration: predicted by fits that had not seen them",
        )
    if (text := warning_of(found)) is not None:
        stderr(f"warning: {text}")


def held_out_rows(provenance: Mapping[str, Any]) -> list[tuple[tuple[str, str, str], Mapping[str, Any]]]:
    """Errors by family, kind of split and metric; what is recorded otherwise is left out."""
    return [
        ((family, kind, metric), row)
        for family, kinds in _mapping(provenance.get("held_out")).items()
        for kind, metrics in _mapping(kinds).items()
        for metric, row in _mapping(metrics).items()
        if _mapping(row)
    ]


def _line(place: tuple[str, str, str], row: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    family, kind, metric = place
    known = before
    for key in place:
        known = _mapping(known.get(key))
    shares = [_share(row.get(name)) for name in _SHARES]
    width = row.get("width")
    return [
        family,
        f"{kind}s",
        metric.upper(),
        *shares,
        f"{width:.2f}" if isinstance(width, float) else "-",
        _share(known.get("median")),
    ]


def _share(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else "-"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
