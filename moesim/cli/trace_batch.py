"""`moesim trace batch`: requests of a trace, interleaved into the steps an engine would run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli.common import Json, Seed, print_json, print_table, stderr
from moesim.cli.options import NumExperts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from moesim.batching import Batcher, Steps
    from moesim.errors import Fault
    from moesim.requests import Arrivals, RequestTrace
    from moesim.trace import RoutingTrace

_SEQUENCES = 256
_Model = Annotated[
    str | None,
    typer.Option("--model", help="The model it is of: name, Hugging Face id, config.json or folder."),
]


def batch(
    path: Annotated[Path, typer.Argument(metavar="TRACE", help="A routing trace, token by token.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet of the steps.")],
    arrivals: Annotated[
        str | None,
        typer.Option(
            "--arrivals",
            help="Requests in any known format; or poisson:RATE, gamma:RATE:CV, fixed:RATE, "
            "diurnal:RATE:SWING[:PERIOD_S] with the trace's own requests. Default: all wait at 0.",
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", "-n", min=1, help="How many requests; default: all there are.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="The most requests served at once.")
    ] = None,
    token_budget: Annotated[
        int, typer.Option("--token-budget", "--max-num-batched-tokens", help="The most tokens of one step.")
    ] = 8192,
    max_sequences: Annotated[
        int | None,
        typer.Option(
            "--max-num-seqs",
            help=f"The most requests an engine takes at once; default: --concurrency, or {_SEQUENCES}.",
        ),
    ] = None,
    chunked: Annotated[
        bool,
        typer.Option(
            "--chunked/--prefill-first",
            help="Prompt chunks share steps with decoding, or steps read prompts alone while there are any.",
        ),
    ] = True,
    step_time: Annotated[
        str, typer.Option("--step-time", help="Time of every step: seconds, or 20ms.")
    ] = "20ms",
    overrun: Annotated[
        str,
        typer.Option(
            "--overrun",
            help="A request longer than its routing sequence starts it over (wrap), "
            "or goes on with others (resample).",
        ),
    ] = "wrap",
    counts: Annotated[
        Path | None, typer.Option("--counts", help="Parquet of the experts' loads, step by step.")
    ] = None,
    counts_every: Annotated[
        int, typer.Option("--counts-every", min=1, help="Steps that --counts takes as one.")
    ] = 1,
    model: _Model = None,
    num_experts: NumExperts = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Interleave requests into the steps an engine would run, each token with recorded routing."""
    from moesim.batching import batch_requests, step_counts, write_steps
    from moesim.trace import write_trace

    process, step_s, batcher = _options(
        arrivals, output, counts, step_time, overrun, token_budget, max_sequences or concurrency, chunked
    )
    trace = _token_trace(path, model, num_experts)
    arriving, sequence = _requests(trace, arrivals, process, requests, concurrency, seed)
    steps = batch_requests(
        trace, arriving, batcher, step_time=step_s, sequence=sequence, overrun=overrun, seed=seed
    )
    loads = step_counts(steps, trace, every=counts_every) if counts is not None else None
    write_steps(steps, output)
    if loads is not None and counts is not None:
        write_trace(loads, counts, "parquet")
    files = [path, output, *([counts] if counts else [])]
    if process is None and arrivals is not None:
        files.append(Path(arrivals))
    document = _document(steps, trace, step_s, output, counts)
    if json:
        print_json(document, kind="trace-batches", inputs=files, seed=seed)
    else:
        _print(document, path)


def _options(
    arrivals: str | None,
    output: Path,
    counts: Path | None,
    step_time: str,
    overrun: str,
    token_budget: int,
    max_sequences: int | None,
    chunked: bool,
) -> tuple[Arrivals | None, float, Batcher]:
    """Everything that can be wrong before a file is read, all at once."""
    from moesim.batching import MIXED, PREFILL_FIRST, Batcher
    from moesim.errors import ConfigError, Fault
    from moesim.files import check_writable
    from moesim.requests import ClosedLoop, parse_arrivals
    from moesim.requests.arrivals import is_spelled
    from moesim.units import parse

    faults: list[Fault] = check_writable(output, "--output")
    faults += check_writable(counts, "--counts") if counts is not None else []
    process: Arrivals | None = ClosedLoop(2**31 - 1) if arrivals is None else None
    step_s, batcher = 0.0, Batcher()
    if overrun not in ("wrap", "resample"):
        faults.append(Fault("is no way to go on", "--overrun", overrun, "wrap, resample"))
    try:
        if arrivals is not None and is_spelled(arrivals):
            process = parse_arrivals(arrivals, "--arrivals")
    except ConfigError as error:
        faults += error.faults
    try:
        step_s = parse(step_time, "s")
        if step_s <= 0:
            faults.append(Fault("must be more than 0", "--step-time", step_time))
    except ValueError as error:
        faults.append(Fault(str(error), "--step-time"))
    try:
        most = max_sequences if max_sequences is not None else min(_SEQUENCES, max(token_budget, 1))
        batcher = Batcher(token_budget, most, MIXED if chunked else PREFILL_FIRST)
    except ConfigError as error:
        faults += _as_options(error.faults)
    if faults:
        raise ConfigError(faults)
    return process, step_s, batcher


