"""What `moesim simulate` prints and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import typer

from moesim.cli.common import SCHEMA_VERSION, print_table

if TYPE_CHECKING:
    from moesim.serving.outcome import Outcome
    from moesim.serving.statistics import Summary


@dataclass(frozen=True, slots=True)
class Outputs:
    """Files that were asked for."""

    output: Path | None
    timeline: Path | None
    timeline_requests: int
    timeline_window: tuple[float, float]
    aiperf: Path | None
    bench: Path | None

    def document(
        self,
        summary: Summary,
        outcome: Outcome,
        notes: Sequence[str],
        *,
        offload: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The whole answer as plain values."""
        from moesim.serving.document import document_of

        written = [self.output, self.timeline, self.bench, self.aiperf]
        whole = document_of(summary, outcome, notes=notes)
        return whole | {"offload": offload, "written": [str(path) for path in written if path is not None]}

    def write(
        self,
        document: Mapping[str, Any],
        outcome: Outcome,
        limits: dict[str, float],
        cuts: tuple[str | float, str | float],
        inputs: Sequence[Any],
        seed: int,
    ) -> None:
        """Write the files; of replications, the first."""
        from moesim.serving.export import write_aiperf, write_bench, write_table, write_timeline
        from moesim.serving.warmup import window_of

        if self.output is not None:
            if self.output.suffix.lower() == ".json":
                _write_document(self.output, document, inputs, seed)
            else:
                write_table(outcome, self.output)
        if self.timeline is not None:
            write_timeline(outcome, self.timeline, self.timeline_requests, self.timeline_window)
        if self.aiperf is not None:
            write_aiperf(outcome, self.aiperf, window_of(outcome, *cuts), limits)
        if self.bench is not None:
            write_bench(outcome, self.bench, limits)


def _write_document(path: Path, document: Mapping[str, Any], inputs: Sequence[Any], seed: int) -> None:
    from moesim.files import atomic_write
    from moesim.provenance import clean, provenance

    whole = {
        "schema_version": SCHEMA_VERSION,
        "kind": "simulation",
        **document,
        "provenance": provenance(inputs, seed),
    }
    with atomic_write(path) as stream:
        cast("IO[str]", stream).write(json.dumps(clean(whole), indent=2, allow_nan=False) + "\n")


def show(document: Mapping[str, Any]) -> None:
    """Print an answer for people."""
    d = document
    typer.echo(
        f"{d['model']} on {d['devices']} {'device' if d['devices'] == 1 else 'devices'} of {d['hardware']}: "
        f"{d['replicas']} x {d['layout']}, "
        f"{d['requests']:,.0f} requests in {d['duration_s']:,.1f} s"
    )
    print_table(
        ["latency", "mean", *_level(d), "p50", "p90", "p95", "p99"], [_latency(d, *row) for row in _ROWS]
    )
    typer.echo()
    rows = [
        _rate(d, "requests/s", "request_throughput"),
        _rate(d, "output tokens/s", "output_throughput"),
        _rate(d, "input and output tokens/s", "total_token_throughput"),
        _rate(d, "output tokens/s per device", "output_throughput_per_device"),
        _rate(d, "good requests/s", "request_goodput"),
        _rate(d, "share of good requests", "attainment"),
        _rate(d, "requests running, mean", "running"),
        _rate(d, "requests waiting, mean", "waiting"),
        _rate(d, "time in steps", "utilisation"),
        _rate(d, "cache in use, mean", "kv_cache.mean"),
        _rate(d, "cache in use, most", "kv_cache.max"),
        _rate(d, "prompt tokens found in the cache", "prefix_hit_ratio"),
        _rate(d, "preemptions", "preemptions"),
        _rate(d, "experts found on the device", "offload.hit_ratio"),
        _rate(d, "GB of experts moved per request", "offload.moved_bytes_per_request", 1e-9),
        _rate(d, "joules per output token, busy devices", "energy.busy_joules_per_output_token"),
        _rate(d, "USD per million output tokens", "cost.usd_per_million_output_tokens"),
    ]
    if d["lost"] or d["unfinished"]:
        rows.append(["requests without an answer", f"{d['lost'] + d['unfinished']:,}", ""])
    print_table(["", "", *_level(d)], [row[: 2 + len(_level(d))] for row in rows if row[1]])
    typer.echo()
    cut = d["window"]
    what = f"{cut['requests']:,.0f} of {d['requests']:,.0f} requests"
    typer.echo(f"over {cut['to_s'] - cut['from_s']:,.1f} s and {what}; {_method(d)}")


_ROWS = (
    ("TTFT, ms", "ttft_s", 1e3),
    ("TPOT, ms", "tpot_s", 1e3),
    ("between tokens, ms", "itl_s", 1e3),
    ("end to end, s", "e2el_s", 1.0),
    ("in the queue, ms", "queue_s", 1e3),
)


def _level(d: Mapping[str, Any]) -> list[str]:
    return [f"{d['interval']['level']:.0%} interval"] if d["interval"] else []


def _method(d: Mapping[str, Any]) -> str:
    return f"intervals: {d['interval']['method']}" if d["interval"] else "no intervals"


def _latency(d: Mapping[str, Any], title: str, name: str, scale: float) -> list[str | None]:
    spread = d["latency"][name]

    def text(value: float | None) -> str | None:
        return None if value is None else f"{value * scale:.4g}"

    span = [_span(d, name, scale)] if d["interval"] else []
    return [title, text(spread["mean"]), *span, *(text(spread[p]) for p in ("p50", "p90", "p95", "p99"))]


def _span(d: Mapping[str, Any], name: str, scale: float = 1.0) -> str:
    ends = (d["interval"] or {}).get(name)
    return " to ".join(f"{end * scale:.4g}" for end in ends) if ends else ""


def _rate(d: Mapping[str, Any], title: str, name: str, scale: float = 1.0) -> list[str]:
    value: Any = d
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return [title, "" if value is None else f"{value * scale:.5g}", _span(d, name, scale)]
