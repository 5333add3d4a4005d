"""One configuration evaluated: what a row says."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moesim._version import __version__
from moesim.correction import Calibration, calibration_of, shipped
from moesim.errors import ConfigError, Fault, InfeasibleError, MoesimError, TraceError
from moesim.hardware import Hardware, load_hardware
from moesim.layout import Disaggregated, ExpertMap, Parallelism, Workers
from moesim.metrics import DEFINITIONS
from moesim.model import Model, load_model
from moesim.placement import read_plan
from moesim.prediction import Workload, predict
from moesim.provenance import clean
from moesim.serving.outcome import Outcome
from moesim.serving.periods import Window, windows_of
from moesim.serving.pools import simulate_pools
from moesim.serving.settings import Fleet
from moesim.serving.simulate import simulate
from moesim.studies.checks import engine_of, scheduler_of
from moesim.studies.contents import content_of
from moesim.studies.rows import ERROR, INFEASIBLE, INVALID, OK, SPANNED, VALUES
from moesim.studies.simulated import requests_of, values_of
from moesim.trace import load_trace


def evaluate(task: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate one configuration.

    Parameters
    ----------
    task
        What `moesim.studies.key.task_of` says of it.

    Returns
    -------
    dict
        ``status``, ``reason`` and ``values``, the columns of `moesim.studies.rows.VALUES`; None is unknown.
    """
    identity = task["identity"]
    values: dict[str, Any] = {}
    status, reason = OK, ""
    try:
        if identity["moesim"] != __version__:
            raise RuntimeError(f"the study was read by moesim {identity['moesim']}, this is {__version__}")
        with warnings.catch_warnings():
            # What is outside the calibrated domain is among the notes.
            warnings.simplefilter("ignore")
            values = clean(_KINDS[identity["kind"]](identity, task["names"]))
    except InfeasibleError as error:
        status, reason = INFEASIBLE, str(error)
    except (ConfigError, TraceError) as error:
        status, reason = INVALID, str(error)
    except MemoryError:
        status, reason = ERROR, "MemoryError: the machine has too little memory"
    except Exception as error:
        # A bug in one configuration leaves the others.
        status, reason = ERROR, f"{type(error).__name__}: {error}"
    return {"status": status, "reason": reason, "values": values}


def _predict(identity: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    model, hardware = _machine(identity, names)
    engine = engine_of(identity["engine"])
    answer = predict(
        model,
        hardware,
        _layout(identity["layout"]),
        Workload(**identity["workload"]),
        trace=_trace(identity, names),
        plan=_placement(identity, names, model),
        engine=engine,
        seed=identity["seed"],
        calibration=_calibration(identity, names),
    )
    interval = answer.interval or {}
    return {
        **{name: getattr(answer, name) for name in DEFINITIONS},
        "devices": answer.devices,
        "concurrency": answer.concurrency,
        "running": answer.running,
        "prefill_s": answer.prefill_s,
        "tokens_per_step": answer.tokens_per_step,
        **{f"{name}_bound": value for name, value in answer.bounds.items()},
        "interval_level": interval.get("level"),
        **{
            f"{name}_{end}": interval[name][i]
            for name in SPANNED
            if name in interval
            for i, end in enumerate(("lo", "hi"))
        },
        "bottleneck": answer.bottleneck[0][0],
        "notes": "; ".join(answer.warnings),
    }


def _simulate(identity: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    model, hardware = _machine(identity, names)
    engine, layout = engine_of(identity["engine"]), _layout(identity["layout"])
    spec = identity["requests"]
    path = names.get("requests.path")
    if path is not None:
        _same("requests.path", path, spec["path"])
    requests = requests_of(spec, path, identity["seed"], identity["drawn"], model.max_context)
    shared: dict[str, Any] = {
        "engine": engine,
        "scheduler": scheduler_of(identity["scheduler"], engine.backend),
        "fleet": Fleet(**identity["fleet"]),
        "trace": _trace(identity, names),
        "plan": _placement(identity, names, model),
        "calibration": _calibration(identity, names),
        "seed": identity["seed"],
    }
    outcome: Outcome
    if isinstance(layout, Disaggregated):
        if identity["drift"] is not None:
            raise ConfigError(Fault("is of one pool", "drift"))
        outcome = simulate_pools(model, hardware, layout, requests, **shared)
    else:
        windows = _windows(identity, names, model)
        outcome = simulate(model, hardware, layout, requests, windows=windows, **shared)
    found = values_of(outcome, identity)
    found["devices"] = layout.world * identity["fleet"]["replicas"]
    return {name: found.get(name) for name in VALUES["simulate"]}


_KINDS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], dict[str, Any]]] = {
    "predict": _predict,
    "simulate": _simulate,
}


