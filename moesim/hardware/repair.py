"""A faulty description with its faults taken out, so that the rest of it can be checked as well.

What cannot be read is replaced by a stand-in that no check objects to: all that is wrong with a file can then
be said at once, whatever of it is a wrong unit and whatever a link to nowhere. Nothing but checks ever sees a
repaired description.
"""

from __future__ import annotations

import copy
import datetime as dt
import typing
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, PlainValidator, ValidationError

from moesim.errors import Fault
from moesim.hardware.read import field_at, strip

M = TypeVar("M", bound=BaseModel)
Path = tuple[Any, ...]

#: What stands in for an unreadable number, by kind: plausible wherever such a number stands.
_STAND_INS: dict[str, object] = {
    "bytes": "16 GB",
    "bytes_per_s": "50 GB/s",
    "flops_per_s": "100 TFLOP/s",
    "flops": 0.5,
    "s": "1 us",
    "w": "100 W",
    "usd_per_h": "1 USD/h",
    "j_per_byte": "10 pJ/B",
    "j_per_flop": "1 pJ/FLOP",
    "count": 1,
    "fraction": 0.5,
    "number": 1.0,
}
#: Removing one fault can uncover another: a mapping that was none.
_ROUNDS = 3
#: What decides how many devices there are, and how they are connected.
_STRUCTURE = frozenset(
    (
        "devices",
        "domain",
        "shape",
        "planes",
        "leaf",
        "taper",
        "topology",
        "max_nodes",
        "default_nodes",
        "ends",
    )
) | {"switches", "ranks", "latency", "share", "small_share", "bulk_latency"}


#: An optional part that is not mended piece by piece.
_WHOLE = "kernels"


class Repaired(typing.NamedTuple):
    """A description that can be checked, and where it is not its author's."""

    spec: Any
    raw: dict[str, Any]
    paths: tuple[Path, ...]

    def believes(self, fault: Fault) -> bool:
        """Whether a check's fault is of what the author wrote, not of a stand-in."""
        return not any(_touches(fault.where, path) for path in self.paths)


def repaired(model: type[M], raw: dict[str, Any], error: ValidationError) -> Repaired | None:
    """A copy of `raw` without what is wrong with it, read as `model`; None where that cannot be done."""
    work = copy.deepcopy(raw)
    paths: list[Path] = []
    for _ in range(_ROUNDS):
        faults = [(tuple(e["loc"]), e["type"]) for e in error.errors(include_url=False)]
        # Deeper ones first: what encloses them may have to go.
        for location, kind in sorted(faults, key=lambda fault: -len(fault[0])):
            location, kind = _as_a_whole(location, kind)
            if not _repair(model, work, location, kind):
                return None
            paths.append(location)
        try:
            return Repaired(model.model_validate(work), work, tuple(paths))
        except ValidationError as left:
            error = left
    return None


def _as_a_whole(location: Path, kind: str) -> tuple[Path, str]:
    """Measured kernels hang together, and can be left out together."""
    if _WHOLE in location[:-1]:
        return location[: location.index(_WHOLE) + 1], "extra_forbidden"
    return location, kind


def _repair(model: type[BaseModel], raw: dict[str, Any], location: Path, kind: str) -> bool:
    drop = kind == "extra_forbidden"
    if location and location[-1] == "[key]":
        location, drop = location[:-1], True
    parent = _parent(raw, location)
    if parent is None:
        return False
    key = location[-1]
    if drop:
        parent.pop(key, None)
        return True
    stand_in = _stand_in(field_at(model, location))
    if stand_in is None:
        # What is optional can go; what is needed and no plain value cannot be made up.
        return kind != "missing" and isinstance(parent, dict) and parent.pop(key, None) is not None
    parent[key] = stand_in
    return True


def _parent(raw: Any, location: Path) -> Any:  # noqa: ANN401 - a dictionary or list of a file
    if not location:
        return None
    for part in location[:-1]:
        inside = range(len(raw)) if isinstance(raw, list) else raw
        if not isinstance(raw, dict | list) or part not in inside:
            return None
        raw = raw[part]
    fits = isinstance(raw, dict) or (isinstance(raw, list) and isinstance(location[-1], int))
    return raw if fits else None


def _stand_in(field: tuple[Any, Sequence[Any]] | None) -> object:
    """A value for a field; None where no plain one will do."""
    if field is None:
        return None
    annotation, metadata = field
    kind = _quantity(annotation, metadata)
    if kind is not None:
        return _STAND_INS[kind]
    bare = strip(annotation)
    if typing.get_origin(bare) is typing.Literal:
        return typing.get_args(bare)[0]
    return {str: "x", bool: False, dt.date: "2026-01-01"}.get(bare)


def _quantity(annotation: Any, metadata: Iterable[Any]) -> str | None:  # noqa: ANN401 - any type expression
    """Kind of quantity that a field holds, if it is one: its validator knows."""
    found = list(metadata)
    for part in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(part) is typing.Annotated:
            found += part.__metadata__
    for entry in found:
        if isinstance(entry, PlainValidator) and isinstance(entry.func, partial):
            return str(entry.func.keywords["kind"])
    return None


def _touches(where: str, path: Path) -> bool:
    """Whether a fault at `where` may come from what was repaired at `path`."""
    repaired_at = [str(part) for part in path if part != "[key]"]
    at = where.split(".")
    if at[: len(repaired_at)] == repaired_at or repaired_at[: len(at)] == at:
        return True
    structural = _STRUCTURE.intersection(repaired_at[-3:])
    if not structural:
        return False
    # How many devices there are concerns every link; how one link is built concerns that link.
    whole = repaired_at[:2] in (["node", "devices"], ["cluster", "max_nodes"], ["cluster", "default_nodes"])
    return whole or at[:2] == repaired_at[:2]
