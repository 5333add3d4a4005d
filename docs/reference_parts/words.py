"""What a value of a checked file or document may be, in words."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}
#: What most keys and names have to look like; said once, above the tables.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"
_UNITS = {
    "bytes": '"141 GB"',
    "bytes_per_s": '"4.8 TB/s"',
    "flops_per_s": '"989 TFLOP/s"',
    "s": '"1.2 us"',
    "w": '"700 W"',
    "usd_per_h": '"3.29 USD/h"',
    "j_per_byte": '"3.59 pJ/bit"',
    "j_per_flop": '"0.71 pJ/FLOP"',
    "count": "a whole number from 1",
    "fraction": "a number above 0, at most 1",
    "number": "a positive number",
}


@dataclass(frozen=True, slots=True)
class Words:
    """Values in words.

    Parameters
    ----------
    titles
        Sections of models, for links.
    limits
        Whether limits of numbers and lengths are said; those that only keep nonsense out need not be.
    """

    titles: Mapping[type[BaseModel], str]
    limits: bool = True

    def of(self, kind: Any, notes: Sequence[Any] = ()) -> str:
        """A type expression with its annotations.

        >>> Words({}).of(list[int] | None), Words({}).of(dict[str, float])
        ('list of whole number', 'mapping from text to number')
        """
        if quantity := next((q for note in notes if (q := _quantity(note))), None):
            return quantity
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            return self.of(args[0], (*args[1:], *notes))
        if origin is typing.Literal:
            return ", ".join(f"`{plain(value)}`" for value in args)
        if origin is tuple:
            return f"list of {len(args)}: " + ", ".join(self.of(a) for a in args if a is not ...)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            title = self.titles[kind]
            return f"[{title}](#{title.replace(' ', '-')})"
        if origin in (UnionType, typing.Union):
            text = " or ".join(dict.fromkeys(self.of(a) for a in args if a is not NoneType))
        elif origin in (dict, Mapping):
            text = f"mapping from {self.of(args[0])} to {self.of(args[1])}"
        elif origin is list:
            text = f"list of {self.of(args[0])}"
        else:
            text = _PLAIN.get(kind, getattr(kind, "__name__", str(kind)))
        return text + (_limits(notes) if self.limits else "")


def models_of(roots: Mapping[str, type[BaseModel]]) -> dict[type[BaseModel], str]:
    """Every model inside some, in the order in which they appear, with a title that no other has.

    >>> from moesim.hardware.spec import ScaleUpSpec
    >>> list(models_of({"fast link": ScaleUpSpec}).values())
    ['fast link', 'collectives', 'energy', 'collective']
    """
    found = {model: title for title, model in roots.items()}
    queue = list(roots.values())
    for model in queue:  # which grows while it is read
        for field in model.model_fields.values():
            for inner in _inside(field.annotation):
                if inner not in found:
                    title = re.sub(r"(Spec|Document)$", "", inner.__name__)
                    title = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", title).lower()
                    taken = title in found.values()
                    found[inner] = f"{title} of {inner.__module__.rpartition('.')[2]}" if taken else title
                    queue.append(inner)
    return found


def plain(value: object) -> str:
    """A value as JSON and YAML spell it.

    >>> plain(True), plain(1.5), plain("auto")
    ('true', '1.5', 'auto')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quantity(note: Any) -> str | None:
    """What a validator of `moesim.hardware.quantity` reads, by its example."""
    reader = getattr(note, "func", None)
    kind = getattr(reader, "keywords", {}).get("kind")
    if kind is None:
        return None
    if reader.func.__name__ == "read_curve":
        return f'a fraction, or [["1 {"MB" if kind == "bytes" else "GFLOP"}", 0.7], ...]'
    return _UNITS[kind]


def _limits(notes: Sequence[Any]) -> str:
    """Limits of a number or length, as words behind it."""
    found: dict[str, Any] = {}
    queue = list(notes)
    for note in queue:  # which grows while it is read
        queue += getattr(note, "metadata", []) if isinstance(note, FieldInfo) else []
        for name in ("ge", "gt", "le", "lt", "min_length", "pattern"):
            if getattr(note, name, None) is not None:
                found[name] = getattr(note, name)
    said = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    parts = [f"{word} {_number(found[name])}" for name, word in said.items() if name in found]
    if "min_length" in found:
        parts.append(f"(at least {found['min_length']})")
    if found.get("pattern", _NAME) != _NAME:
        parts.append(f"as `{found['pattern']}`")
    return "".join(f" {part}" for part in parts)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _inside(inner)
