"""What `moesim plan` prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from moesim.cli.common import print_table, stderr

if TYPE_CHECKING:
    from moesim.cli.plan_ask import Asked
    from moesim.errors import InfeasibleError
    from moesim.planning.launch import Launch
    from moesim.planning.sensitivity import Sensitivity
    from moesim.planning.types import Assessment, PlanResult, Slo, Traffic

_MS = 1e3
#: Metrics of single requests: name, title, scale of its unit.
_LATENCIES = (("ttft_s", "TTFT, ms", _MS), ("tpot_s", "TPOT, ms", _MS), ("e2el_s", "end to end, s", 1.0))
_PERCENTILES = ("p50", "p90", "p99")
#: Rows of a table of plans.
_ROWS = 12
#: Seconds between lines of progress where they cannot overwrite each other.
_EVERY_S = 5.0


class Progress:
    """Progress on stderr: one line that is overwritten on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._open = False

    def tell(self, phase: str, done: int, total: int) -> None:
        """Say how far a phase is."""
        text = f"{phase}: {done:,} of {total:,}"
        if sys.stderr.isatty():
            typer.echo(f"\r{text:<60}", err=True, nl=False)
            self._open = True
        elif time.monotonic() - self._last >= _EVERY_S:
            stderr(text)
            self._last = time.monotonic()

    def end(self) -> None:
        """Leave the line."""
        if self._open:
            typer.echo(f"\r{'':<60}\r", err=True, nl=False)
            self._open = False


def show(
    result: PlanResult, slo: Slo, traffic: Traffic, gains: Sequence[Sensitivity], started: Launch
) -> None:
    """Print a plan for people."""
    _plan(result, slo, traffic)
    _latencies(result, slo)
    _pareto(result)
    _refused(result)
    if gains:
        _gains(gains)
    _commands(started)


def infeasible_document(error: InfeasibleError, asked: Asked) -> dict[str, Any]:
    """The JSON document of a promise that cannot be kept."""
    from moesim.planning.document import slo_of, traffic_of

    return {
        "feasible": False,
        "slo": slo_of(asked.slo),
        "traffic": traffic_of(asked.traffic),
        "reason": str(error),
        "resource": error.resource,
        "needed": error.needed,
        "available": error.available,
        "refused": [_plain(row) for row in _details(error)],
    }


def show_infeasible(error: InfeasibleError) -> None:
    """Print why nothing holds, for people."""
    rows = _details(error)
    if rows:
        typer.echo("no plan keeps the promise:")
        _refusal_table([(r["status"], r["what"], r["count"], r.get("nearest")) for r in rows])


def _plan(result: PlanResult, slo: Slo, traffic: Traffic) -> None:
    from moesim.planning.describe import describe
    from moesim.planning.prices import describe as price_in_words
    from moesim.planning.prices import usd_per_million
    from moesim.planning.slo import describe as slo_in_words

    best, candidate = result.best, result.best.candidate
    hardware, engine = candidate.hardware, candidate.engine
    nodes = candidate.devices // hardware.devices_per_node
    rows: list[tuple[str, object]] = [
        ("rent", f"{candidate.devices} devices: {nodes} x {hardware.name}"),
        ("layout", describe(candidate)),
        (
            "settings",
            f"{engine.backend}, {engine.chunk_tokens:g} tokens and {engine.max_sequences:g} sequences per "
            f"data-parallel rank and step",
        ),
        (
            "traffic",
            f"{traffic.request_rate:.4g} requests/s of {traffic.requests.input_tokens.mean():.4g} in and "
            f"{traffic.requests.output_tokens.mean():.4g} out on average",
        ),
        ("promise", slo_in_words(slo)),
    ]
    price = hardware.device.price
    if best.usd_per_hour is not None and price is not None:
        tokens = best.metrics.get("output_throughput")
        each = (
            f", {usd_per_million(best.usd_per_hour, tokens):.3g} per million output tokens" if tokens else ""
        )
        rows.append(("cost", f"{best.usd_per_hour:,.2f} USD/h{each}; {price_in_words(price)}"))
    held = {"confirmed": "the simulator confirms it", "ranked": "in steady state; not simulated"}
    rows.append(("status", held.get(best.status, best.status)))
    print_table([candidate.model.name, "plan"], rows)
    typer.echo()


