"""Requests of a simulation, and its outcome as a row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault, TraceError
from moesim.planning.slo import parse_slo
from moesim.requests import (
    RequestTrace,
    generate_requests,
    load_requests,
    parse_arrivals,
    parse_lengths,
    resample_sessions,
    with_arrivals,
)
from moesim.serving.admit import without_long
from moesim.serving.outcome import Outcome
from moesim.serving.statistics import summarise
from moesim.serving.warmup import AUTO, NONE, parse_cut
from moesim.studies.contents import file_content
from moesim.units import parse

_LIMITS = ("ttft", "tpot", "e2el")


def request_faults(spec: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with what is said of requests; `where` is the setting."""
    found = _file_faults(spec) if spec["path"] is not None else _made_faults(spec)
    if spec["arrivals"] is not None:
        found += _refused(lambda: parse_arrivals(spec["arrivals"], "arrivals"))
        if spec["request_rate"] is not None:
            found.append(
                Fault("arrivals say when requests come already", "request_rate", spec["request_rate"])
            )
    rate = spec["request_rate"]
    if rate is not None and not 0 < rate < 1e9:
        found.append(Fault("is no rate", "request_rate", rate, "per second, more than 0"))
    return found


def _file_faults(spec: Mapping[str, Any]) -> list[Fault]:
    found = [
        Fault("is of made-up requests, and those of `path` have their own", key, spec[key])
        for key in ("input_len", "output_len")
        if spec[key] is not None
    ]
    if spec["resample"] is not None and spec["count"] is not None:
        found.append(Fault("`count` says how many already", "resample", spec["resample"]))
    if not Path(spec["path"]).is_file():
        return [*found, Fault("there is no such file", "path", spec["path"])]
    return [*found, *(replace(fault, where="path") for fault in _unread(spec["path"]))]


@functools.lru_cache(maxsize=256)
def _unread(path: str) -> tuple[Fault, ...]:
    return tuple(_refused(lambda: requests_in(path, file_content(path)["sha256"])))


def _made_faults(spec: Mapping[str, Any]) -> list[Fault]:
    found = [
        Fault("is missing: requests come from a `path`, or are made up", key)
        for key in ("count", "input_len", "output_len")
        if spec[key] is None
    ]
    if all(spec[key] is None for key in ("arrivals", "request_rate", "concurrency")):
        found.append(
            Fault("nothing says when requests come", allowed="path, arrivals, request_rate or concurrency")
        )
    if spec["resample"] is not None:
        found.append(Fault("draws from the requests of a `path`", "resample", spec["resample"]))
    for key in ("input_len", "output_len"):
        if spec[key] is not None:
            found += _refused(functools.partial(parse_lengths, str(spec[key]), key))
    return found


def _refused(read: Callable[[], object]) -> list[Fault]:
    try:
        read()
    except (ConfigError, TraceError) as error:
        return list(error.faults)
    return []


