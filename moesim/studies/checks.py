"""What is wrong with one part of a configuration, as far as it can be said without evaluating it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from moesim.correction import calibration_of
from moesim.errors import ConfigError, Fault, TraceError, nearest
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.ops.precision import KV_DTYPES, WEIGHT_DTYPES
from moesim.prediction import Engine, Workload
from moesim.requests import parse_arrivals, parse_lengths
from moesim.serving.settings import Fleet, Scheduler
from moesim.studies.spec import RENAMED
from moesim.units import parse

#: Options of commands whose settings are spelled otherwise.
_OPTIONS = {"block_size": "block_tokens"}


def check_part(name: str, value: Any) -> list[Fault]:  # noqa: ANN401 - any setting
    """Faults of one part; `where` of each is its dotted path in a configuration."""
    found: list[Fault] = _CHECKS[name](value) if name in _CHECKS and value is not None else []
    return [replace(fault, where=f"{name}.{fault.where}" if fault.where else name) for fault in found]


def engine_of(settings: dict[str, Any]) -> Engine:
    """Settings of a study as those of an engine."""
    own = {spelled: name for name, spelled in RENAMED.items()}
    return Engine(**{own.get(name, name): value for name, value in settings.items()})


def scheduler_of(settings: dict[str, Any], backend: str) -> Scheduler:
    """Settings of a study as those of a scheduler; what is not said is the backend's own."""
    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if v is not None
    }
    return replace(Scheduler.of(backend), **given)


def limits_of(slo: dict[str, Any]) -> dict[str, float]:
    """Seconds by metric, of those limits that are set."""
    return {f"{k}_s": parse(v, "s") for k, v in slo.items() if k != "attainment" and v is not None}


def _by_key(faults: list[Fault], known: dict[str, Any]) -> list[Fault]:
    """The same faults at the setting that an option stands for."""
    found = []
    for fault in faults:
        key = fault.where.removeprefix("--").replace("-", "_")
        key = _OPTIONS.get(key, key)
        text = {"where": key} if key in known else {"where": "", "message": f"{fault.where}: {fault.message}"}
        found.append(replace(fault, **text))
    return found


def _engine(value: dict[str, Any]) -> list[Fault]:
    found = _by_key(engine_of(value).faults(), value)
    for key, known in (("dtype", WEIGHT_DTYPES), ("kv_cache_dtype", KV_DTYPES)):
        if value[key] not in known:
            near = nearest(value[key], known)
            found.append(
                Fault(
                    "unknown data type" + (f"; nearest: {', '.join(near)}" if near else ""),
                    key,
                    value[key],
                    ", ".join(known),
                )
            )
    return found


def _scheduler(value: dict[str, Any]) -> list[Fault]:
    return _by_key(scheduler_of(value, "vllm").faults(), value)


def _fleet(value: dict[str, Any]) -> list[Fault]:
    return _by_key(Fleet(**value).faults(), value)


def _workload(value: dict[str, Any]) -> list[Fault]:
    found = _by_key(Workload(**value).faults(), value)
    return [replace(f, message=f.message.removeprefix("--concurrency or --request-rate: ")) for f in found]


def _caught(read: Callable[[str], object], value: str, where: str = "") -> list[Fault]:
    try:
        read(value)
    except (ConfigError, TraceError) as error:
        source = f"{error.source}: " if error.source else ""
        return [Fault(f"{source}{fault}", where) for fault in error.faults]
    return []


@functools.lru_cache(maxsize=4096)
def _named(kind: str, value: str) -> tuple[Fault, ...]:
    return tuple(_caught(load_model if kind == "model" else load_hardware, value))


def _file(value: str) -> list[Fault]:
    return [] if Path(value).exists() else [Fault("there is no such file", value=value)]


def _calibration(value: str) -> list[Fault]:
    return _caught(calibration_of, value)


def _requests(value: dict[str, Any]) -> list[Fault]:
    found = []
    needed = ("path",) if value["path"] is not None else ("count", "arrivals", "input_len", "output_len")
    for key in needed:
        if value[key] is None:
            found.append(Fault("is missing: requests come from a path, or are made up", key))
    if value["path"] is not None:
        found += [replace(fault, where="path") for fault in _file(value["path"])]
        for key in ("input_len", "output_len"):
            if value[key] is not None:
                found.append(Fault("the file at `path` says so already", key, value[key]))
    if value["arrivals"] is not None:
        found += _parsed(lambda text: parse_arrivals(text, ""), value["arrivals"], "arrivals")
    for key in ("input_len", "output_len"):
        if value["path"] is None and value[key] is not None:
            found += _parsed(lambda text: parse_lengths(text, ""), str(value[key]), key)
    return found


def _parsed(read: Callable[[str], object], value: str, where: str) -> list[Fault]:
    try:
        read(value)
    except ConfigError as error:
        return [replace(fault, where=where) for fault in error.faults]
    return []


def _slo(value: dict[str, Any]) -> list[Fault]:
    found = []
    for key in ("ttft", "tpot", "e2el"):
        if value[key] is None:
            continue
        try:
            if not parse(value[key], "s") > 0:
                found.append(Fault("must be above 0", key, value[key], "such as 500 ms"))
        except ValueError as error:
            found.append(Fault(str(error), key))
    if all(value[key] is None for key in ("ttft", "tpot", "e2el")):
        found.append(Fault("limits nothing", allowed="ttft, tpot or e2el"))
    return found


_CHECKS: dict[str, Callable[[Any], list[Fault]]] = {
    "model": lambda value: list(_named("model", value)),
    "hardware": lambda value: list(_named("hardware", value)),
    "engine": _engine,
    "scheduler": _scheduler,
    "fleet": _fleet,
    "workload": _workload,
    "requests": _requests,
    "slo": _slo,
    "trace": _file,
    "plan": _file,
    "calibration": _calibration,
}