def _latencies(result: PlanResult, slo: Slo) -> None:
    from moesim.planning.document import predicted

    metrics, interval = result.best.metrics, result.best.interval
    steady = predicted(result, result.best) or metrics
    confirmed = "ttft_p50_s" in metrics

    def text(name: str, scale: float) -> str:
        if name not in metrics:
            return "-"
        span = interval.get(name)
        tail = f" ({span[0] * scale:.4g} to {span[1] * scale:.4g})" if span is not None else ""
        return f"{metrics[name] * scale:.4g}{tail}"

    rows = []
    for name, title, scale in _LATENCIES:
        simulated = [text(name.replace("_s", f"_{p}_s"), scale) for p in _PERCENTILES]
        limit = f"{slo.limits[name] * scale:g}" if name in slo.limits else "-"
        mean = text(name, scale) if confirmed else "-"
        rows.append([title, _number(steady.get(name), "{:.4g}", scale), mean, *simulated, limit])
    print_table(["latency", "mean, predicted", "mean, simulated", *_PERCENTILES, "limit"], rows)
    if confirmed and "replicas" in steady and steady["replicas"] != result.best.candidate.replicas:
        typer.echo(f"(predicted with {steady['replicas']:g} replicas, which the steady state asks for)")
    typer.echo()
    share = [
        ["requests within all limits", text("attainment", 1.0), f"{slo.attainment:g}"],
        ["goodput, requests/s", text("goodput", 1.0), "-"],
        ["output tokens/s", _number(metrics.get("output_throughput"), "{:,.0f}"), "-"],
        ["requests/s a replica carries", text("request_rate_per_replica", 1.0), "-"],
        ["energy, J per output token", text("energy_j_per_token", 1.0), "-"],
    ]
    print_table(["", "value", "promised"], [row for row in share if row[1] != "-"])
    typer.echo()


def _pareto(result: PlanResult) -> None:
    if not result.pareto:
        return
    from moesim.planning.describe import describe

    priced = result.best.usd_per_hour is not None
    rows = [
        [
            one.candidate.hardware.name,
            describe(one.candidate),
            one.candidate.devices,
            *([_number(one.usd_per_hour, "{:,.2f}")] if priced else []),
            _number(_first(one, "ttft_p99_s", "ttft_s"), "{:.4g}", _MS),
            _number(_first(one, "tpot_p99_s", "tpot_s"), "{:.4g}", _MS),
            _number(_first(one, "request_rate_per_replica"), "{:.4g}", one.candidate.replicas),
            _number(_first(one, "energy_j_per_token"), "{:.3g}"),
            one.status,
        ]
        for one in result.pareto[:_ROWS]
    ]
    cost = ["USD/h"] if priced else []
    print_table(
        [
            "hardware",
            "layout",
            "devices",
            *cost,
            "TTFT, ms",
            "TPOT, ms",
            "carries, req/s",
            "J/token",
            "status",
        ],
        rows,
        title="none better in everything (p99 where simulated, else means)",
    )
    _rest(len(result.pareto))
    typer.echo()


def _refused(result: PlanResult) -> None:
    if result.refused:
        typer.echo("why others fail")
        _refusal_table([(r.status, r.what, r.count, r.nearest) for r in result.refused])
        typer.echo()


def _refusal_table(rows: Sequence[tuple[str, str, int, Any]]) -> None:
    from moesim.planning.describe import describe

    cells = []
    for status, what, count, nearest in rows[:_ROWS]:
        candidate = getattr(nearest, "candidate", None)
        near = f"{candidate.hardware.name}, {describe(candidate)}" if candidate is not None else "-"
        cells.append([status, what, f"{count:,}", near, getattr(nearest, "reason", nearest) or "-"])
    print_table(["status", "by", "candidates", "nearest", "misses"], cells)
    _rest(len(rows))


def _gains(gains: Sequence[Sensitivity]) -> None:
    def signed(value: float | None) -> str:
        # Gains below a tenth of a percent are within what routing draws make.
        return "-" if value is None else f"{value:+.1%}".replace("-0.0%", "+0.0%")

    priced = any(g.cost_gain is not None for g in gains)
    rows = [
        [
            g.what,
            "all" if g.change is None else f"+{g.change:.0%}",
            signed(g.rate_gain),
            signed(g.tpot_gain),
            signed(g.simulated.get("tpot_s")),
            *([signed(g.cost_gain)] if priced else []),
        ]
        for g in gains
    ]
    cost = ["cheaper per token"] if priced else []
    print_table(["what if there were more", "by", "requests/s", "faster per token", "simulated", *cost], rows)
    typer.echo()


def _commands(started: Launch) -> None:
    typer.echo(f"start it with {started.engine}:")
    hidden, roles = 0, set()
    for command in started.commands:
        # Further nodes, and neighbours on a node, differ by numbers alone.
        neighbour = bool(command.devices) and (command.role, len(command.devices)) in roles
        if neighbour or (command.node is not None and command.node > 1):
            hidden += 1
            continue
        roles.add((command.role, len(command.devices)))
        typer.echo(f"# {command.role}, {command.where}")
        typer.echo(command.text)
    if hidden:
        typer.echo(f"# {hidden} more lines, for further nodes and devices: --emit DIR writes them all")
    for note in started.notes:
        typer.echo(f"# {note}")


def _rest(rows: int) -> None:
    if rows > _ROWS:
        typer.echo(f"({rows - _ROWS} more: see --json or --out)")


def _first(one: Assessment, *names: str) -> float | None:
    return next((one.metrics[name] for name in names if name in one.metrics), None)


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def _details(error: InfeasibleError) -> list[dict[str, Any]]:
    found = error.details.get("refused")
    return list(found) if isinstance(found, Sequence) else []


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    from moesim.planning.document import assessment_of
    from moesim.planning.types import Assessment

    return {n: assessment_of(v) if isinstance(v, Assessment) else v for n, v in row.items()}
