"""`moesim trace stats`: how skewed, local and predictable the routing of a trace is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli.common import Json, Seed, print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.analysis import Statistics
    from moesim.analysis.stats import Progress

_PHASES = ("prefill", "decode")
#: What `moesim.analysis` says of a statistic that was not wanted; people know that already.
NOT_ASKED = "was not asked for"
#: What the table per layer shows.
_COLUMNS = (
    ("max/mean", "max_over_mean"),
    ("entropy", "entropy_normalised"),
    ("gini", "gini"),
    ("consecutive", "consecutive_overlap"),
    ("random pair", "random_pair_overlap"),
    ("MI, bits", "next_layer_information_bits"),
    ("recall@k", "recall_k"),
    ("drift", "drift"),
)


def stats(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A trace or load counts, in any known format.")
    ],
    ep: Annotated[
        list[int] | None,
        typer.Option("--expert-parallel-size", "--ep", help="Expert-parallel ranks; may be repeated."),
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Split by phase, or by request.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="load, locality, coupling, pairs, segments, cache, sample; may be repeated."),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Draws of a bootstrap over requests, for 95 % intervals.")
    ] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler that shares the work out.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer.")] = False,
    insights: Annotated[
        bool,
        typer.Option(
            "--insights", help="Six insights: what routing foretells, and what moving experts costs."
        ),
    ] = False,
    hardware: Annotated[
        str | None,
        typer.Option(help="Machine for the share of data movement, with --insights: name or YAML file."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The model it is of: name, Hugging Face id, config.json or folder."),
    ] = None,
    num_experts: Annotated[
        int | None, typer.Option("--num-experts", help="Routed experts per layer, if the file does not say.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure skew, locality, coupling between layers and drift of a trace, per layer and overall."""
    from moesim.analysis import statistics
    from moesim.analysis.partial import FAMILIES
    from moesim.cli.trace import _hints
    from moesim.errors import ConfigError, Fault

    if by not in (None, "phase", "request"):
        raise ConfigError(Fault("cannot split by this", "--by", by, "phase, request"))
    if hardware is not None and not insights:
        raise ConfigError(Fault("needs --insights", "--hardware", hardware))
    about = _hints(model, num_experts)
    # A table of insights has no other statistics in it.
    alone = insights and not only and by is None and not json
    with _progress() as progress:
        whole = statistics(
            path,
            ep=ep,
            seed=seed,
            families=("load",) if alone else only or FAMILIES,
            bootstrap=bootstrap,
            scheduler=scheduler,
            progress=progress,
            **about,
        )
    document: dict[str, Any] = {"path": str(path), **whole.to_dict()}
    parts: dict[str, Statistics] = {}
    if by == "phase":
        for number, name in enumerate(_PHASES):
            part = statistics(path, ep=ep, seed=seed, families=only or FAMILIES, phase=number, **about)
            if part.tokens:
                parts[name] = part
        if not parts:
            raise ConfigError(Fault("needs a trace of tokens; these are load counts", "--by", by))
        document["by_phase"] = {name: part.to_dict() for name, part in parts.items()}
    elif by == "request":
        from moesim.analysis.grouped import by_request

        columns = by_request(path, **about)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        document["by_request"] = [dict(zip(columns, row, strict=True)) for row in rows]
    found = None
    if insights:
        from moesim.cli.trace_insights import find, show

        with _progress() as progress:
            found = find(path, about, whole.model, hardware, seed, progress)
        document |= found.to_dict()
    if json:
        print_json(document, kind="trace-statistics", inputs=[path], seed=seed)
        return
    if found is not None and alone:
        show(path, found)
        return
    _show(path, whole, parts, document.get("by_request"), layers)
    if found is not None:
        typer.echo()
        show(path, found)
    for warning in whole.warnings:
        stderr(f"warning: {warning}")


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A progress bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("tokens")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(
    path: Path,
    whole: Statistics,
    parts: dict[str, Statistics],
    requests: list[dict[str, Any]] | None,
    every_layer: bool,
) -> None:
    size = "load counts" if whole.tokens is None else f"{whole.tokens:,} tokens"
    title = (
        f"{path.name}: {whole.model or 'unknown model'}, {size}, {len(whole.layers)} MoE layers "
        f"of {whole.num_experts} experts, top-{whole.top_k or '?'}; means over layers"
    )
    flat = _flat(whole.overall)
    ends = _flat(whole.interval or {})
    split = {name: _flat(part.overall) for name, part in parts.items()}
    rows = []
    for name, value in flat.items():
        if value is None and name in whole.reasons:
            continue
        row = [name, _text(value)]
        if whole.interval:
            found = ends.get(name)
            row.append(f"{_text(found[0])} to {_text(found[1])}" if found else None)
        rows.append(row + [_text(part.get(name)) for part in split.values()])
    print_table(["statistic", "overall", *(["95 %"] if whole.interval else []), *split], rows, title=title)
    for reason in sorted({why for why in whole.reasons.values() if not why.endswith(NOT_ASKED)}):
        names = ", ".join(name for name, why in whole.reasons.items() if why == reason)
        stderr(f"note: no {names}: {reason}")
    if every_layer:
        typer.echo()
        print_table(
            ["layer", *(title for title, _ in _COLUMNS)],
            [[row["layer_id"], *(_text(row.get(name)) for _, name in _COLUMNS)] for row in whole.layers],
        )
    if requests is not None:
        typer.echo()
        _show_requests(requests)


def _show_requests(requests: list[dict[str, Any]]) -> None:
    import numpy as np

    marks = (0.0, 0.1, 0.5, 0.9, 1.0)
    rows = []
    for name in list(requests[0])[1:]:
        values = np.array([row[name] for row in requests], float)
        rows.append([name, *(f"{q:.4g}" for q in np.nanquantile(values, marks))])
    columns = ["per request", "least", "10 %", "median", "90 %", "most"]
    print_table(columns, rows, title=f"{len(requests):,} requests")


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested names joined by a space.

    >>> _flat({"a": 1.0, "b": {"8": 2.0}})
    {'a': 1.0, 'b 8': 2.0}
    """
    flat = {}
    for name, value in tree.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        flat.update({f"{name} {key}".rstrip(): inner for key, inner in parts})
    return flat


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
