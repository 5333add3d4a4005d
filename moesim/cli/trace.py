"""`moesim trace`: what a routing trace holds, and the same in another format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli.common import Json, print_json, print_table, stderr
from moesim.cli.trace_batch import batch
from moesim.cli.trace_check import check
from moesim.cli.trace_compare import compare
from moesim.cli.trace_displace import displace
from moesim.cli.trace_fetch import fetch
from moesim.cli.trace_generate import generate
from moesim.cli.trace_record import record
from moesim.cli.trace_stats import stats

if TYPE_CHECKING:
    from moesim.model import Model
    from moesim.trace import Summary

app = typer.Typer(no_args_is_help=True, help="Routing traces and load counts: look, measure, convert.")
app.command()(generate)
app.command()(stats)
app.command()(record)
app.command()(check)
app.command()(compare)
app.command()(batch)
app.command()(displace)
app.command()(fetch)

_Path = Annotated[
    Path, typer.Argument(metavar="PATH", help="A trace or load dump, file or folder, in any known format.")
]
_Model = Annotated[
    str | None,
    typer.Option("--model", help="The model it is of: name, Hugging Face id, config.json or folder."),
]
_TopK = Annotated[
    int | None, typer.Option("--top-k", help="Experts per token, if the file does not show it.")
]
_Experts = Annotated[
    int | None, typer.Option("--num-experts", help="Routed experts per layer, if the file does not say.")
]


@app.command()
def info(
    path: _Path, model: _Model = None, num_experts: _Experts = None, top_k: _TopK = None, json: Json = False
) -> None:
    """Say what a trace holds: kind, format, model, layers, tokens, load skew."""
    from moesim.trace import summarise

    summary = summarise(path, **_hints(model, num_experts), top_k=top_k)
    if json:
        print_json(_document(summary, path), kind="trace", inputs=[path])
    else:
        _print(summary, path)


@app.command()
def convert(
    path: _Path,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="parquet, npz, sglang, route, vllm or eplb; else by suffix: .parquet, .npz, .json, .jsonl.",
        ),
    ] = None,
    model: _Model = None,
    num_experts: _Experts = None,
    top_k: _TopK = None,
    json: Json = False,
) -> None:
    """Write a trace in another format: canonical Parquet, npz, or one of those of other tools."""
    from moesim.errors import ConfigError
    from moesim.files import check_writable
    from moesim.trace import load_trace, write_trace
    from moesim.trace.convert import format_of
    from moesim.trace.shape import Hints
    from moesim.trace.stream import stream_folder

    faults = check_writable(output, "OUT")
    try:
        wanted = format_of(output, to)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    hints = _hints(model, num_experts)
    if wanted == "parquet" and path.is_dir():
        streamed = stream_folder(path, output, Hints.of(**hints, top_k=top_k))
        if streamed is not None:
            _say_written(path, output, wanted, (), streamed.warnings, json)
            return
    trace = load_trace(path, **hints, top_k=top_k)
    named: Model | None = hints["shape"] or _catalogue_model(trace.model)
    lost = write_trace(trace, output, wanted, num_layers=named.num_layers if named else None)
    _say_written(path, output, wanted, lost, trace.warnings, json)


def _say_written(
    path: Path, output: Path, wanted: str, lost: tuple[str, ...], warnings: tuple[str, ...], json: bool
) -> None:
    if json:
        document = {"written": str(output), "format": wanted, "lost": lost, "warnings": warnings}
        print_json(document, kind="trace-conversion", inputs=[path, output])
        return
    for warning in warnings:
        stderr(f"warning: {warning}")
    if lost:
        stderr(f"warning: {wanted} does not hold {', '.join(lost)}")
    typer.echo(f"{output} ({wanted})")


def _hints(model: str | None, num_experts: int | None) -> dict[str, Any]:
    from moesim.errors import ConfigError, Fault
    from moesim.model import load_model

    shape = load_model(model) if model is not None else None
    if shape is not None and shape.moe is None:
        raise ConfigError(
            Fault("is a dense model: it routes nothing", "--model", model, "a model with experts")
        )
    return {"shape": shape, "num_experts": num_experts, "candidates": _catalogue}


def _catalogue() -> Iterator[Model]:
    from moesim.model import load_model, names

    return map(load_model, names())


def _catalogue_model(name: str) -> Model | None:
    from moesim.model import load_model, names

    return load_model(name) if name in names() else None


def _document(summary: Summary, path: Path) -> dict[str, Any]:
    header, skew, unused = summary.header, summary.max_over_mean, summary.unused_experts
    loaded = skew == skew  # NaN, which is not itself, marks a layer without load
    worst = max(range(len(skew)), key=lambda i: skew[i] if loaded[i] else 0.0)
    tokens, decode = summary.tokens, summary.decode_tokens
    phases = None if tokens is None or decode is None else {"prefill": tokens - decode, "decode": decode}
    return {
        "path": str(path),
        "kind": header.kind,
        "format": summary.format,
        "model": header.model or None,
        "moe_layer_ids": header.moe_layer_ids,
        "num_experts": header.num_experts,
        "top_k": header.top_k,
        "tokens": tokens,
        "requests": summary.requests,
        "phases": phases,
        "steps": summary.steps,
        "selections_per_layer": summary.counts.sum(axis=1).mean(),
        "has_weights": summary.has_weights,
        "has_token_ids": summary.has_token_ids,
        "max_over_mean": {
            "mean": skew[loaded].mean() if loaded.any() else None,
            "worst": skew[worst],
            "worst_layer_id": header.moe_layer_ids[worst],
        },
        "unused_experts": int(unused.sum()),
        "layers": [
            {"layer_id": layer, "max_over_mean": s, "unused_experts": int(u)}
            for layer, s, u in zip(header.moe_layer_ids, skew.tolist(), unused, strict=True)
        ],
        "source": header.source or None,
        "licence": header.licence or None,
        "metadata": header.metadata,
        "warnings": header.warnings,
    }


def _print(summary: Summary, path: Path) -> None:
    d = _document(summary, path)
    skew = d["max_over_mean"]
    cells = len(d["moe_layer_ids"]) * d["num_experts"]
    rows: list[tuple[str, object]] = [
        ("kind", d["kind"].replace("_", " ")),
        ("format", d["format"]),
        ("model", d["model"]),
        ("MoE layers", f"{len(d['moe_layer_ids'])} ({_ranges(d['moe_layer_ids'])})"),
        ("experts", d["num_experts"]),
        ("top-k", d["top_k"]),
    ]
    if d["tokens"] is None:
        rows.append(("steps", d["steps"]))
        rows.append(("selections per layer", f"{d['selections_per_layer']:,.0f}"))
    else:
        phases = f"{d['phases']['prefill']:,} prefill, {d['phases']['decode']:,} decode"
        rows.append(("tokens", f"{d['tokens']:,} ({phases})"))
        rows.append(("requests", f"{d['requests']:,}"))
        rows.append(("router weights", "yes" if d["has_weights"] else "no"))
    if skew["mean"] is not None:
        worst = f"{skew['worst']:.2f} in layer {skew['worst_layer_id']}"
        rows.append(("load, max over mean", f"{skew['mean']:.2f} on average, {worst}"))
    rows.append(("experts never chosen", f"{d['unused_experts']:,} of {cells:,}"))
    rows += [(name, d[name]) for name in ("source", "licence") if d[name]]
    print_table(("trace", path.name), rows)
    for warning in d["warnings"]:
        stderr(f"warning: {warning}")


def _ranges(ids: tuple[int, ...]) -> str:
    """Layer ids in short.

    >>> _ranges((0, 3, 4, 5, 9))
    '0, 3-5, 9'
    """
    parts: list[list[int]] = []
    for i in ids:
        if parts and i == parts[-1][-1] + 1:
            parts[-1].append(i)
        else:
            parts.append([i])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
