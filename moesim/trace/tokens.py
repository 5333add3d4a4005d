"""What a reader finds in a file of tokens, before it is settled which layers and experts they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin, routing_trace
from moesim.trace.limits import size_fault
from moesim.trace.shape import Hints
from moesim.trace.types import RoutingTrace

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Raw arrays of some tokens; the parameters are those of `moesim.trace.assemble.routing_trace`."""

    ids: Array
    origin: Origin
    request: Array | None = None
    position: Array | None = None
    phase: Array | None = None
    weights: Array | None = None
    token_id: Array | None = None
    drop_blank: bool = False

    def trace(self, hints: Hints) -> RoutingTrace:
        """The checked trace."""
        return routing_trace(
            self.ids,
            self.origin,
            hints,
            request=self.request,
            position=self.position,
            phase=self.phase,
            weights=self.weights,
            token_id=self.token_id,
            drop_blank=self.drop_blank,
        )


def joined(parts: Sequence[Tokens], path: object, names: Sequence[str]) -> Tokens:
    """The tokens of several files one after the other, their requests kept apart.

    A column that some file lacks is left out. Layers must be the same everywhere.

    Raises
    ------
    TraceError
        Naming every file whose layers, top-k or type differ from the first one's.
    """
    first = parts[0]
    faults = []
    for name, part in zip(names, parts, strict=True):
        if part.ids.ndim != 3 or part.ids.shape[1:] != first.ids.shape[1:]:
            what = (
                f"is [tokens, layers, top_k] = {list(part.ids.shape)}, {names[0]} is {list(first.ids.shape)}"
            )
            faults.append(Fault(what, name))
        elif part.origin.layer_ids != first.origin.layer_ids:
            faults.append(Fault(f"has other layers than {names[0]}", name))
    fault = size_fault(sum(4 * part.ids.size for part in parts), "the whole folder")
    if faults or fault:
        raise TraceError(faults or [fault or ""], path)
    requests, next_request = [], 0
    for part in parts:
        own = np.zeros(len(part.ids), np.int64) if part.request is None else part.request.astype(np.int64)
        requests.append(own + next_request)
        next_request += int(own.max(initial=-1)) + 1

    def column(name: str) -> Array | None:
        found = [array for part in parts if (array := getattr(part, name)) is not None]
        return np.concatenate(found) if len(found) == len(parts) else None

    experts = {part.origin.num_experts for part in parts}
    notes = tuple(dict.fromkeys(note for part in parts for note in part.origin.warnings))
    origin = replace(
        first.origin,
        path=path,
        num_experts=first.origin.num_experts if len(experts) == 1 else None,
        warnings=notes,
        metadata={},
    )
    return Tokens(
        ids=np.concatenate([part.ids for part in parts]),
        origin=origin,
        request=np.concatenate(requests),
        position=column("position"),
        phase=column("phase"),
        weights=column("weights"),
        token_id=column("token_id"),
        drop_blank=first.drop_blank,
    )
