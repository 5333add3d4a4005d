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
from moesim.serving.settings import Fleet, Scheduler
from moesim.studies.simulated import cut_faults, request_faults, slo_faults
from moesim.studies.spec import RENAMED

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


_CHECKS: dict[str, Callable[[Any], list[Fault]]] = {
    "model": lambda value: list(_named("model", value)),
    "hardware": lambda value: list(_named("hardware", value)),
    "engine": _engine,
    "scheduler": _scheduler,
    "fleet": _fleet,
    "workload": _workload,
    "requests": request_faults,
    "slo": slo_faults,
    "warmup": lambda value: cut_faults(value, ""),
    "cooldown": lambda value: cut_faults(value, ""),
    "trace": _file,
    "plan": _file,
    "calibration": _calibration,
}
