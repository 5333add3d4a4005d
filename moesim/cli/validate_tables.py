"""What `moesim validate serving` shows people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import typer

from moesim.cli.common import print_table, stderr

if TYPE_CHECKING:
    from moesim.validate import Evaluation, Score, ServingRow

_SCORES = ("n", "median", "mean", "p90", "signed", "in interval", "hi/lo", "interval score")


def print_runs(
    documents: Sequence[dict[str, Any]], summary: Mapping[str, Mapping[str, float | None]]
) -> None:
    """Every run, and the median of their errors if there are several."""
    for number, document in enumerate(documents):
        if number:
            typer.echo()
        _print_run(document)
    if len(documents) > 1:
        typer.echo()
        signed = [f"{name}_error" for name in ("mean", "median", "p90", "p99")]
        lines = [
            [m.upper(), *(_signed(errors[name]) for name in signed), _signed(errors["wasserstein"])]
            for m, errors in summary.items()
        ]
        print_table(("error", "mean", "median", "90 %", "99 %", "area"), lines, title="Median over runs")


def _print_run(d: dict[str, Any]) -> None:
    """One run: measured, predicted and error of each statistic."""
    load = f"{d['request_rate']:.3g} requests/s" if d["request_rate"] else "all at once"
    if d["concurrency"]:
        load += f", at most {d['concurrency']:,} at once"
    title = f"{d['path']}: {d['model']} on {d['hardware']}, {d['layout']}, {d['requests']:,} requests, {load}"
    lines: list[list[str | None]] = []
    apart: list[list[str | None]] = []
    for metric, errors in d["errors"].items():
        for statistic in ("mean", "median", "p90", "p99"):
            measured, predicted = d["measured"][metric][statistic], d["predicted"][metric][statistic]
            if measured is None:
                continue
            shown = [_number(v * 1e3) if v is not None else None for v in (measured, predicted)]
            lines.append([f"{metric.upper()} {statistic}, ms", *shown, _signed(errors[f"{statistic}_error"])])
        if errors["wasserstein"] is not None:
            apart.append(
                [metric.upper(), *(_share(errors[n]) for n in ("wasserstein", "ks", "request_error"))]
            )
            apart[-1].append(f"{v:.3f}" if (v := errors["correlation"]) is not None else None)
    for name, text in (("request_throughput", "requests/s"), ("output_throughput", "output tokens/s")):
        measured, predicted = d["measured"][name], d["predicted"][name]
        error = predicted / measured - 1 if measured else None
        lines.append([text, _number(measured) if measured else None, _number(predicted), _signed(error)])
    print_table(("", "measured", "predicted", "error"), lines, title=title)
    if apart:
        print_table(("whole distribution", "area", "KS", "median request", "correlation"), apart)
    for text in d["assumed"]:
        stderr(f"assumed: {text}")
    for text in d["notes"]:
        stderr(f"note: {text}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.1%}"


def print_evaluation(found: Evaluation, accepted: dict[str, Any] | None) -> None:
    """Scores of all rows, by kind and by group, beside the baselines."""
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
    from moesim.validate.accepted import accepted_score

    known: list[tuple[str, Score]] = [("fitted roofline", found.roofline[metric]["roofline"])]
    last = accepted_score(accepted, metric, "judged") if accepted is not None else None
    if accepted is not None and last is not None:
        known.append((f"accepted {accepted['date']}, physics alone", last))
    return [(name, score) for name, score in known if score.n]


def _print_flags(found: Evaluation) -> None:
    """What was repaired, is doubtful or contradicts other rows, by kind."""

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
        return "-" if isnan(value) else f"{value:.1%}"

    def plain(value: float) -> str:
        return "-" if isnan(value) else f"{value:.2f}"

    errors = [share(v) for v in (score.median, score.mean, score.p90)]
    return [
        score.n,
        *errors,
        "-" if isnan(score.signed) else f"{score.signed:+.1%}",
        share(score.coverage),
        plain(score.width),
        plain(score.interval),
    ]
