"""The effects that measured serving runs may show beyond physics.

Each names the categories that must agree, and the octaves over which it changes. What a benchmark campaign
did not record (speculative decoding, versions, flags) belongs to a model on an engine, so that it is never
carried to another model. What is left for all is a slow drift with load and lengths.
"""

from __future__ import annotations

from dataclasses import replace

from moesim.correction.features import CATEGORIES, VALUES
from moesim.correction.process import Component

#: Variance and range that every effect starts from.
VARIANCE = 0.01
_RANGE = {"tp": 2.0, "dp": 2.0, "ep": 2.0, "devices": 3.0, "prefill_devices": 2.0, "month": 2.0}


def effect(categories: str = "", values: str = "") -> Component:
    """One effect by the names of its categories and values."""
    return Component(
        tuple(CATEGORIES.index(name) for name in categories.split()),
        tuple((VALUES.index(name), _RANGE.get(name, 4.0)) for name in values.split()),
        VARIANCE,
    )


_LOAD = "concurrency input output"
_LAYOUT = "tp dp ep"

AGGREGATED = (
    effect(),
    effect("backend"),
    effect("model"),
    effect("system"),
    effect("model backend"),
    effect("", f"{_LOAD} devices"),
    effect("backend", f"{_LOAD} devices"),
    effect("system backend", f"{_LOAD} devices"),
    effect("system backend", _LAYOUT),
    effect("model backend", _LAYOUT),
    effect("model backend", "month"),
    effect("model backend source", "concurrency output"),
    effect("model backend campaign", "concurrency output"),
    effect("model backend dtype", f"{_LOAD} devices"),
    effect("model system backend dtype", f"{_LOAD} {_LAYOUT}"),
    effect("model system backend dtype layout campaign", _LOAD),
)

DISAGGREGATED = (
    effect(),
    effect("backend"),
    effect("system"),
    effect("model"),
    effect("sizes"),
    effect("model backend"),
    effect("system backend"),
    effect("", f"{_LOAD} devices prefill_devices"),
    effect("backend", f"{_LOAD} devices prefill_devices"),
    effect("system backend", f"{_LOAD} devices prefill_devices"),
    effect("model backend source", "concurrency output"),
    effect("model backend campaign", "concurrency output"),
    effect("model backend dtype", f"{_LOAD} devices prefill_devices"),
    effect("model system backend dtype", f"{_LOAD} {_LAYOUT} prefill_devices"),
    effect("model system backend dtype sizes", f"{_LOAD} {_LAYOUT} prefill_devices"),
    effect("model system backend dtype layout campaign", _LOAD),
)


def _error(categories: str, values: str, variance: float) -> Component:
    return replace(effect(categories, values), variance=variance)


#: Effects on the size of errors, in logarithm; fixed, for errors are too few to learn more from.
ERRORS = (
    _error("backend", "", 0.05),
    _error("system", "", 0.05),
    _error("model backend", "", 0.1),
    _error("", "concurrency input output devices", 0.1),
    _error("backend", "concurrency input output", 0.1),
    _error("model system backend dtype", "concurrency input output", 0.1),
)
