"""From results to the documents a page is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moesim.layout import ExpertMap
from moesim.placement import Placed
from moesim.reporting.documents import PlacementDocument, PredictionDocument, checked
from moesim.result import Prediction
from moesim.trace.types import LoadCounts, RoutingTrace


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
