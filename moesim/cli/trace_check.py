"""`moesim trace check`: what is wrong with a trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli.common import Json, print_json

if TYPE_CHECKING:
    from moesim.analysis.check_types import Finding, Report
    from moesim.model import Model

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="The model it is of: name, Hugging Face id, config.json or folder."),
]
ExpertsOption = Annotated[
    int | None, typer.Option("--num-experts", help="Routed experts per layer, if the file does not say.")
]


def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A trace or load dump, in any known format.")],
    model: ModelOption = None,
    num_experts: ExpertsOption = None,
    ep: Annotated[
        list[int] | None,
        typer.Option("--expert-parallel-size", "--ep", help="Look for idle ranks at this size; repeatable."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Experts per token, if the file does not show it.")
    ] = None,
    json: Json = False,
) -> None:
    """Find what is wrong with a trace: exit code 1 if anything is an error, 2 if it cannot be read."""
    from moesim.analysis import check_file

    report = check_file(
        path,
        shape=named_model(model),
        num_experts=num_experts,
        ranks=ep or [],
        candidates=catalogue,
        top_k=top_k,
    )
    if json:
        print_json(_document(report, path), kind="trace-check", inputs=[path])
    else:
        _print(report, path)
    if not report.ok:
        raise typer.Exit(1)


def named_model(name: str | None) -> Model | None:
    """The model of a name, or None; refuses models that do not route."""
    from moesim.errors import ConfigError, Fault
    from moesim.model import load_model

    model = load_model(name) if name is not None else None
    if model is not None and model.moe is None:
        raise ConfigError(
            Fault("is a dense model: it routes nothing", "--model", name, "a model with experts")
        )
    return model


def catalogue() -> Iterator[Model]:
    """Every model of the catalogue."""
    from moesim.model import load_model, names

    return map(load_model, names())


def _document(report: Report, path: Path) -> dict[str, Any]:
    return {
        "path": str(path),
        "kind": report.kind or None,
        "format": report.format,
        "model": report.model or None,
        "tokens": report.tokens,
        "examined_tokens": report.examined_tokens,
        "ok": report.ok,
        **{f"{name}s": len(report.of(name)) for name in ("error", "warning", "info")},
        "findings": [_finding(f) for f in report.findings],
    }


def _finding(f: Finding) -> dict[str, Any]:
    example = None
    if f.example is not None:
        e = f.example
        example = {"request": e.request, "position": e.position, "layer": e.layer, "value": e.value or None}
    return {
        "code": f.code,
        "severity": f.severity,
        "count": f.count,
        "unit": f.unit,
        "layers": f.layers,
        "message": f.message,
        "example": example,
        "action": f.action,
    }


def _print(report: Report, path: Path) -> None:
    from moesim.analysis.check_types import ranges

    what = [report.kind.replace("_", " ") or "unread", report.format]
    if report.model:
        what.append(report.model)
    if report.tokens is not None:
        what.append(f"{report.tokens:,} tokens")
    typer.echo(f"{path.name}: {', '.join(what)}")
    for f in report.findings:
        typer.echo(f"{f.severity:<8} {f.code}: {f.message}")
        if f.layers:
            typer.echo(f"         layers: {ranges(f.layers)}")
        if f.example is not None:
            typer.echo(f"         for example: {f.example}")
        if f.severity != "info":
            typer.echo(f"         what to do: {f.action}")
    counts = [
        (len(report.of(name)), word)
        for name, word in (("error", "error"), ("warning", "warning"), ("info", "note"))
    ]
    typer.echo(", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts))
