"""What `moesim validate reference` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from moesim.cli.common import print_table

_COLUMNS = ("median", "p90", "p95", "max", "signed")
_FIELDS = ("median_abs_error", "p90_abs_error", "p95_abs_error", "max_abs_error", "median_signed_error")


def show(document: Mapping[str, Any], written: Sequence[Path]) -> None:
    """Print the errors, where they are, and the verdict."""
    summary, rows = document["summary"], document["rows"]
    typer.echo(f"{summary['n']} held-out layers, {summary['rounds']} rounds, {_machine(document['machine'])}")
    typer.echo("")
    drift = summary["drift"]
    lines = [
        *([("simulator, paired with the drift", summary["paired"])] if drift else []),
        ("simulator, raw", summary["raw"]),
        ("plain roofline", summary["roofline"]),
    ]
    print_table(("error of", *_COLUMNS), [(name, *_errors(part)) for name, part in lines])
    typer.echo("")
    for name, part in summary["by"].items():
        cells = [(key, one["n"], *_errors(one), f"{one['coverage']:.0%}") for key, one in part.items()]
        print_table((name, "n", *_COLUMNS, "covered"), cells)
        typer.echo("")
    worst = sorted(rows, key=lambda row: -abs(row["error"]))[:5]
    print_table(
        ("largest errors", "predicted", "measured", "error"),
        [
            (row["name"], _seconds(row["predicted_s"]), _seconds(row["measured_s"]), f"{row['error']:+.1%}")
            for row in worst
        ],
    )
    typer.echo("")
    for line in sentences(summary):
        typer.echo(line)
    if document["runs"]:
        typer.echo(f"runs: {document['runs']}")
    for path in written:
        typer.echo(f"written: {path}")


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Coverage, noise, drift, bounds and verdict in words."""
    floor, paired, drift, gate = (summary[name] for name in ("floor", "paired_floor", "drift", "gate"))
    found = [
        f"{summary['coverage']:.0%} of the layers lie in their {summary['interval_level']:.0%} interval",
        f"noise floor (the same layers, odd against even rounds): median {floor['median']:.1%}, "
        f"p95 {floor['p95']:.1%}"
        + (f"; without the drift {paired['median']:.1%} and {paired['p95']:.1%}" if paired else ""),
    ]
    if drift:
        found.append(
            f"the machine ran at {drift['median']:.3f} times its seconds at calibration "
            f"({drift['least']:.3f} to {drift['most']:.3f}), by {drift['anchors']} anchors"
        )
    else:
        found.append("the description has no anchors: drift since calibration is not known")
    if not summary["frozen"]:
        found.append("these are not the frozen cases: the verdict is not one that compares with others'")
    if summary["beaten"]:
        found.append(
            f"{summary['beaten']} of the layers beat their bound in some round, by up to "
            f"{summary['beaten_by']:.1%}: a ceiling was measured too low"
        )
    else:
        found.append("no run was faster than its bound")
    limits = ", ".join(f"{name} <= {limit:.0%}" for name, limit in gate.items())
    reasons = []
    if floor["median"] > floor["most"]:
        reasons.append(f"the noise floor is above {floor['most']:.0%}")
    if summary["calibration"] == "inconclusive":
        reasons.append("the calibration was")
    why = f"; {' and '.join(reasons)}" if reasons else ""
    found.append(f"verdict: {summary['verdict']} (gate: {limits}{why})")
    return found


def _errors(part: Mapping[str, float]) -> list[str]:
    *sizes, signed = (part[name] for name in _FIELDS)
    return [*(f"{size:.1%}" for size in sizes), f"{signed:+.1%}"]


def _machine(machine: Mapping[str, Any]) -> str:
    facts = machine.get("before", machine)
    gpu = facts.get("gpu")
    name = gpu.get("name") if isinstance(gpu, dict) else gpu
    return str(name or facts.get("cpu") or "a machine without a name")


def _seconds(value: float) -> str:
    return f"{value * 1e3:.3f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"