def slo_faults(slo: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with a promise."""
    found = []
    for key in _LIMITS:
        if slo[key] is None:
            continue
        try:
            if not parse(slo[key], "s") > 0:
                found.append(Fault("must be above 0", key, slo[key], "such as 500 ms"))
        except ValueError as error:
            found.append(Fault(str(error), key))
    if slo["preset"] is not None:
        found += [replace(f, where="preset") for f in _refused(lambda: parse_slo((), slo["preset"]))]
    elif all(slo[key] is None for key in _LIMITS):
        found.append(Fault("limits nothing", allowed="preset, ttft, tpot or e2el"))
    return found


def cut_faults(text: str | float | None, where: str) -> list[Fault]:
    """What is wrong with how much of a run is left out."""
    return [] if text is None else _refused(lambda: parse_cut(str(text), where))


def limits_of(slo: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by metric: those of the preset, and those said beside it.

    >>> limits_of({"preset": None, "ttft": "500 ms", "tpot": 0.05, "e2el": None, "attainment": 0.99})
    {'ttft_s': 0.5, 'tpot_s': 0.05}
    """
    preset = dict(parse_slo((), slo["preset"]).limits) if slo["preset"] is not None else {}
    return preset | {f"{key}_s": parse(slo[key], "s") for key in _LIMITS if slo[key] is not None}


@functools.lru_cache(maxsize=4)
def requests_in(path: str, sha256: str) -> RequestTrace:  # noqa: ARG001 - other contents, other requests
    """The requests of a file, read once for as long as it holds the same."""
    return load_requests(path, ordered=True)


def requests_of(
    spec: Mapping[str, Any], path: str | None, seed: int, drawn: bool, most: int | None
) -> RequestTrace:
    """The requests of one configuration.

    Parameters
    ----------
    spec
        What the study says of them.
    path
        Their file, if they have one.
    seed
        Of all that is random.
    drawn
        Whether the requests of a file are drawn anew by session, for a replication.
    most
        Tokens that the model's context holds, for `drop_long`.
    """
    if path is None:
        found = _made(spec, seed)
    else:
        found = requests_in(path, spec["path"]["sha256"])
        found = _recorded(found, spec, seed)
        if drawn:
            found = resample_sessions(found, len(found), seed=seed)
    if spec["concurrency"] is not None and found.concurrency is None:
        found = replace(found, concurrency=spec["concurrency"])
    if spec["drop_long"]:
        found, left = without_long(found, most)
        if left:
            note = f"{left} requests are longer than the model's context and were left out"
            found = replace(found, warnings=(*found.warnings, note))
    return found


def _made(spec: Mapping[str, Any], seed: int) -> RequestTrace:
    arrivals = spec["arrivals"]
    if arrivals is None:
        rate = spec["request_rate"]
        arrivals = f"poisson:{rate!r}" if rate is not None else f"closed:{spec['concurrency']}"
    lengths = (parse_lengths(str(spec[key]), key) for key in ("input_len", "output_len"))
    return generate_requests(spec["count"], arrivals, *lengths, seed=seed)


def _recorded(found: RequestTrace, spec: Mapping[str, Any], seed: int) -> RequestTrace:
    rate = spec["request_rate"]
    if spec["resample"] is not None:
        found = resample_sessions(found, spec["resample"], seed=seed, rate_per_s=rate)
    elif spec["count"] is not None:
        found = found.head(spec["count"])
    if spec["arrivals"] is not None:
        return with_arrivals(found, spec["arrivals"], seed=seed)
    if rate is None or spec["resample"] is not None:
        return found
    whole = float(found.arrival_s[-1] - found.arrival_s[0])
    if whole <= 0:
        raise ConfigError(Fault("the requests have no times to be stretched", "requests.request_rate", rate))
    # The same requests faster or slower, all gaps in proportion.
    return replace(
        found, arrival_s=(found.arrival_s - found.arrival_s[0]) * ((len(found) - 1) / rate / whole)
    )


def values_of(outcome: Outcome, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `moesim.studies.rows.VALUES` that a simulation has."""
    slo, recorded = identity["slo"], identity["requests"]["path"] is not None
    limits = None if slo is None else limits_of(slo)
    usual = NONE if recorded else AUTO
    warmup, cooldown = (
        usual if identity[key] is None else parse_cut(str(identity[key]), key)
        for key in ("warmup", "cooldown")
    )
    summary = summarise(outcome, goodput=limits, warmup=warmup, cooldown=cooldown, price=identity["price"])
    found = dict(_flat(summary.values))
    for name, ends in summary.interval.items():
        column = name.replace(".", "_")
        found |= {f"{column}_lo": ends[0], f"{column}_hi": ends[1]}
    if summary.interval:
        found["interval_level"] = summary.level
    if slo is not None and found["attainment"] is not None:
        found["slo_met"] = float(found["attainment"] >= slo["attainment"])
    assumed = () if outcome.about is None else (*outcome.about.notes,)
    notes = (*outcome.requests.warnings, *assumed, *summary.notes)
    return found | {"notes": "; ".join(dict.fromkeys(notes))}


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        # Percentiles by the name of what they are of, as means are.
        name = f"{before}{key}" if key != "latency" else ""
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}_" if name else "")
        else:
            yield name, value
