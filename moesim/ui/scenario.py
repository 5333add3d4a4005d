"""What a page asks: one configuration, checked as a whole, with every fault at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moesim.engine.deployment import BACKENDS, OVERLAPS
from moesim.engine.routing import ASSUMED
from moesim.errors import ConfigError, Fault, TraceError, nearest
from moesim.hardware import Hardware
from moesim.hardware.read import faults_of
from moesim.layout import ExpertMap, Parallelism
from moesim.model import Model
from moesim.ops.precision import KV_DTYPES, WEIGHT_DTYPES
from moesim.prediction import Engine, Workload, check_routing
from moesim.prediction.spares import spare_faults, with_spares
from moesim.trace import Routing
from moesim.ui.library import Library


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be, and how a slider moves it.

    Parameters
    ----------
    scale
        ``log`` or ``linear``.
    """

    label: str
    unit: str
    min: float
    max: float
    step: float = 1
    scale: str = "log"


RANGES: Mapping[str, Range] = {
    "nodes": Range("Nodes", "", 1, 128),
    "tp": Range("Tensor parallel", "", 1, 1024),
    "pp": Range("Pipeline parallel", "", 1, 128),
    "dp": Range("Data parallel", "", 1, 4096),
    "ep": Range("Expert parallel", "", 1, 4096),
    "redundant": Range("Redundant experts", "", 0, 4096, scale="linear"),
    "input_len": Range("Prompt", "tokens", 1, 1_000_000),
    "output_len": Range("Output", "tokens", 1, 1_000_000),
    "concurrency": Range("Requests at once", "", 1, 1_000_000),
    "request_rate": Range("Requests", "1/s", 0.001, 100_000, 0.001),
    "ttft_limit_ms": Range("TTFT at most", "ms", 1, 10_000_000),
    "tpot_limit_ms": Range("TPOT at most", "ms", 0.1, 100_000, 0.1),
    "seed": Range("Seed", "", 0, 2**31 - 1, scale="linear"),
}
CHOICES: Mapping[str, Sequence[str]] = {
    "dtype": WEIGHT_DTYPES,
    "kv_cache_dtype": KV_DTYPES,
    "backend": BACKENDS,
    "overlap": OVERLAPS,
    "routing": ASSUMED,
}
_LAYOUT = frozenset({"tp", "pp", "dp", "ep", "redundant"})


def _in(name: str) -> Any:  # noqa: ANN401 - what pydantic calls a field
    return Field(ge=RANGES[name].min, le=RANGES[name].max, allow_inf_nan=False)


class Scenario(BaseModel):
    """One configuration; what is left out is as here.

    Numbers are those of ``moesim predict``. With a `request_rate` requests arrive at it, whatever
    `concurrency` says; limits are in milliseconds and change no prediction.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str = "deepseek-v3"
    hardware: str = "h200-sxm-8"
    nodes: Annotated[int, _in("nodes")] = 4
    tp: Annotated[int, _in("tp")] = 1
    pp: Annotated[int, _in("pp")] = 1
    dp: Annotated[int, _in("dp")] = 32
    ep: Annotated[int, _in("ep")] = 32
    redundant: Annotated[int, _in("redundant")] = 0
    input_len: Annotated[float, _in("input_len")] = 4096
    output_len: Annotated[float, _in("output_len")] = 1024
    concurrency: Annotated[float, _in("concurrency")] = 1024
    request_rate: Annotated[float, _in("request_rate")] | None = None
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    backend: str = "vllm"
    overlap: str = "none"
    trace: str | None = None
    routing: str = "typical"
    ttft_limit_ms: Annotated[float, _in("ttft_limit_ms")] | None = None
    tpot_limit_ms: Annotated[float, _in("tpot_limit_ms")] | None = None
    seed: Annotated[int, _in("seed")] = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; whole numbers are whole."""
        return {name: whole(value) for name, value in self.model_dump().items()}


def whole(value: Any) -> Any:  # noqa: ANN401 - any field's value
    """A whole number as one.

    >>> whole(8.0), whole(0.5), whole("8.0")
    (8, 0.5, '8.0')
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A scenario whose parts are there and fit together."""

    scenario: Scenario
    model: Model
    hardware: Hardware
    layout: Parallelism
    workload: Workload
    engine: Engine
    routing: Routing | None
    plan: ExpertMap | None


