"""`moesim validate serving`: predictions beside measured serving runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

import typer

from moesim.cli.common import Json, print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.validate import Evaluation, Score, ServingRow
    from moesim.validate.serving import RowPrediction

#: Columns of ``--out``.
COLUMNS = (
    "id",
    "pred_ttft_ms",
    "pred_tpot_ms",
    "ttft_lo_ms",
    "ttft_hi_ms",
    "tpot_lo_ms",
    "tpot_hi_ms",
    "status",
    "reason",
)
_SCORES = ("n", "median", "mean", "p90", "signed", "in interval", "hi/lo", "interval score")


def serving(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A CSV of measured rows, or a benchmark's output or folder."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="CSV of predictions, one line per row of the input.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict measured serving runs from their configuration, and say how far off the predictions are."""
    _rows(path, out, json)


def _rows(path: Path, out: Path | None, json: bool) -> None:
    from moesim.errors import ConfigError
    from moesim.files import check_writable
    from moesim.validate import evaluate, predict_rows, read_serving

    faults = check_writable(out, "--out") if out is not None else []
    if faults:
        raise ConfigError(faults)
    rows = read_serving(path)
    predictions = predict_rows(rows)
    if out is not None:
        _write(out, predictions)
    found = evaluate(rows, predictions)
    accepted = _accepted(path)
    if json:
        document = {
            "rows": found.row_documents(),
            "summary": found.summary() | {"accepted": accepted},
            "written": str(out) if out is not None else None,
        }
        print_json(document, inputs=[path])
        return
    _print(found, accepted)
    if out is not None:
        stderr(f"{out}: {len(predictions):,} lines")


def _write(path: Path, predictions: list[RowPrediction]) -> None:
    """One line per prediction; the file appears whole or not at all."""
    from math import isfinite

    from moesim.files import atomic_write
    from moesim.validate.report import milliseconds

    with atomic_write(path) as stream:
        writer = csv.writer(cast("IO[str]", stream), lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in predictions:
            numbers = [repr(v) if isfinite(v) else "" for v in milliseconds(one).values()]
            writer.writerow([one.id, *numbers, one.status, " ".join(one.reason.split())])


def _accepted(path: Path) -> dict[str, Any] | None:
    """The last accepted result, if it is of the same measurements."""
    import hashlib

    from moesim.validate.accepted import read_accepted

    known = read_accepted()
    if known is None:
        return None
    with path.open("rb") as stream:
        same = hashlib.file_digest(stream, "sha256").hexdigest() == known["file_sha256"]
    return known if same else None


def _print(found: Evaluation, accepted: dict[str, Any] | None) -> None:
    counts = found.counts
    parts = [f"{counts[name]:,} {name}" for name in counts]
    typer.echo(", ".join(parts))
    for metric in ("tpot", "ttft"):
        typer.echo()
        lines = [[name, *_cells(s)] for name, s in found.scores[metric].items() if s.n]
        lines += [[f"judged, {name}", *_cells(s)] for name, s in _baselines(found, metric, accepted)]
        if not lines:
            typer.echo(f"{metric.upper()}: no row has both a measurement and a prediction")
            continue
        print_table(("rows", *_SCORES), lines, title=f"{metric.upper()}, predicted / measured - 1")
        for key, table in found.by[metric].items():
            typer.echo()
            print_table((key, *_SCORES), [[name, *_cells(s)] for name, s in table.items()])
    _print_flags(found)
    if found.not_predicted:
        typer.echo()
        print_table(("rows", "not predicted"), [(n, reason) for reason, n in found.not_predicted.items()])


def _baselines(found: Evaluation, metric: str, accepted: dict[str, Any] | None) -> list[tuple[str, Score]]:
    from moesim.validate.score import Score

    known: list[tuple[str, Score]] = [("fitted roofline", found.roofline[metric]["roofline"])]
    if accepted is not None and "judged" in accepted["scores"].get(metric, {}):
        known.append((f"accepted {accepted['date']}", Score(**accepted["scores"][metric]["judged"])))
    return [(name, score) for name, score in known if score.n]


def _print_flags(found: Evaluation) -> None:
    """What was repaired, is doubtful or contradicts other rows, by kind."""
    import re
    from collections import Counter

    def kinds(texts: list[str]) -> list[tuple[str, int]]:
        return Counter(re.sub(r"\d+(\.\d+)?", "#", text) for text in texts).most_common()

    rows: list[ServingRow] = list(found.rows)
    tables = {
        "repaired": Counter(text for row in rows for text in row.repairs).most_common(),
        "doubtful": Counter(row.doubtful for row in rows if row.doubtful).most_common(),
        "inconsistent": kinds([flag.reason for flags in found.flags for flag in flags]),
    }
    lines = [(n, kind, text) for kind, table in tables.items() for text, n in table]
    if lines:
        typer.echo()
        print_table(("rows", "kind", "why"), lines)


def _cells(score: Score) -> list[str | int]:
    def share(value: float) -> str:
        return "-" if value != value else f"{value:.1%}"

    def plain(value: float) -> str:
        return "-" if value != value else f"{value:.2f}"

    errors = [share(v) for v in (score.median, score.mean, score.p90)]
    return [
        score.n,
        *errors,
        "-" if score.signed != score.signed else f"{score.signed:+.1%}",
        share(score.coverage),
        plain(score.width),
        plain(score.interval),
    ]
