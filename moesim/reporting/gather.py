"""From results to the documents a page is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap
from moesim.placement import Placed
from moesim.reporting.documents import (
    KINDS,
    CurveDocument,
    Document,
    PlacementDocument,
    PredictionDocument,
    SimulationDocument,
    checked,
    kind_of,
)
from moesim.residency import Curve
from moesim.result import Prediction
from moesim.serving.document import document_of as simulated
from moesim.serving.outcome import Outcome
from moesim.serving.statistics import summarise
from moesim.trace.types import LoadCounts, RoutingTrace

#: What a page can be made of in Python.
_TAKEN = "what predict, place, simulate, plan, statistics, residency.replay and residency.curve return"


def documents_of(
    results: Any,  # noqa: ANN401 - one result, or several
    routing: RoutingTrace | LoadCounts | None = None,
) -> list[Document]:
    """The documents of results in Python.

    Parameters
    ----------
    results
        What `moesim.predict`, `place`, `simulate`, `plan`, `statistics` return, replays of caches, or several
        of them.
    routing
        What placements were fitted to.

    Raises
    ------
    ConfigError
        If there are none, or one is of another type; all are named.
    """
    listed = list(results) if isinstance(results, Sequence) and not isinstance(results, str) else [results]
    if not listed:
        raise ConfigError(Fault("holds nothing to report", "results", allowed="at least one result"))
    found, faults = [], []
    for nth, result in enumerate(listed):
        try:
            found.append(document_of(result, routing))
        except ConfigError as error:
            faults += [Fault(f.message, f"results.{nth}", f.value, f.allowed) for f in error.faults]
    if faults:
        raise ConfigError(faults)
    return found


def document_of(
    result: Any,  # noqa: ANN401 - any result
    routing: RoutingTrace | LoadCounts | None = None,
) -> Document:
    """The document of one result in Python.

    Raises
    ------
    ConfigError
        If it is of a type that has no page, or does not hold what a page needs.
    """
    if isinstance(result, Prediction):
        return prediction_document(result)
    if isinstance(result, Placed):
        return placement_document(result, routing)
    if isinstance(result, Outcome):
        return _simulation(result)
    if isinstance(result, Curve):
        raw = {"curves": {result.residency.rule: plain(result.to_dict())}}
        return checked(CurveDocument, raw, "curve")
    # Plans are of a later layer: they say themselves what they are.
    whole = getattr(result, "to_dict", None)
    if callable(whole):
        try:
            raw = plain(whole())
        except ValueError as error:
            raise ConfigError(Fault(str(error), type(result).__name__)) from None
        kind = kind_of(raw) if isinstance(raw, dict) else ""
        if kind in KINDS:
            return checked(KINDS[kind], raw, kind)
    raise ConfigError(Fault("has no page", "results", type(result).__name__, _TAKEN))


def machine_of(result: Any) -> Hardware | None:  # noqa: ANN401 - any result
    """The hardware behind a result; None if it is of none."""
    if isinstance(result, Placed):
        after = result.predicted.get("after")
        return None if after is None else after.decode.hardware
    if isinstance(result, Prediction):
        return result.decode.hardware
    if isinstance(result, Outcome):
        return None if result.about is None else result.about.hardware
    candidate = getattr(getattr(result, "best", None), "candidate", None)
    found = getattr(candidate, "hardware", None)
    return found if isinstance(found, Hardware) else None


def _simulation(outcome: Outcome) -> SimulationDocument:
    if outcome.about is None:
        raise ConfigError(Fault("says nothing of what served", "results", "Outcome of the loops alone"))
    raw = simulated(summarise(outcome), outcome)
    seed = {"provenance": {"seed": outcome.about.seed}}
    return checked(SimulationDocument, plain(raw | seed), "simulation")


def prediction_document(result: Prediction) -> PredictionDocument:
    """The document of a prediction."""
    return checked(PredictionDocument, plain(result.to_dict()), "prediction")


def placement_document(
    placed: Placed, routing: RoutingTrace | LoadCounts | None = None, model: str = ""
) -> PlacementDocument:
    """The document of a placement with all details that result and routing hold.

    Parameters
    ----------
    routing
        What the plan was fitted to; without it there are no expert and rank loads.
    """
    details: dict[str, Any] = {
        "predicted": {name: answer.to_dict() for name, answer in placed.predicted.items()}
    }
    if routing is not None:
        loads = routing.load_counts().totals
        details["loads"] = loads
        before = placed.judged.get("contiguous")
        if before is not None and loads.shape[1] % placed.expert_map.ranks == 0 and loads.any():
            row = int(np.nanargmax(before.fitted.per_layer))
            start = ExpertMap.contiguous(len(loads), loads.shape[1], placed.expert_map.ranks)
            details["rank_loads"] = {
                "layer_id": placed.moe_layer_ids[row],
                "contiguous": start.rank_loads(loads)[row],
                "plan": placed.expert_map.rank_loads(loads)[row],
            }
    after = placed.predicted.get("after")
    name = model or (after.model if after is not None else "")
    return checked(
        PlacementDocument, plain({"model": name, **placed.to_dict(), "details": details}), "placement"
    )


def plain(value: Any) -> Any:  # noqa: ANN401 - any JSON-like tree
    """Plain JSON types of a tree of numpy values; what is not finite becomes None.

    >>> plain({"a": (1.5, float("nan"))})
    {'a': [1.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    return value


def compact(value: Any) -> Any:  # noqa: ANN401 - any JSON-like tree
    """Whole floats as integers, so that counts take half the room.

    >>> compact({"a": [12.0, 0.5]})
    {'a': [12, 0.5]}
    """
    if isinstance(value, dict):
        return {k: compact(v) for k, v in value.items()}
    if isinstance(value, list):
        return [compact(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
