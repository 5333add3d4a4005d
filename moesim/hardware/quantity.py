"""Quantities as they stand in a hardware file: a number with a unit, and where it comes from."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import PlainValidator, WithJsonSchema

from moesim.hardware.curves import Curve
from moesim.units import parse, show

#: How a number is known: read in its source, remembered and not checked, computed from sourced numbers,
#: measured (by the source, or fitted to its measurements), or chosen because nothing better is known.
Status = Literal["seen", "recalled", "derived", "measured", "assumed"]
STATUSES: tuple[str, ...] = get_args(Status)

_MAPPING_KEYS = ("value", "source", "status", "note")
_EXAMPLES = {
    "bytes": "141 GB",
    "bytes_per_s": "4.8 TB/s",
    "flops_per_s": "989 TFLOP/s",
    "flops": "1 GFLOP",
    "s": "1.2 us",
    "w": "700 W",
    "usd_per_h": "3.29 USD/h",
    "j_per_byte": "3.59 pJ/bit",
    "j_per_flop": "0.71 pJ/FLOP",
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of a description.

    Parameters
    ----------
    value
        In SI.
    kind
        A kind of `moesim.units`, or ``count``, ``fraction``, ``number``.
    source
        Key of the file's ``sources``, or None to take the nearest enclosing one.
    status
        How the number is known, or None to take the nearest enclosing one.
    note
        A remark.
    """

    value: float
    kind: str
    source: str | None = None
    status: str | None = None
    note: str = ""

    @property
    def text(self) -> str:
        """The number for people, with its unit.

        >>> Quantity(4.8e12, "bytes_per_s").text, Quantity(132, "count").text
        ('4.8 TB/s', '132')
        """
        return show(self.value, self.kind) if self.kind in _EXAMPLES else f"{self.value:g}"


def read_quantity(raw: object, kind: str) -> Quantity:
    """Read ``"4.8 TB/s"``, a bare SI number, or a mapping of `value`, `source`, `status` and `note`.

    Raises
    ------
    ValueError
        With what is wrong and, after ``"; allowed: "``, what would be accepted.

    Examples
    --------
    >>> read_quantity({"value": "4.8 TB/s", "source": "mle"}, "bytes_per_s").source
    'mle'
    """
    if not isinstance(raw, dict):
        return Quantity(_number(raw, kind), kind)
    unknown = [str(key) for key in raw if key not in _MAPPING_KEYS]
    if unknown or "value" not in raw:
        wrong = f"unknown key {unknown[0]!r}" if unknown else "no 'value'"
        raise ValueError(f"{wrong} in a quantity; allowed: the keys {', '.join(_MAPPING_KEYS)}")
    source, status, note = raw.get("source"), raw.get("status"), raw.get("note", "")
    if status is not None and status not in STATUSES:
        raise ValueError(f"unknown status {status!r}; allowed: {', '.join(STATUSES)}")
    if not isinstance(source, str | None) or not isinstance(note, str):
        raise ValueError("source and note must be text; allowed: a key of 'sources', and a remark")
    return Quantity(_number(raw["value"], kind), kind, source, status, note)


def read_curve(raw: object, kind: str) -> Curve:
    """Read a constant fraction, or ``[[size, fraction], ...]`` with rising sizes.

    >>> read_curve([["1 MFLOP", 0.2], ["1 GFLOP", 0.8]], "flops")
    ((1000000.0, 0.2), (1000000000.0, 0.8))
    """
    if not isinstance(raw, list):
        return ((1.0, _number(raw, "fraction")),)
    if not raw or not all(isinstance(point, list) and len(point) == 2 for point in raw):
        raise ValueError("no curve; allowed: a fraction, or [[size, fraction], ...] with rising sizes")
    points = tuple((_number(size, kind), _number(value, "fraction")) for size, value in raw)
    if any(b[0] <= a[0] for a, b in itertools.pairwise(points)):
        raise ValueError(
            "the sizes of the curve do not rise; allowed: [[size, fraction], ...] in rising order"
        )
    return points


def _number(raw: object, kind: str) -> float:
    if kind not in _EXAMPLES:
        return _plain(raw, kind)
    if not isinstance(raw, str | int | float) or isinstance(raw, bool):
        raise ValueError(f"no quantity; allowed: a number with a unit, such as {_EXAMPLES[kind]!r}")
    value = parse(raw, kind)
    if value < 0 or (value == 0 and kind not in ("s", "w")):
        raise ValueError(f"not positive; allowed: a positive number with a unit, such as {_EXAMPLES[kind]!r}")
    return value


_PLAIN: dict[str, tuple[Callable[[float], bool], str]] = {
    "count": (lambda v: v >= 1 and v == int(v), "a whole number from 1"),
    "fraction": (lambda v: 0 < v <= 1, "a number above 0 and at most 1"),
    "number": (lambda v: 0 < v < 1e300, "a positive finite number"),
}


def _plain(raw: object, kind: str) -> float:
    accepts, allowed = _PLAIN[kind]
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not abs(raw) < 1e300 or not accepts(raw):
        raise ValueError(f"not {allowed}; allowed: {allowed}")
    return float(raw)


def _annotated(kind: str) -> tuple[Any, Any]:
    """The validator and the JSON Schema of quantities of one kind."""
    plain: dict[str, Any] = {"type": "integer" if kind == "count" else "number", "exclusiveMinimum": 0}
    if kind == "fraction":
        plain["maximum"] = 1
    if kind in _EXAMPLES:
        plain = {"type": ["string", "number"], "examples": [_EXAMPLES[kind]]}
    full = {
        "type": "object",
        "required": ["value"],
        "additionalProperties": False,
        "properties": {
            "value": plain,
            "source": {"type": "string"},
            "status": {"enum": list(STATUSES)},
            "note": {"type": "string"},
        },
    }
    return PlainValidator(partial(read_quantity, kind=kind)), WithJsonSchema({"anyOf": [plain, full]})


def _annotated_curve(kind: str) -> tuple[Any, Any]:
    point = {"type": "array", "minItems": 2, "maxItems": 2}
    schema = {"anyOf": [{"type": "number"}, {"type": "array", "items": point}]}
    return PlainValidator(partial(read_curve, kind=kind)), WithJsonSchema(schema)


Bytes = Annotated[Quantity, *_annotated("bytes")]
BytesPerS = Annotated[Quantity, *_annotated("bytes_per_s")]
FlopsPerS = Annotated[Quantity, *_annotated("flops_per_s")]
Seconds = Annotated[Quantity, *_annotated("s")]
Watts = Annotated[Quantity, *_annotated("w")]
UsdPerHour = Annotated[Quantity, *_annotated("usd_per_h")]
JoulesPerByte = Annotated[Quantity, *_annotated("j_per_byte")]
JoulesPerFlop = Annotated[Quantity, *_annotated("j_per_flop")]
Count = Annotated[Quantity, *_annotated("count")]
Fraction = Annotated[Quantity, *_annotated("fraction")]
Number = Annotated[Quantity, *_annotated("number")]
CurveByFlops = Annotated[Curve, *_annotated_curve("flops")]
CurveByBytes = Annotated[Curve, *_annotated_curve("bytes")]
