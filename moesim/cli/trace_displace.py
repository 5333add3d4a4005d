"""`moesim trace displace`: who loses a place in an expert's buffer to whom, under a capacity limit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli.common import Json, Seed, print_json, print_table, stderr
from moesim.cli.trace_check import ExpertsOption, ModelOption, catalogue, named_model

if TYPE_CHECKING:
    from moesim.analysis import Displacement


def displace(
    path: Annotated[Path, typer.Argument(metavar="TRACE", help="A routing trace, token by token.")],
    capacity_factor: Annotated[
        list[float] | None,
        typer.Option("--capacity-factor", help="Places over selections of a batch; repeatable. [1.0]"),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Requests of a batch.")] = 8,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of each request in a batch.")] = 1,
    order: Annotated[
        str, typer.Option("--order", help="How selections stand in line: arrival, random or weight.")
    ] = "arrival",
    by_token: Annotated[
        bool, typer.Option("--by-token", help="A token's choices stand together; else all first ones lead.")
    ] = False,
    max_batches: Annotated[
        int | None, typer.Option("--max-batches", min=1, help="Look at no more than this.")
    ] = None,
    model: ModelOption = None,
    num_experts: ExpertsOption = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Replay a trace in batches whose experts have limited room, and say whom the others displace."""
    from moesim.analysis import displacement
    from moesim.errors import ConfigError, Fault
    from moesim.trace import RoutingTrace, load_trace

    trace = load_trace(path, shape=named_model(model), num_experts=num_experts, candidates=catalogue)
    if not isinstance(trace, RoutingTrace):
        raise ConfigError(Fault("needs a trace of tokens; these are load counts", "TRACE", str(path)))
    factors = capacity_factor or [1.0]
    found = [
        displacement(
            trace,
            factor,
            batch,
            tokens=tokens,
            order=order,
            first_choices_first=not by_token,
            max_batches=max_batches,
            seed=seed,
        )
        for factor in factors
    ]
    if json:
        rows = [{"capacity_factor": f, **one.to_dict()} for f, one in zip(factors, found, strict=True)]
        document = {"batch": batch, "tokens": tokens, "order": order, "rows": rows}
        print_json(
            document | {"warnings": trace.warnings}, kind="trace-displacement", inputs=[path], seed=seed
        )
        return
    for warning in trace.warnings:
        stderr(f"warning: {warning}")
    _print(factors, found, f"{path.name}: batches of {batch} requests, {tokens} tokens each, order {order}")


def _print(factors: list[float], found: list[Displacement], title: str) -> None:
    columns = ("factor", "places", "batches", "dropped", "dropped alone", "displaced queries", "pairs")
    rows = [
        (
            f"{factor:g}",
            d.capacity,
            d.batches,
            f"{d.dropped / max(d.selections, 1):.2%}",
            f"{d.dropped_alone / max(d.selections, 1):.2%}",
            f"{d.displaced_fraction:.2%}",
            f"{d.influenced_pairs / max(d.pairs, 1):.2%}",
        )
        for factor, d in zip(factors, found, strict=True)
    ]
    print_table(columns, rows, title)
