"""`moesim trace compare`: how alike the expert loads of two traces, or of the two phases of one, are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli.common import Json, print_json, print_table, stderr
from moesim.cli.trace_check import ExpertsOption, ModelOption, catalogue, named_model

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from moesim.analysis.compare import Comparison, Transfer

_MEASURES = (
    ("cosine", "cosine of loads"),
    ("total_variation", "total variation"),
    ("noise", "noise of such samples"),
    ("jensen_shannon", "Jensen-Shannon, bits"),
    ("spearman", "Spearman"),
    ("top_overlap", "hottest tenth in common"),
)
_PLACED = (
    ("contiguous", "B, experts in order"),
    ("dealt_on_a", "A, dealt by A's load"),
    ("dealt_on_b", "B, dealt by A's load"),
    ("dealt_for_b", "B, dealt by B's load"),
)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A trace or load dump, in any known format.")],
    second: Annotated[Path | None, typer.Argument(metavar="[B]", help="Another, of the same model.")] = None,
    by_phase: Annotated[
        bool, typer.Option("--by-phase", help="Compare prefill (A) and decode (B) of one trace.")
    ] = False,
    ep: Annotated[
        list[int] | None,
        typer.Option(
            "--expert-parallel-size", "--ep", help="Try A's placement on B at this size; repeatable."
        ),
    ] = None,
    model: ModelOption = None,
    num_experts: ExpertsOption = None,
    json: Json = False,
) -> None:
    """Compare the expert loads of two traces of one model, or of the two phases of one."""
    from moesim.analysis import compare_phases, compare_traces
    from moesim.errors import ConfigError, Fault, TraceError
    from moesim.trace import load_trace

    if by_phase == (second is not None):
        raise ConfigError(Fault("name two traces, or one and --by-phase", "A [B]"))
    faults, traces = [], []
    shape = named_model(model)
    for path in (first, second):
        if path is None:
            continue
        try:
            traces.append(load_trace(path, shape=shape, num_experts=num_experts, candidates=catalogue))
        except TraceError as error:
            faults += [Fault(f"{error.source}: {fault}") for fault in error.faults]
    if faults:
        raise TraceError(faults)
    ranks = ep or []
    found = compare_phases(traces[0], ranks=ranks) if by_phase else compare_traces(*traces, ranks=ranks)
    paths = [p for p in (first, second) if p is not None]
    names = [f"{first.name} (prefill)", f"{first.name} (decode)"] if by_phase else [p.name for p in paths]
    warnings = list(dict.fromkeys(w for trace in traces for w in trace.warnings))
    if json:
        print_json(_document(found, names, warnings), kind="trace-comparison", inputs=paths)
        return
    _print(found, names)
    for warning in warnings:
        stderr(f"warning: {warning}")


def _of(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    known = values[values == values]
    if not len(known):
        return {"mean": None, "min": None, "max": None}
    return {"mean": float(known.mean()), "min": float(known.min()), "max": float(known.max())}


def _document(c: Comparison, names: list[str], warnings: list[str]) -> dict[str, Any]:
    return {
        "a": names[0],
        "b": names[1],
        "selections_per_layer": {"a": c.selections[0], "b": c.selections[1]},
        "overall": {name: _of(getattr(c, name)) for name, _ in _MEASURES},
        "layers": [
            {"layer_id": layer, **{name: getattr(c, name)[i] for name, _ in _MEASURES}}
            for i, layer in enumerate(c.layer_ids)
        ],
        "left_out_layers": c.left_out,
        "load_imbalance": [
            {"ep": t.ranks, **{name: _of(getattr(t, name)) for name, _ in _PLACED}} for t in c.transfers
        ],
        "warnings": warnings,
    }


def _print(c: Comparison, names: list[str]) -> None:
    rows = [(title, *_cells(getattr(c, name))) for name, title in _MEASURES]
    title = f"A {names[0]}, B {names[1]}: {len(c.layer_ids)} layers"
    print_table(("expert load", "mean", "lowest layer", "highest layer"), rows, title)
    if c.left_out:
        typer.echo(f"left out, as only one has load there: {len(c.left_out)} layers")
    for transfer in c.transfers:
        _print_transfer(transfer)


def _print_transfer(t: Transfer) -> None:
    typer.echo()
    rows = [(title, *_cells(getattr(t, name))) for name, title in _PLACED]
    print_table((f"rank load at EP {t.ranks}, max over mean", "mean", "best layer", "worst layer"), rows)


def _cells(values: npt.NDArray[np.float64]) -> tuple[str | None, ...]:
    found = _of(values)
    return tuple(None if v is None else f"{v:.3f}" for v in found.values())
