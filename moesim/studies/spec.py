"""What a study file may say: the parts of a configuration, and how they are varied."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from moesim.prediction import Engine
from moesim.serving.settings import Fleet, Scheduler

#: More configurations than this need `max_configurations` in the file, and more than that are refused.
USUAL_CONFIGURATIONS = 100_000
MOST_CONFIGURATIONS = 10_000_000

#: Settings of the engine that serving engines spell otherwise.
RENAMED = {
    "chunk_tokens": "max_num_batched_tokens",
    "max_sequences": "max_num_seqs",
    "memory_utilisation": "gpu_memory_utilization",
}

Degree = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]
Many = Annotated[int, Field(ge=1, le=100_000_000, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, lt=1e9)]


class Part(BaseModel):
    """A mapping of a study file."""

    # A default is read as if it were said: 1024 and 1024.0 are the same where a setting is no whole number.
    model_config = ConfigDict(extra="forbid", validate_default=True)


class Study(Part):
    """The file as a whole; `base` and the values of the axes are read once they are put together."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
    kind: Literal["predict", "simulate"] = "predict"
    base: dict[str, Any]
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    zip: list[dict[str, Annotated[list[Any], Field(min_length=1)]]] = []
    exclude: list[Annotated[dict[str, Any], Field(min_length=1)]] = []
    replications: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 1
    max_configurations: Annotated[int, Field(ge=1, le=MOST_CONFIGURATIONS, strict=True)] = (
        USUAL_CONFIGURATIONS
    )


class LayoutSpec(Part):
    """Degrees of parallelism, spelled as options of `moesim predict`."""

    tp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    ep: Degree = 1
    prefill_workers: Degree | None = None
    decode_workers: Degree = 1
    prefill_tp: Degree | None = None
    prefill_pp: Degree | None = None
    prefill_dp: Degree | None = None
    prefill_ep: Degree | None = None


class WorkloadSpec(Part):
    """Traffic of a prediction."""

    input_len: Number = 1024.0
    output_len: Number = 1024.0
    concurrency: Number | None = None
    request_rate: Number | None = None


class RequestsSpec(Part):
    """Requests of a simulation: those of a file, or made up."""

    path: str | None = None
    count: Many | None = None
    resample: Many | None = None
    arrivals: str | None = None
    request_rate: Number | None = None
    concurrency: Degree | None = None
    input_len: str | int | None = None
    output_len: str | int | None = None
    drop_long: bool = False


class SloSpec(Part):
    """What requests are to meet, in seconds or with a unit: ``500 ms``; a preset as in `moesim plan`."""

    preset: str | None = None
    ttft: float | str | None = None
    tpot: float | str | None = None
    e2el: float | str | None = None
    attainment: Annotated[float, Field(gt=0, le=1)] = 0.99


class DriftSpec(Part):
    """Routing that changes while requests are served: equal parts of `trace`, one after the other."""

    routing_windows: Degree
    window_tokens: Annotated[float, Field(ge=1, le=1e12)] | None = None


def _spelled(settings: type[Any], name: str, optional: bool) -> type[BaseModel]:
    """The fields of a class of settings, under the names that serving engines use.

    Where `optional`, a setting that is not said is None, for whoever knows the backend's own.
    """
    hints = typing.get_type_hints(settings)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        hint = Number if hints[field.name] is float else hints[field.name]
        fields[RENAMED.get(field.name, field.name)] = (
            (hint | None, None) if optional else (hint, field.default)
        )
    return create_model(name, __base__=Part, **fields)


EngineSpec = _spelled(Engine, "EngineSpec", optional=False)
SchedulerSpec = _spelled(Scheduler, "SchedulerSpec", optional=True)
FleetSpec = _spelled(Fleet, "FleetSpec", optional=False)

_SHARED: dict[str, Any] = {
    "model": (str, ...),
    "hardware": (str, ...),
    "nodes": (Degree | None, None),
    "layout": (LayoutSpec, LayoutSpec()),
    "engine": (EngineSpec, EngineSpec()),
    "trace": (str | None, None),
    "num_experts": (Degree | None, None),
    "plan": (str | None, None),
    "redundant": (Count, 0),
    "calibration": (str | None, None),
    "seed": (Count, 0),
}
#: What describes one configuration, by kind of study.
CONFIGURATION: dict[str, type[BaseModel]] = {
    "predict": create_model("Predicted", __base__=Part, workload=(WorkloadSpec, ...), **_SHARED),
    "simulate": create_model(
        "Simulated",
        __base__=Part,
        requests=(RequestsSpec, ...),
        scheduler=(SchedulerSpec, SchedulerSpec()),
        fleet=(FleetSpec, FleetSpec()),
        slo=(SloSpec | None, None),
        drift=(DriftSpec | None, None),
        warmup=(str | float | None, None),
        cooldown=(str | float | None, None),
        price=(Price | None, None),
        **_SHARED,
    ),
}


def columns_of(kind: str) -> dict[str, str]:
    """Dotted path and plain type of every setting of a kind of configuration, in order.

    >>> columns_of("predict")["layout.tp"], columns_of("predict")["engine.dtype"]
    ('int', 'str')
    """
    order = ("model", "hardware", "nodes", "layout", "workload", "requests", "fleet", "slo")
    fields = CONFIGURATION[kind].model_fields
    names = sorted(fields, key=lambda n: order.index(n) if n in order else len(order))
    found: dict[str, str] = {}
    for name in names:
        part = _strip(fields[name].annotation)
        if isinstance(part, type) and issubclass(part, BaseModel):
            found |= {f"{name}.{k}": _plain(f.annotation) for k, f in part.model_fields.items()}
        else:
            found[name] = _plain(part)
    return found | {"replication": "int"}


def _strip(annotation: Any) -> Any:  # noqa: ANN401 - any type expression
    kinds = [a for a in typing.get_args(annotation) if a is not type(None)]
    if typing.get_origin(annotation) is Annotated:
        return _strip(kinds[0])
    return _strip(kinds[0]) if kinds and typing.get_origin(annotation) is not tuple else annotation


def _plain(annotation: Any) -> str:  # noqa: ANN401 - any type expression
    """One of ``bool, int, float, str``; what is more than one of them is shown as text."""
    kinds = {_strip(a) for a in typing.get_args(annotation) if a is not type(None)} or {_strip(annotation)}
    kinds = {k for k in kinds if isinstance(k, type)} or {_strip(annotation)}
    only = kinds.pop() if len(kinds) == 1 else str
    return only.__name__ if only in (bool, int, float, str) else "str"
