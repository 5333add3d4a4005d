"""`moesim requests`: what a request trace holds, the same in another format, and made-up ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli.common import Json, Seed, print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.requests import RequestTrace

app = typer.Typer(no_args_is_help=True, help="Request traces: look, convert, generate.")

_Path = Annotated[Path, typer.Argument(metavar="PATH", help="Requests, in any known format.")]
_Out = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")]
_To = Annotated[
    str | None, typer.Option("--to", help="parquet or mooncake; else by suffix: .parquet, .jsonl.")
]
_ARRIVALS = "poisson:RATE, gamma:RATE:CV, fixed:RATE, diurnal:RATE:SWING[:PERIOD_S] or closed:CONCURRENCY"
_LENGTHS = "TOKENS or lognormal:MEAN:CV."


@app.command()
def info(path: _Path, json: Json = False) -> None:
    """Say what a request trace holds: rate, burstiness, lengths, sessions, prefixes."""
    from moesim.requests import load_requests

    trace = load_requests(path)
    document = _document(trace, path)
    if json:
        print_json(document, kind="requests", inputs=[path])
    else:
        _print(document, path)


@app.command()
def convert(
    path: _Path,
    output: _Out,
    to: _To = None,
    arrivals: Annotated[
        str | None, typer.Option("--arrivals", help=f"Give the requests other times: {_ARRIVALS}.")
    ] = None,
    resample: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000_000,
            help="So many requests, drawn by session with replacement (docs/simulate.md).",
        ),
    ] = None,
    request_rate: Annotated[
        float | None, typer.Option(help="Requests per second of --resample; the trace's own by default.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write requests in another format: moesim's Parquet, or Mooncake's JSONL for load generators."""
    from moesim.errors import ConfigError, Fault
    from moesim.requests import load_requests, parse_arrivals, resample_sessions, with_arrivals

    faults: list[Fault] = []
    process = None
    if arrivals is not None:
        try:
            process = parse_arrivals(arrivals, "--arrivals")
        except ConfigError as error:
            faults += error.faults
    if request_rate is not None and resample is None:
        faults.append(Fault("is the rate of --resample", "--request-rate", request_rate))
    elif request_rate is not None and not 0 < request_rate < 1e9:
        faults.append(Fault("is no rate", "--request-rate", request_rate, "per second, more than 0"))
    _check(output, to, faults)
    trace = load_requests(path)
    if resample is not None:
        trace = resample_sessions(trace, resample, seed=seed, rate_per_s=request_rate)
    if process is not None:
        trace = with_arrivals(trace, process, seed=seed)
    drawn = arrivals is not None or resample is not None
    _write(trace, output, to, json, [path, output], seed if drawn else None)


@app.command()
def generate(
    output: _Out,
    requests: Annotated[
        int, typer.Option("--requests", "-n", min=1, max=100_000_000, help="How many requests.")
    ],
    arrivals: Annotated[str, typer.Option("--arrivals", help=f"{_ARRIVALS}.")],
    input_len: Annotated[str, typer.Option("--input-len", help=f"Prompt tokens: {_LENGTHS}")],
    output_len: Annotated[str, typer.Option("--output-len", help=f"Output tokens: {_LENGTHS}")],
    to: _To = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Make up requests from an arrival process and length distributions."""
    from moesim.errors import ConfigError, Fault
    from moesim.requests import generate_requests, parse_arrivals, parse_lengths

    faults: list[Fault] = []
    parsed: list[Any] = []
    for parse, text, option in (
        (parse_arrivals, arrivals, "--arrivals"),
        (parse_lengths, input_len, "--input-len"),
        (parse_lengths, output_len, "--output-len"),
    ):
        try:
            parsed.append(parse(text, option))
        except ConfigError as error:
            faults += error.faults
    _check(output, to, faults)
    trace = generate_requests(requests, *parsed, seed=seed)
    _write(trace, output, to, json, [output], seed)


def _check(output: Path, to: str | None, faults: Any = ()) -> None:  # noqa: ANN401 - faults found so far
    from moesim.errors import ConfigError
    from moesim.files import check_writable
    from moesim.requests.load import format_of

    found = [*faults, *check_writable(output, "OUT")]
    try:
        format_of(output, to)
    except ConfigError as error:
        found += error.faults
    if found:
        raise ConfigError(found)


def _write(
    trace: RequestTrace, output: Path, to: str | None, json: bool, files: list[Path], seed: int | None
) -> None:
    from moesim.requests import write_requests
    from moesim.requests.load import format_of

    lost, name = write_requests(trace, output, to), format_of(output, to)
    if json:
        document = {"written": str(output), "format": name, "requests": len(trace)}
        print_json(
            {**document, "lost": lost, "warnings": trace.warnings},
            kind="requests-conversion",
            inputs=files,
            seed=seed,
        )
        return
    for warning in trace.warnings:
        stderr(f"warning: {warning}")
    if lost:
        stderr(f"warning: {name} does not hold {', '.join(lost)}")
    typer.echo(f"{output} ({name}, {len(trace):,} requests)")


def _document(trace: RequestTrace, path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from moesim.requests import summarise_requests

    return {
        "path": str(path),
        "format": trace.metadata.get("format"),
        **asdict(summarise_requests(trace)),
        "concurrency": trace.concurrency,
        "prefix_block_tokens": trace.prefix_block_tokens,
        "source": trace.source or None,
        "licence": trace.licence or None,
        "metadata": trace.metadata,
        "warnings": trace.warnings,
    }


def _print(d: dict[str, Any], path: Path) -> None:
    rows: list[tuple[str, object]] = [
        ("format", d["format"]),
        ("requests", f"{d['requests']:,}"),
        ("duration", f"{d['duration_s']:,.1f} s"),
    ]
    if d["concurrency"] is not None:
        rows.append(("closed loop", f"{d['concurrency']:,} at once"))
    elif d["rate_per_s"] is not None:
        rows.append(("arrivals", f"{d['rate_per_s']:.3g} per second, {d['peak_per_s']} in the busiest"))
        rows.append(("gaps, deviation over mean", f"{d['gap_cv']:.2f}"))
    for name in ("input", "output"):
        s = d[f"{name}_tokens"]
        rows.append((f"{name} tokens", f"{s['total']:,}, {s['mean']:,.0f} per request"))
        spread = f"{s['median']:,.0f}, {s['p90']:,.0f}, {s['p99']:,.0f}, {s['max']:,}"
        rows.append(("  median, 90 %, 99 %, most", spread))
    if d["sessions"] is not None:
        rows.append(("sessions", f"{d['sessions']:,}"))
    if d["prefix_reuse"] is not None:
        rows.append(("prompt blocks seen before", f"{d['prefix_reuse']:.1%}"))
    rows += [(name, d[name]) for name in ("source", "licence") if d[name]]
    print_table(("requests", path.name), rows)
    for warning in d["warnings"]:
        stderr(f"warning: {warning}")
