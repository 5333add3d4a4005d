"""Compositions in words, slot by slot, and what of them no system could have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

import numpy as np

from moesim.policy import AsRouted, Composition, Executor, Gate, Residency, Transfer
from moesim.policy.gates import EqualWeights

#: Fields of a composition that make a slot; a predictor without transfer does nothing, so both are one.
SLOTS: dict[str, tuple[str, ...]] = {
    "residency": ("residency",),
    "placement": ("placement",),
    "prefetch": ("predictor", "transfer"),
    "executor": ("executor",),
    "batcher": ("batcher",),
    "gate": ("gate",),
    "precision": ("precision",),
}


def described(composition: Composition) -> dict[str, str]:
    """Each slot in words.

    Examples
    --------
    >>> described(Composition(residency=Residency("mrs", parameters={"alpha": 0.5})))["residency"]
    'mrs per layer (alpha=0.5)'
    """
    return {
        "residency": _residency(composition.residency),
        "placement": _named(composition.placement),
        "prefetch": _prefetch(composition),
        "executor": _executor(composition.executor),
        "batcher": _named(composition.batcher),
        "gate": _gate(composition.gate),
        "precision": "the model's" if composition.precision is None else _named(composition.precision),
    }


def with_slot(composition: Composition, slot: str, other: Composition) -> Composition:
    """`composition` with one slot of `other`."""
    changes: dict[str, Any] = {name: getattr(other, name) for name in SLOTS[slot]}
    return replace(composition, **changes)


def changes_results(composition: Composition) -> bool:
    """Whether the model computes something else than it was trained to."""
    return (
        not isinstance(composition.gate, AsRouted | EqualWeights)
        or composition.precision is not None
        or composition.executor.changes_numerics
    )


def needs_future(composition: Composition) -> bool:
    """Whether it knows what no system knows when it decides: an oracle, or a model made to route early."""
    predictor = composition.predictor
    exact = getattr(predictor, "recall", 0.0) == 1.0 and getattr(predictor, "precision", 1.0) == 1.0
    return composition.residency.rule in ("belady", "sch") or bool(exact)


def _gate(gate: Gate) -> str:
    if isinstance(gate, AsRouted):
        return "as routed"
    return "as routed, equal weights" if isinstance(gate, EqualWeights) else _named(gate)


def _residency(residency: Residency) -> str:
    text = f"{residency.rule} {'per layer' if residency.pool == 'layer' else residency.pool}"
    if residency.reset != "never":
        text += f", reset per {residency.reset}"
    if residency.start != "empty":
        text += f", starts {residency.start}"
    return text + _values(residency.parameters)


def _executor(executor: Executor) -> str:
    return executor.kind + _values(executor.parameters)


def _values(parameters: Mapping[str, float]) -> str:
    if not parameters:
        return ""
    return " (" + ", ".join(f"{name}={value:g}" for name, value in sorted(parameters.items())) + ")"


def _prefetch(composition: Composition) -> str:
    transfer = composition.transfer
    parts = []
    if composition.predictor is None or transfer.width == 0:
        parts.append("none")
    else:
        parts.append(_named(composition.predictor))
        parts.append(f"{transfer.width} fetched, {transfer.distance} ahead, by {transfer.order}")
    default = Transfer()
    for name, text in (("preemptible", "pre-emptible"), ("write_back", "victims written back")):
        if getattr(transfer, name) != getattr(default, name):
            parts.append(text)
    if transfer.channels != default.channels:
        parts.append(f"{transfer.channels} channels")
    return ", ".join(parts)


def _named(slot: object) -> str:
    """The class of a plug-in and what of it is not the default; tables that are learnt are left out."""
    if slot is None:
        return "none"
    name = type(slot).__name__
    if not is_dataclass(slot):
        return name
    values = []
    for each in fields(slot):
        value = getattr(slot, each.name)
        default = each.default if each.default is not MISSING else None
        if value is None or isinstance(value, np.ndarray) or value is default or value == default:
            continue
        values.append(f"{each.name}={_short(value)}")
    return f"{name}({', '.join(values)})" if values else name


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return str(value)
