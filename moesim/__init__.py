"""moesim: predict, place and validate Mixture-of-Experts inference from real routing traces.

The public door: everything below is loaded when first used, so that importing moesim is light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim._version import __version__

if TYPE_CHECKING:
    from moesim.analysis import check_trace, compare_traces, statistics
    from moesim.errors import (
        ConfigError,
        InfeasibleError,
        MoesimError,
        OutOfDomainWarning,
        TraceError,
        UnknownNameError,
    )
    from moesim.hardware import Hardware, load_hardware
    from moesim.layout import Disaggregated, ExpertMap, Parallelism, Workers
    from moesim.model import Model, load_model
    from moesim.placement import Placed, place
    from moesim.planning import plan
    from moesim.prediction import Engine, Workload, predict, sweep
    from moesim.reporting import figures, report
    from moesim.requests import load_requests
    from moesim.result import Prediction
    from moesim.serving.simulate import simulate
    from moesim.trace import LoadCounts, RoutingTrace, load_trace

_HOME = {
    "ConfigError": "errors",
    "Disaggregated": "layout",
    "Engine": "prediction",
    "ExpertMap": "layout",
    "Hardware": "hardware",
    "InfeasibleError": "errors",
    "LoadCounts": "trace",
    "Model": "model",
    "MoesimError": "errors",
    "OutOfDomainWarning": "errors",
    "Parallelism": "layout",
    "Placed": "placement",
    "Prediction": "result",
    "RoutingTrace": "trace",
    "TraceError": "errors",
    "UnknownNameError": "errors",
    "Workers": "layout",
    "Workload": "prediction",
    "check_trace": "analysis",
    "compare_traces": "analysis",
    "figures": "reporting",
    "load_hardware": "hardware",
    "load_model": "model",
    "load_requests": "requests",
    "load_trace": "trace",
    "place": "placement",
    "plan": "planning",
    "predict": "prediction",
    "report": "reporting",
    "simulate": "serving.simulate",
    "statistics": "analysis",
    "sweep": "prediction",
}

__all__ = [
    "ConfigError",
    "Disaggregated",
    "Engine",
    "ExpertMap",
    "Hardware",
    "InfeasibleError",
    "LoadCounts",
    "Model",
    "MoesimError",
    "OutOfDomainWarning",
    "Parallelism",
    "Placed",
    "Prediction",
    "RoutingTrace",
    "TraceError",
    "UnknownNameError",
    "Workers",
    "Workload",
    "__version__",
    "check_trace",
    "compare_traces",
    "figures",
    "load_hardware",
    "load_model",
    "load_requests",
    "load_trace",
    "place",
    "plan",
    "predict",
    "report",
    "simulate",
    "statistics",
    "sweep",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'moesim' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"moesim.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
