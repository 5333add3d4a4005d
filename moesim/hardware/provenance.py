"""Where each number of a description comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from moesim.hardware.kernels import FitSpec
from moesim.hardware.quantity import Quantity
from moesim.hardware.spec import CollectiveSpec, EfficiencySpec, LegSpec

_Number = Quantity | EfficiencySpec | CollectiveSpec | LegSpec | FitSpec


@dataclass(frozen=True, slots=True)
class Provenance:
    """One number and its origin.

    Parameters
    ----------
    path
        Dotted path inside the file.
    value
        The number in SI; None for a curve.
    text
        The number for people.
    key
        Key of the file's ``sources``, or None where no source is given.
    source
        The citation behind the key; the key itself where the file does not explain it.
    status
        How the number is known.
    note
        A remark.
    """

    path: str
    value: float | None
    text: str
    key: str | None
    source: str
    status: str
    note: str

    def __str__(self) -> str:
        return f"{self.source} [{self.status}]" + (f"; {self.note}" if self.note else "")


def provenance(spec: BaseModel, raw: Mapping[str, Any]) -> list[Provenance]:
    """Origin of every number of a description, in file order.

    Parameters
    ----------
    spec
        The validated description.
    raw
        The mapping it was validated from.
    """
    citations = raw.get("sources") or {}
    found = []
    for path, quantity in _numbers(spec, ()):
        key, status = _inherited(raw, path)
        note, text, value = _own_note(raw, path), _written(quantity), None
        if isinstance(quantity, Quantity):
            note, value = quantity.note, quantity.value
            if quantity.source is not None:
                key, status = quantity.source, "seen"
            status = quantity.status or status
        source = str(citations.get(key, key)) if key is not None else ""
        found.append(Provenance(".".join(map(str, path)), value, text, key, source, status, note))
    return found


def _numbers(item: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], _Number]]:
    """Every quantity with its path; an efficiency, a collective's fit, a leg, a kernel each count as one."""
    if isinstance(item, _Number):
        yield path, item
    elif isinstance(item, BaseModel):
        for name in type(item).model_fields:
            yield from _numbers(getattr(item, name), (*path, name))
    elif isinstance(item, dict):
        for name, value in item.items():
            yield from _numbers(value, (*path, name))
    elif isinstance(item, list):
        for index, value in enumerate(item):
            yield from _numbers(value, (*path, index))


def _written(item: _Number) -> str:
    if isinstance(item, Quantity):
        return item.text
    if isinstance(item, EfficiencySpec):
        return "curves"
    if isinstance(item, FitSpec):
        return f"{item.kernel} {item.dtype} {item.backend}"
    if isinstance(item, LegSpec):
        return f"{item.latency.text}, {item.share.text}"
    fits = zip(item.ranks, item.latency, item.share, strict=False)
    return ", ".join(f"{ranks.text}: {latency.text}, {share.text}" for ranks, latency, share in fits)


def _own_note(raw: Mapping[str, Any], path: tuple[str | int, ...]) -> str:
    item: Any = raw
    for part in path:
        item = item.get(part) if isinstance(item, Mapping) else None
    return str(item["note"]) if isinstance(item, Mapping) and item.get("note") else ""


def _inherited(raw: Mapping[str, Any], path: tuple[str | int, ...]) -> tuple[str | None, str]:
    """Source and status of the nearest enclosing mapping: a new source starts as ``seen``."""
    key: str | None = None
    status = "seen"
    item: Any = raw
    for part in (*path, None):
        if isinstance(item, Mapping):
            if item.get("source") is not None:
                key, status = item["source"], "seen"
            if item.get("status") is not None:
                status = item["status"]
        if part is None:
            break
        item = item[part] if isinstance(item, Mapping) else None
    return key, status