def read_scenario(raw: object, library: Library) -> Asked:
    """Check a scenario.

    Parameters
    ----------
    raw
        As a page sent it; nothing in it is trusted.
    library
        What may be named.

    Raises
    ------
    ConfigError
        With every fault, `where` being the field's name.

    Examples
    --------
    >>> asked = read_scenario({"model": "gpt-oss-20b", "hardware": "h100-sxm-8", "nodes": 1,
    ...                        "dp": 8, "ep": 8}, Library())
    >>> str(asked.layout), asked.hardware.num_devices
    ('tp=1 pp=1 dp=8 ep=8', 8)
    """
    scenario, faults = _parsed(raw)
    wrong = {fault.where for fault in faults}
    for name, allowed in CHOICES.items():
        value = getattr(scenario, name)
        if value not in allowed:
            near = nearest(value[:100], allowed, 1)
            hint = f"; nearest: {near[0]}" if near else ""
            faults.append(Fault("is none of the choices" + hint, name, value, ", ".join(allowed)))
    model = _found(lambda: library.model(scenario.model), "model", faults)
    if model is not None and not predictable(model):
        faults.append(Fault("is an encoder-decoder model: counted, but not predicted", "model", model.name))
    hardware = _found(lambda: library.machine(scenario.hardware), "hardware", faults)
    if hardware is not None and "nodes" not in wrong:
        hardware = _found(lambda: library.machine(scenario.hardware, scenario.nodes), "nodes", faults)
    layout = Parallelism(scenario.tp, scenario.pp, scenario.dp, scenario.ep)
    if model is not None and not wrong & _LAYOUT:
        machine = None if "nodes" in wrong else hardware
        found = layout.faults(model, machine, scenario.redundant)
        found += spare_faults(model, layout, scenario.redundant)
        faults += [replace(fault, where=field_of(fault.where)) for fault in found]
    routing = _routing(scenario, library, model, faults)
    if faults or model is None or hardware is None:
        raise ConfigError(faults)
    open_loop = scenario.request_rate is not None
    scenario = scenario.model_copy(update={"model": model.name, "hardware": hardware.name})
    return Asked(
        scenario,
        model,
        hardware,
        layout,
        Workload(
            scenario.input_len,
            scenario.output_len,
            None if open_loop else scenario.concurrency,
            scenario.request_rate,
        ),
        Engine(
            scenario.dtype,
            scenario.kv_cache_dtype,
            scenario.overlap,
            backend=scenario.backend,
            routing=scenario.routing,
        ),
        routing,
        with_spares(model, layout, scenario.redundant),
    )


def predictable(model: Model) -> bool:
    """Whether there is an answer about a model, however it is laid out."""
    return not model.encoder_layers


def field_of(option: str) -> str:
    """The field that an option is.

    >>> field_of("--input-len"), field_of("layout")
    ('input_len', 'layout')
    """
    return option.removeprefix("--").replace("-", "_")


def _parsed(raw: object) -> tuple[Scenario, list[Fault]]:
    """The fields that can be read, others as if left out, and what is wrong with those."""
    if not isinstance(raw, dict):
        raise ConfigError(Fault("is no JSON object", "scenario", allowed="fields of a scenario"))
    try:
        return Scenario.model_validate(raw), []
    except ValidationError as error:
        faults = faults_of(Scenario, error)
        wrong = {str(entry["loc"][0]) for entry in error.errors(include_url=False) if entry["loc"]}
        rest = {name: value for name, value in raw.items() if name in Scenario.model_fields} if wrong else {}
        return Scenario.model_validate({n: v for n, v in rest.items() if n not in wrong}), faults


def _found(find: Any, where: str, faults: list[Fault]) -> Any:  # noqa: ANN401 - a model or a machine
    try:
        return find()
    except ConfigError as error:
        faults += [replace(fault, where=where) for fault in error.faults]
        return None


def _routing(
    scenario: Scenario, library: Library, model: Model | None, faults: list[Fault]
) -> Routing | None:
    name = scenario.trace
    if name is None:
        return None
    if name not in library.traces:
        near = nearest(name[:100], [row.id for row in library.traces], 1)
        hint = f"nearest: {near[0]}" if near else "one of the list, or upload it again"
        faults.append(Fault("there is no such trace", "trace", name, hint))
        return None
    if model is None:
        return None
    if not model.moe:
        faults.append(Fault(f"{model.name} has no experts to route to", "trace", name, "no trace"))
        return None
    try:
        routing = library.traces.routing(name, model)
        check_routing(routing, model)
    except TraceError as error:
        title = library.traces[name].name
        faults += [
            Fault(f"{title} is not of {model.name}: {fault.message}", "trace", fault.value, fault.allowed)
            for fault in error.faults
        ]
        return None
    return routing