def _as_options(faults: tuple[Fault, ...]) -> list[Fault]:
    names = {"token_budget": "--token-budget", "max_sequences": "--max-num-seqs"}
    return [replace(fault, where=names.get(fault.where, fault.where)) for fault in faults]


def _token_trace(path: Path, model: str | None, num_experts: int | None) -> RoutingTrace:
    from moesim.cli.trace import _hints
    from moesim.errors import Fault, TraceError
    from moesim.trace import RoutingTrace, load_trace

    trace = load_trace(path, **_hints(model, num_experts))
    if not isinstance(trace, RoutingTrace):
        raise TraceError(Fault("holds load counts: batches need the experts of each token"), path)
    return trace


def _requests(
    trace: RoutingTrace,
    arrivals: str | None,
    process: Arrivals | None,
    requests: int | None,
    concurrency: int | None,
    seed: int,
) -> tuple[RequestTrace, npt.NDArray[np.int64] | None]:
    """Requests, and the sequence of each where they are the trace's own."""
    from moesim.batching import recorded_requests
    from moesim.requests import load_requests

    sequence = None
    if process is not None:
        made, sequence = recorded_requests(trace, process, requests=requests, seed=seed)
    else:
        made = load_requests(str(arrivals))
        made = made.head(requests) if requests is not None else made
    limits = [limit for limit in (made.concurrency, concurrency) if limit is not None]
    return replace(made, concurrency=min(limits, default=None)), sequence


def _document(
    steps: Steps, trace: RoutingTrace, step_s: float, output: Path, counts: Path | None
) -> dict[str, Any]:
    from dataclasses import asdict

    sizes, decode = steps.tokens_per_step, steps.decode_per_step
    decoding = decode[decode > 0]
    return {
        "written": str(output),
        "counts": str(counts) if counts is not None else None,
        "steps": len(steps),
        "tokens": steps.num_tokens,
        "prefill_tokens": steps.num_tokens - int(decode.sum()),
        "decode_tokens": int(decode.sum()),
        "requests": steps.requests,
        "duration_s": float(steps.start_s[-1] + steps.seconds[-1] - steps.start_s[0]),
        "busy_s": float(steps.seconds.sum()),
        "step_time_s": step_s,
        "tokens_per_step": {"mean": float(sizes.mean()), "max": int(sizes.max())},
        "decoding_requests_per_step": {
            "mean": float(decoding.mean()) if len(decoding) else None,
            "max": int(decode.max()),
        },
        "batcher": asdict(steps.batcher),
        **{
            k: steps.metadata[k]
            for k in ("sequences", "reused_sequences", "tokens_beyond_sequence", "overrun")
        },
        "warnings": (*trace.warnings, *steps.warnings),
    }


def _print(d: dict[str, Any], path: Path) -> None:
    decoding = d["decoding_requests_per_step"]
    rows: list[tuple[str, object]] = [
        ("requests", f"{d['requests']:,} over {d['sequences']:,} routing sequences"),
        ("steps", f"{d['steps']:,} of {d['step_time_s'] * 1e3:g} ms"),
        ("time", f"{d['duration_s']:,.1f} s, {d['busy_s'] / d['duration_s']:.0%} busy"),
        ("tokens", f"{d['prefill_tokens']:,} prefill, {d['decode_tokens']:,} decode"),
        ("tokens per step", f"{d['tokens_per_step']['mean']:,.1f}, at most {d['tokens_per_step']['max']:,}"),
    ]
    if decoding["mean"] is not None:
        text = f"{decoding['mean']:,.1f}, at most {decoding['max']:,}"
        rows.append(("requests decoding at once", text))
    rows.append(("requests whose sequence was used before", f"{d['reused_sequences']:,}"))
    rows.append((f"tokens beyond a sequence's end ({d['overrun']})", f"{d['tokens_beyond_sequence']:,}"))
    rows += [("written", name) for name in (d["written"], d["counts"]) if name]
    print_table(("steps of", path.name), rows)
    for warning in d["warnings"]:
        stderr(f"warning: {warning}")
