"""The parts of the reference about files and documents: what pydantic checks, and the metrics."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.reference_parts.markdown import code, table

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
    "flops": 'a fraction, or [["1 GFLOP", 0.7], ...]',
}


def hardware() -> Iterator[str]:
    """The schema of a hardware file."""
    from moesim.hardware.spec import Spec

    yield "# Reference: hardware files"
    yield cleandoc(
        """
        What a machine's YAML may say, `schema_version: 1`; [Machines](../hardware.md) explains it with
        examples, `moesim hardware check FILE` checks a file, and `moesim hardware schema` prints the JSON
        Schema for editors.
        """
    )
    yield cleandoc(
        """
        A quantity is text with a unit, a plain number in SI, or a mapping of `value`, `source`, `status`
        (`seen`, `recalled`, `derived`, `measured`, `assumed`) and `note`. Every mapping may have `source`,
        `status` and `note`, which hold for the numbers in it that have none of their own; they are left out
        below. Names and keys are letters, digits and `._+-`, at most 64 of them.
        """
    )
    yield from _models({"The file as a whole": Spec}, leave_out=("source", "status", "note"))


def study() -> Iterator[str]:
    """The schema of a study file."""
    from moesim.studies.spec import CONFIGURATION, Study

    yield "# Reference: study files"
    yield cleandoc(
        """
        What `moesim plan --grid STUDY.yaml` reads; [Studies](../studies.md) explains it with examples.
        `base` holds a configuration, `grid` and `zip` give lists of values by dotted path, as in
        `layout.tp`.
        """
    )
    kinds = {f"A configuration of kind {kind}": made for kind, made in CONFIGURATION.items()}
    yield from _models({"The file as a whole": Study} | kinds)


def documents() -> Iterator[str]:
    """Metrics, and the documents that commands print."""
    from moesim.metrics import DEFINITIONS
    from moesim.reporting.documents import ReportDocument

    yield "# Reference: metrics and documents"
    yield cleandoc(
        """
        ## Metrics

        Names are the same in every document, table, Python result and report; times are in seconds.
        """
    )
    yield table(["metric", "unit", "definition"], [[f"`{n}`", u, d] for n, (u, d) in DEFINITIONS.items()])
    yield cleandoc(
        """
        ## Documents

        `--json` prints one document, with `schema_version` and `provenance` besides its own fields. A value
        that is not known is null; NaN and infinity never appear. Below is what `moesim report` reads of
        them, value by value; other fields are ignored.
        """
    )
    yield from _models({"The data of a report": ReportDocument})


def _models(roots: Mapping[str, type[BaseModel]], leave_out: Sequence[str] = ()) -> Iterator[str]:
    """A section for every model and for those inside them, each once, in the order in which they appear."""
    titles = {model: title for title, model in roots.items()}
    queue = list(roots.values())
    for model in queue:
        fields = model.model_fields.items()
        # The queue grows while it is read.
        for inner in (kind for _, field in fields for kind in _inside(field.annotation)):
            queue += [inner] if inner not in queue else []
        rows = [
            [f"`{name}`", _words(field.annotation, field.metadata), _default(field)]
            for name, field in fields
            if name not in leave_out
        ]
        doc = cleandoc(model.__doc__ or "") if model.__doc__ != BaseModel.__doc__ else ""
        yield f"## {titles.get(model) or _title(model)}\n\n{code(doc)}".strip()
        yield table(["key", "value", "default"], rows)


def _title(model: type[BaseModel]) -> str:
    """The name of a section.

    >>> from moesim.hardware.spec import ScaleUpSpec
    >>> _title(ScaleUpSpec)
    'scale-up'
    """
    name = re.sub(r"(Spec|Document)$", "", model.__name__)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ([], {}, (), "") or isinstance(value, BaseModel):
        return ""
    return f"`{_plain(value)}`"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(annotation: Any, notes: Sequence[Any] = ()) -> str:
    """What a value may be, in words, with a link for every model."""
    quantity = next((q for note in notes if (q := _quantity(note))), None)
    if quantity is not None:
        return quantity
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(args[0], (*args[1:], *notes))
    if origin in (UnionType, typing.Union):
        kinds = dict.fromkeys(_words(kind) for kind in args if kind is not NoneType)
        return " or ".join(kinds) + _limits(notes)
    if origin is typing.Literal:
        return ", ".join(f"`{_plain(value)}`" for value in args)
    if origin in (dict, Mapping):
        return f"mapping from {_words(args[0])} to {_words(args[1])}" + _limits(notes)
    if origin is list:
        return f"list of {_words(args[0])}" + _limits(notes)
    if origin is tuple:
        return f"list of {len(args)}: " + ", ".join(_words(kind) for kind in args if kind is not ...)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{_title(annotation)}](#{_title(annotation)})"
    return _PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation))) + _limits(notes)


def _quantity(note: Any) -> str | None:
    """What a validator of `moesim.hardware.quantity` reads, by its example."""
    kind = getattr(getattr(note, "func", None), "keywords", {}).get("kind")
    reads = getattr(getattr(getattr(note, "func", None), "func", None), "__name__", "")
    if kind is None:
        return None
    return (
        'a fraction, or [["1 MB", 0.7], ...]' if reads == "read_curve" and kind == "bytes" else _UNITS[kind]
    )


def _limits(notes: Sequence[Any]) -> str:
    """Limits of a number or length."""
    found: dict[str, Any] = {}
    queue = list(notes)
    while queue:
        note = queue.pop(0)
        queue += getattr(note, "metadata", []) if isinstance(note, FieldInfo) else []
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
            if getattr(note, name, None) is not None:
                found[name] = getattr(note, name)
    low = (
        f"from {_number(found['ge'])}"
        if "ge" in found
        else f"above {_number(found['gt'])}"
        if "gt" in found
        else ""
    )
    high = (
        f"to {_number(found['le'])}"
        if "le" in found
        else f"below {_number(found['lt'])}"
        if "lt" in found
        else ""
    )
    parts = [" ".join(part for part in (low, high) if part)]
    if "min_length" in found:
        parts.append(f"(at least {found['min_length']})")
    if "pattern" in found and found["pattern"] != _NAME:
        parts.append(f"as `{found['pattern']}`")
    text = ", ".join(part for part in parts if part)
    return f" {text}" if text else ""


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _inside(inner)