def _layout(degrees: Mapping[str, Any]) -> Parallelism | Disaggregated:
    axes = ("tp", "pp", "dp", "ep")
    layout = Parallelism(*(degrees[name] for name in axes))
    if degrees["prefill_workers"] is None:
        return layout
    own = (degrees[f"prefill_{name}"] for name in axes)
    prefill = Parallelism(*(degrees[n] if v is None else v for n, v in zip(axes, own, strict=True)))
    return Disaggregated(
        Workers(prefill, degrees["prefill_workers"]), Workers(layout, degrees["decode_workers"])
    )


class ChangedFileError(MoesimError):
    """A file is not, here, what it was where the study was read."""


def _same(role: str, name: str | None, content: Mapping[str, str] | None) -> None:
    found = content_of(role, name)
    if found is not None and content is not None and found["sha256"] != content["sha256"]:
        raise ChangedFileError(f"{role} {name or ''} is not what it was when the study was read")


def _machine(identity: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Model, Hardware]:
    model, hardware = identity["model"], identity["hardware"]
    return (
        _model(names["model"], model["sha256"]),
        _hardware(names["hardware"], hardware["sha256"], identity["nodes"]),
    )


# What is read is kept with the hash it was checked against, so that a process has one object of each.
@functools.lru_cache(maxsize=64)
def _model(name: str, sha256: str) -> Model:
    _same("model", name, {"sha256": sha256})
    return load_model(name)


@functools.lru_cache(maxsize=64)
def _hardware(name: str, sha256: str, nodes: int | None) -> Hardware:
    _same("hardware", name, {"sha256": sha256})
    return load_hardware(name, nodes=nodes)


def _trace(identity: Mapping[str, Any], names: Mapping[str, str]) -> Any:  # noqa: ANN401 - trace or counts
    if identity["trace"] is None:
        return None
    model = identity["model"]
    return _read_trace(
        names["trace"],
        identity["trace"]["sha256"],
        names["model"],
        model["sha256"],
        identity["num_experts"],
    )


@functools.lru_cache(maxsize=2)
def _read_trace(name: str, sha256: str, model: str, model_sha256: str, experts: int | None) -> Any:  # noqa: ANN401
    _same("trace", name, {"sha256": sha256})
    return load_trace(Path(name), shape=_model(model, model_sha256), num_experts=experts)


def _windows(identity: Mapping[str, Any], names: Mapping[str, str], model: Model) -> list[Window] | None:
    drift = identity["drift"]
    if drift is None:
        return None
    routing = _trace(identity, names)
    if routing is None:
        raise ConfigError(Fault("needs a recording", "drift", allowed="with trace"))
    return windows_of(routing, drift["routing_windows"], drift["window_tokens"], model.top_k)


def _placement(identity: Mapping[str, Any], names: Mapping[str, str], model: Model) -> ExpertMap | None:
    redundant, ep = identity["redundant"], identity["layout"]["ep"]
    if identity["plan"] is None and not redundant:
        return None
    if model.moe is None:
        raise ConfigError(Fault(f"{model.name} has no experts to place", "plan or redundant"))
    if identity["plan"] is not None:
        if redundant:
            raise ConfigError(Fault("comes with the plan", "redundant", redundant, "plan or redundant"))
        return _read_plan(
            names["plan"], identity["plan"]["sha256"], names["model"], identity["model"]["sha256"], ep
        )
    return _contiguous(len(model.moe_layer_ids), model.num_experts, ep, redundant)


@functools.lru_cache(maxsize=8)
def _read_plan(name: str, sha256: str, model: str, model_sha256: str, ep: int) -> ExpertMap:
    _same("plan", name, {"sha256": sha256})
    return read_plan(name, _model(model, model_sha256), ep)


@functools.lru_cache(maxsize=64)
def _contiguous(layers: int, experts: int, ep: int, redundant: int) -> ExpertMap:
    if (experts + redundant) % ep:
        raise ConfigError(
            Fault(f"does not divide the {experts} experts and {redundant} redundant", "layout.ep", ep)
        )
    return ExpertMap.contiguous(layers, experts, ep, redundant)


def _calibration(identity: Mapping[str, Any], names: Mapping[str, str]) -> Calibration:
    return _read_calibration(names.get("calibration"), identity["calibration"]["sha256"])


@functools.lru_cache(maxsize=4)
def _read_calibration(name: str | None, sha256: str) -> Calibration:
    _same("calibration", name, {"sha256": sha256})
    return shipped() if name is None else calibration_of(name)
