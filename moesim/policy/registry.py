"""Every slot's choices by name: those that ship, and those that other installed packages bring.

A package offers a plug-in by an entry point of the slot's group, in its ``pyproject.toml``::

    [project.entry-points."moesim.predictors"]
    crystal-ball = "my_package:CrystalBall"

It is a class, or a function, that returns an object of the slot's protocol (`moesim.policy.slots`,
`moesim.policy.keyed`). Its arguments are what a user may set: ``crystal-ball:width=4,seed=1``.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from moesim.errors import ConfigError, Fault, UnknownNameError
from moesim.policy.residency import RULES, Residency

#: Entry-point group of each slot.
GROUPS = {
    "gate": "moesim.gates",
    "predictor": "moesim.predictors",
    "residency": "moesim.residencies",
    "executor": "moesim.executors",
    "batcher": "moesim.batchers",
    "placement": "moesim.placements",
    "precision": "moesim.precisions",
}

#: Conditions of a residency, which are set among the values of its rule.
CONDITIONS = ("pool", "lookup", "cold", "reset", "start")
_HERE = "moesim.policy"
#: What ships, as an entry point would name it; residency rules and executor kinds have tables of their own.
BUILT_IN: dict[str, dict[str, str]] = {
    "gate": {
        "as-routed": f"{_HERE}.slots:AsRouted",
        "equal-weights": f"{_HERE}.gates:EqualWeights",
        "fewer-experts": f"{_HERE}.gates:FewerExperts",
        "adapmoe": f"{_HERE}.gates:AdapMoE",
        "top-gap": f"{_HERE}.gates:TopGap",
        "cumulative-skip": f"{_HERE}.gates:CumulativeSkip",
        "second-ratio": f"{_HERE}.gates:SecondRatio",
        "zero-experts": f"{_HERE}.gates:ZeroExperts",
        "expert-choice": f"{_HERE}.gates:ExpertChoice",
        "capacity-drop": f"{_HERE}.gates:CapacityDrop",
        "admission-mask": f"{_HERE}.gates:AdmissionMask",
    },
    "predictor": {
        "popular": f"{_HERE}.predictors:Popular",
        "markov": f"{_HERE}.predictors:Markov",
        "next-token": f"{_HERE}.predictors:NextToken",
        "activation-matrices": f"{_HERE}.predictors:ActivationMatrices",
        "expert-maps": f"{_HERE}.predictors:ExpertMaps",
        "recent-scores": f"{_HERE}.predictors:RecentScores",
        "next-gate": f"{_HERE}.predictors:NextGate",
        "noisy-oracle": f"{_HERE}.predictors:NoisyOracle",
        "oracle": f"{_HERE}.predictors:oracle",
        "path": f"{_HERE}.predictors:path_oracle",
        "whole-layers": f"{_HERE}.predictors:WholeLayers",
    },
    "batcher": {
        "token-by-token": f"{_HERE}.slots:TokenByToken",
        "batches": f"{_HERE}.batchers:Batches",
        "continuous": f"{_HERE}.batchers:Continuous",
        "expert-queues": f"{_HERE}.batchers:ExpertQueues",
        "module-batches": f"{_HERE}.batchers:ModuleBatches",
        "union-minimising": f"{_HERE}.batchers:UnionMinimising",
        "zig-zag": f"{_HERE}.batchers:ZigZag",
    },
    "placement": {
        "popular": f"{_HERE}.placements:Popular",
        "random": f"{_HERE}.placements:Random",
        "round-robin": f"{_HERE}.placements:RoundRobin",
        "front-loading": f"{_HERE}.placements:FrontLoading",
        "whole-layers": f"{_HERE}.placements:WholeLayers",
        "adapmoe-quota": f"{_HERE}.placements:AdapMoEQuota",
        "demand-quota": f"{_HERE}.placements:DemandQuota",
    },
    "precision": {
        "constant": f"{_HERE}.precision:Constant",
        "ranked": f"{_HERE}.precisions:RankedPrecision",
        "nested": f"{_HERE}.precisions:Nested",
        "static-bits": f"{_HERE}.precisions:StaticBits",
    },
}
#: What an object of each slot must be able to do.
_METHODS = {
    "gate": ("select",),
    "predictor": ("fit", "guess"),
    "residency": ("key", "touched", "loaded"),
    "executor": ("kind", "parameters"),
    "batcher": ("form",),
    "placement": ("quota", "resident"),
    "precision": ("fit", "levels"),
}


def plug_ins(slot: str) -> dict[str, Any]:
    """Entry points of a slot that other packages offer, by name; nothing of them is imported yet."""
    from importlib.metadata import entry_points

    found: dict[str, Any] = {}
    faults = []
    for entry in entry_points(group=GROUPS[slot]):
        if entry.name in _shipped(slot):
            faults.append(Fault("takes the name of what ships", f"plug-in {entry.name}", entry.value))
        elif entry.name in found and found[entry.name].value != entry.value:
            other = found[entry.name].value
            faults.append(Fault(f"has the name of {other}", f"plug-in {entry.name}", entry.value))
        found[entry.name] = entry
    if faults:
        raise ConfigError(faults)
    return found


def names(slot: str) -> tuple[str, ...]:
    """All choices of a slot, what ships first."""
    return (*_shipped(slot), *sorted(set(plug_ins(slot)) - set(_shipped(slot))))


def build(slot: str, text: str) -> Any:  # noqa: ANN401, the slot's protocol
    """The object that a text asks for: a name, or a name with values as in ``markov:width=4,distance=2``.

    Parameters
    ----------
    slot
        One of `GROUPS`.
    text
        Values are numbers, true, false or words; several numbers for one name stand between brackets.

    Raises
    ------
    ConfigError
        When name or values are not known (the nearest are told), a value is missing, or a plug-in does not
        load or lacks what its slot asks for.

    Examples
    --------
    >>> build("predictor", "markov:width=4,distance=2").distance
    2
    >>> build("residency", "mrs:alpha=0.3,pool=global")
    Residency(rule='mrs', pool='global', ..., parameters={'alpha': 0.3})
    >>> build("predictor", "markof:width=4")
    Traceback (most recent call last):
    moesim.errors.UnknownNameError: unknown predictor 'markof'; nearest: markov
    """
    name, _, rest = text.partition(":")
    values = values_of(slot, name, rest)
    if slot == "residency" and name in names(slot):
        conditions = {key: values.pop(key) for key in CONDITIONS if key in values}
        return Residency(name, **conditions, parameters=values)
    return construct(slot, name, values)


def construct(slot: str, name: str, values: Mapping[str, Any]) -> Any:  # noqa: ANN401, the slot's protocol
    """The object of a name, given the values that it is made with; of a plugged residency its rule.

    Raises
    ------
    ConfigError
        As `build`.
    """
    values = dict(values)
    if name not in names(slot):
        raise UnknownNameError(slot, name, names(slot))
    if name not in _shipped(slot):
        return _from_plug_in(slot, name, values)
    if slot == "residency":
        return Residency(name, parameters=values)
    if slot == "executor":
        from moesim.policy.executor import Executor

        return Executor(name, values)
    module, _, attribute = BUILT_IN[slot][name].partition(":")
    return called(slot, name, getattr(import_module(module), attribute), values)


def _shipped(slot: str) -> tuple[str, ...]:
    if slot == "residency":
        return RULES
    if slot == "executor":
        from moesim.policy.executor import KINDS

        return KINDS
    return tuple(BUILT_IN[slot])


def _from_plug_in(slot: str, name: str, values: dict[str, Any]) -> Any:  # noqa: ANN401
    entry = plug_ins(slot)[name]
    where = f"plug-in {name}"
    try:
        factory = entry.load()
    except Exception as error:
        # A package that cannot be imported is its user's to mend, whatever goes wrong inside it.
        raise ConfigError(Fault(f"does not load: {error}", where, entry.value)) from error
    made = called(slot, name, factory, values)
    lacks = [method for method in _METHODS[slot] if not hasattr(made, method)]
    if lacks:
        message = f"is no {slot}: it lacks {', '.join(lacks)}"
        raise ConfigError(Fault(message, where, entry.value, ", ".join(_METHODS[slot])))
    return made


def called(slot: str, name: str, factory: Callable[..., Any], values: dict[str, Any]) -> Any:  # noqa: ANN401
    """Call with the values given, or say which of them are not taken or missing."""
    takes = inspect.signature(factory).parameters
    known = [p for p in takes if takes[p].kind is not inspect.Parameter.VAR_KEYWORD]
    faults = []
    if len(known) == len(takes):
        faults = [
            Fault("is unknown", f"{slot} {name}: {key}", value, ", ".join(known) or "no values")
            for key, value in values.items()
            if key not in takes
        ]
    faults += [
        Fault("is missing", f"{slot} {name}: {key}", allowed=f"{name}:{key}=...")
        for key in known
        if takes[key].default is inspect.Parameter.empty and key not in values
        and takes[key].kind is not inspect.Parameter.VAR_POSITIONAL
    ]  # fmt: skip
    for key, value in values.items():
        kind = str(takes[key].annotation) if key in takes else ""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if kind == "int" and not whole:
            faults.append(Fault("is no whole number", f"{slot} {name}: {key}", value))
        elif kind == "float" and not (whole or isinstance(value, float)):
            faults.append(Fault("is no number", f"{slot} {name}: {key}", value))
        elif kind == "bool" and not isinstance(value, bool):
            faults.append(Fault("is neither true nor false", f"{slot} {name}: {key}", value))
    if faults:
        raise ConfigError(faults)
    try:
        return factory(**values)
    except TypeError as error:
        raise ConfigError(Fault(f"does not take its values: {error}", f"{slot} {name}", values)) from error


def values_of(slot: str, name: str, text: str) -> dict[str, Any]:
    """``width=4,recall=[0.5,0.9]`` as a dictionary."""
    found: dict[str, Any] = {}
    faults = []
    for part in _parts(text):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not key or not value:
            faults.append(Fault("is no name=value", f"{slot} {name}", part))
        elif key in found:
            faults.append(Fault("is given twice", f"{slot} {name}", key))
        else:
            found[key] = _value(value)
    if faults:
        raise ConfigError(faults)
    return found


def _parts(text: str) -> list[str]:
    """Pieces between commas that are not inside brackets."""
    parts, depth, last = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append(text[last:at])
            last = at + 1
    return [*parts, text[last:]] if text else []


def _value(text: str) -> Any:  # noqa: ANN401
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("inf", "nan"):
        return float(text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return tuple(value) if isinstance(value, list) else value
