"""What `moesim simulate` is asked, with all that is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.errors import ConfigError, Fault, TraceError

if TYPE_CHECKING:
    from moesim.requests import RequestTrace
    from moesim.serving.replications import Traffic
    from moesim.serving.settings import Fleet, Scheduler

#: Requests that are made up, if nobody says how many.
MADE = 1000
MOST = 100_000_000
#: What a result may be written as besides a table of requests.
DOCUMENT = ".json"


@dataclass(frozen=True, slots=True)
class Asked:
    """Options that say which requests are served; None where nothing is said."""

    requests: Path | None
    arrivals: str | None
    request_rate: float | None
    concurrency: int | None
    num_requests: int | None
    resample: int | None
    input_len: str | None
    output_len: str | None
    seed: int


def settings_of(
    faults: list[Fault],
    backend: str,
    *,
    replicas: int,
    router: str,
    graph_sizes: str | None,
    **given: Any,  # noqa: ANN401 - fields of Scheduler, None where nothing is said
) -> tuple[Scheduler, Fleet]:
    """Settings from options, over the defaults of the engine."""
    from moesim.cli.options import numbers
    from moesim.engine.deployment import BACKENDS
    from moesim.serving.settings import Fleet, Scheduler

    said = {name: value for name, value in given.items() if value is not None}
    try:
        sizes = numbers(graph_sizes, "--cuda-graph-sizes", int)
        if sizes is not None:
            said["graph_sizes"] = tuple(sorted(sizes))
    except ConfigError as error:
        faults += error.faults
    known = Scheduler.of(backend if backend in BACKENDS else BACKENDS[0])
    assert set(said) <= {f.name for f in fields(Scheduler)}
    scheduler, fleet = replace(known, **said), Fleet(replicas, router)
    faults += scheduler.faults() + fleet.faults()
    return scheduler, fleet


def faults_of(
    output: Path | None,
    timeline: Path | None,
    aiperf: Path | None,
    bench: Path | None,
    replications: int,
    processes: int,
    price: float | None,
) -> list[Fault]:
    """What is wrong with where results go, and how many there are to be."""
    from moesim.chrome import path_faults
    from moesim.files import check_writable
    from moesim.serving.export.tables import TABLES

    found = path_faults(timeline) if timeline is not None else []
    for path, option, suffixes in (
        (output, "--output", (*TABLES, DOCUMENT)),
        (bench, "--bench", (".json",)),
    ):
        if path is None:
            continue
        if path.suffix.lower() not in suffixes:
            found.append(Fault("has a suffix of no format", option, str(path), ", ".join(suffixes)))
        found += check_writable(path, option)
    if aiperf is not None and not aiperf.is_dir():
        found += check_writable(aiperf, "--aiperf")
        if aiperf.exists():
            found.append(Fault("is a file, not a folder", "--aiperf", str(aiperf)))
    for value, option, most in (
        (replications, "--replications", 10_000),
        (processes, "--processes", 1_024),
    ):
        if not 1 <= value <= most:
            found.append(Fault("is out of range", option, value, f"1 to {most}"))
    if price is not None and not 0 <= price < 1e9:
        found.append(Fault("is no price", "--price", price, "USD per device and hour, at least 0"))
    return found


def window_of(faults: list[Fault], text: str | None) -> tuple[float, float]:
    """Seconds of a timeline."""
    if text is None:
        return 0.0, math.inf
    first, colon, last = text.partition(":")
    try:
        found = float(first), float(last) if last else math.inf
    except ValueError:
        found = math.nan, math.nan
    if not colon or not 0.0 <= found[0] < found[1]:
        faults.append(Fault("is no window", "--timeline-window", text, "FROM:TO in seconds, such as 10:20"))
        return 0.0, math.inf
    return found


def traffic_of(faults: list[Fault], asked: Asked) -> Traffic | None:
    """The requests of every replication; None with faults."""
    before = len(faults)
    for value, option in ((asked.num_requests, "--num-requests"), (asked.resample, "--resample")):
        if value is not None and not 1 <= value <= MOST:
            faults.append(Fault("is out of range", option, value, f"1 to {MOST}"))
    if asked.request_rate is not None and not 0 < asked.request_rate < 1e9:
        faults.append(Fault("is no rate", "--request-rate", asked.request_rate, "per second, more than 0"))
    if asked.concurrency is not None and not 1 <= asked.concurrency < 2**31:
        faults.append(Fault("is out of range", "--concurrency", asked.concurrency, "at least 1"))
    if asked.arrivals is not None and asked.request_rate is not None:
        faults.append(Fault("either says when requests arrive", "--arrivals or --request-rate"))
    found = (_recorded if asked.requests is not None else _made)(faults, asked)
    return found if len(faults) == before else None


def _made(faults: list[Fault], asked: Asked) -> Traffic | None:
    from moesim.requests import parse_arrivals, parse_lengths
    from moesim.serving.replications import Made

    if asked.resample is not None:
        faults.append(Fault("draws from a trace", "--resample", asked.resample, "with --requests"))
    arrivals = asked.arrivals
    if arrivals is None and asked.request_rate is not None:
        arrivals = f"poisson:{asked.request_rate!r}"
    if arrivals is None and asked.concurrency is not None:
        arrivals = f"closed:{asked.concurrency}"
    if arrivals is None:
        what = "--requests FILE, --arrivals, --request-rate or --concurrency"
        faults.append(Fault("nothing says when requests arrive", "requests", allowed=what))
        arrivals = "poisson:1"
    parsed: list[Any] = []
    tries: tuple[tuple[Callable[[str, str], Any], str, str], ...] = (
        (parse_arrivals, arrivals, "--arrivals"),
        (parse_lengths, asked.input_len or "1024", "--input-len"),
        (parse_lengths, asked.output_len or "1024", "--output-len"),
    )
    for parse, text, option in tries:
        try:
            parsed.append(parse(text, option))
        except ConfigError as error:
            # A rate that is wrong has been named already.
            faults += [] if option == "--arrivals" and asked.arrivals is None else error.faults
    if len(parsed) < len(tries):
        return None
    cap = asked.concurrency if not parsed[0].concurrency else None
    if cap is None and asked.concurrency is not None and asked.arrivals is not None:
        faults.append(Fault("is said by --arrivals", "--concurrency", asked.concurrency))
    count = asked.num_requests if asked.num_requests is not None else MADE
    return Made(count, parsed[0], parsed[1], parsed[2], concurrency=cap)


def _recorded(faults: list[Fault], asked: Asked) -> Traffic | None:
    from moesim.requests import load_requests, parse_arrivals, resample_sessions, with_arrivals
    from moesim.serving.replications import Recorded

    for value, option in ((asked.input_len, "--input-len"), (asked.output_len, "--output-len")):
        if value is not None:
            faults.append(Fault("is of made-up requests, and the trace has its own", option, value))
    if asked.resample is not None and asked.num_requests is not None:
        faults.append(Fault("either says how many", "--resample or --num-requests"))
    process = None
    if asked.arrivals is not None:
        try:
            process = parse_arrivals(asked.arrivals, "--arrivals")
        except ConfigError as error:
            faults += error.faults
    assert asked.requests is not None
    try:
        trace = load_requests(asked.requests, ordered=asked.arrivals is None)
    except TraceError as error:
        faults += [
            Fault(f"{error.source}: {fault}" if error.source else str(fault)) for fault in error.faults
        ]
        return None
    if faults:
        return None
    if asked.resample is not None:
        trace = resample_sessions(trace, asked.resample, seed=asked.seed, rate_per_s=asked.request_rate)
    elif asked.num_requests is not None:
        trace = trace.head(asked.num_requests)
    if process is not None:
        trace = with_arrivals(trace, process, seed=asked.seed)
    elif asked.request_rate is not None and asked.resample is None:
        trace = _at_rate(faults, trace, asked.request_rate)
    if asked.concurrency is not None:
        trace = replace(trace, concurrency=asked.concurrency)
    return Recorded(trace, asked.seed)


def _at_rate(faults: list[Fault], trace: RequestTrace, rate: float) -> RequestTrace:
    """The same requests faster or slower: all gaps in proportion."""
    whole = float(trace.arrival_s[-1] - trace.arrival_s[0])
    if whole <= 0:
        faults.append(
            Fault(
                "the trace has no times to be stretched",
                "--request-rate",
                rate,
                f"--arrivals poisson:{rate:g}",
            )
        )
        return trace
    first = trace.arrival_s[0]
    return replace(trace, arrival_s=(trace.arrival_s - first) * ((len(trace) - 1) / rate / whole))
