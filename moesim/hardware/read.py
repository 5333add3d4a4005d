"""Read a YAML description, and turn whatever is wrong with it into faults."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from moesim.errors import ConfigError, Fault, nearest

#: A shipped file has some 5 kB; YAML in pure Python reads 100 kB a second.
MAX_BYTES = 500_000
MAX_VALUES = 100_000

M = TypeVar("M", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file.

    Raises
    ------
    ConfigError
        If the file is missing, a folder, too big, no text, no YAML, or no mapping.
    """
    text = read_text(path)
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        raw = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            Fault(f"no YAML: {error.problem or error.context}", line, allowed="YAML 1.2"), path
        ) from None
    except RecursionError:
        raise ConfigError(Fault("nested too deeply", allowed="a few levels"), path) from None
    except (YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "unreadable"
        raise ConfigError(Fault(f"no YAML: {reason}", allowed="YAML 1.2"), path) from None
    if not isinstance(raw, dict):
        kind = "empty" if raw is None else f"a {type(raw).__name__}"
        raise ConfigError(Fault(f"is {kind}", allowed="a mapping that starts with schema_version: 1"), path)
    _check_size(raw, path)
    return raw


def read_text(path: Path) -> str:
    """The text of a file of at most 500 kB, or a ConfigError that says why not."""
    try:
        if path.is_dir():
            raise ConfigError(Fault("is a folder", allowed="a YAML file"), path)
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(Fault("is too big", value=f"{size:,} bytes", allowed=f"{MAX_BYTES:,}"), path)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(Fault(f"cannot be read: {reason}", allowed="a YAML file"), path) from None
    except UnicodeDecodeError:
        raise ConfigError(Fault("is no UTF-8 text", allowed="a YAML file"), path) from None
    except ValueError:
        raise ConfigError(Fault("is no path", allowed="a YAML file"), repr(path)) from None


def _check_size(raw: dict[str, Any], path: Path) -> None:
    """Refuse anchors that multiply: a small text can stand for more values than memory holds."""
    waiting: list[object] = [raw]
    seen = 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            raise ConfigError(Fault("holds too many values", allowed=f"at most {MAX_VALUES:,}"), path)
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def validate(model: type[M], raw: dict[str, Any], path: object) -> M:
    """Read `raw` as `model`, with every fault in one ConfigError."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(faults_of(model, error), path) from None


def faults_of(model: type[BaseModel], error: ValidationError) -> list[Fault]:
    """What pydantic found, in our words."""
    return [_fault(model, entry) for entry in error.errors(include_url=False)]


def _fault(model: type[BaseModel], error: Any) -> Fault:  # noqa: ANN401 - pydantic's own dictionary
    location = [part for part in error["loc"] if part != "[key]"]
    where = ".".join(str(part) for part in location)
    kind, value = error["type"], error.get("input")
    shown = value if isinstance(value, str | int | float | bool) else None
    if kind == "extra_forbidden":
        keys = _keys(model, location[:-1])
        near = nearest(str(location[-1]), keys)
        return Fault("unknown key", where, None, f"{', '.join(near)}?" if near else ", ".join(keys))
    if kind == "missing":
        return Fault("is missing", where, None, _needed(model, location))
    message = error["msg"].removeprefix("Value error, ")
    if kind in ("literal_error", "enum"):
        allowed = str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
        near = nearest(str(value), allowed.split(", "), 1)
        return Fault("is not one of the choices", where, shown, f"{allowed}" + _suggest(near))
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return Fault("is no mapping", where, shown, "a mapping")
    if kind == "string_pattern_mismatch":
        return Fault(
            "is no name", where, shown, "letters, digits and . _ + -, beginning with a letter or digit"
        )
    if kind.startswith("date"):
        return Fault("is no date", where, shown, "a day, such as 2026-03-17")
    head, _, allowed = message.partition("; allowed: ")
    if isinstance(value, dict):
        shown = value.get("value") if isinstance(value.get("value"), str | int | float) else None
    if shown is not None:
        head = head.removeprefix(f"{shown!r} ")
    return Fault(head[:1].lower() + head[1:], where, shown, allowed)


def _suggest(near: Sequence[str]) -> str:
    return f"; nearest: {near[0]}" if near else ""


def _needed(model: type[BaseModel], location: Sequence[Any]) -> str:
    """The description of a missing field: its type's own, if it is a part."""
    parent = _model_at(model, location[:-1])
    if parent is None or location[-1] not in parent.model_fields:
        return ""
    part = _model_of(parent.model_fields[location[-1]].annotation)
    return f"a mapping: {', '.join(part.model_fields)}" if part else ""


def _keys(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    found = _model_at(model, location)
    return list(found.model_fields) if found else []


def field_at(model: type[BaseModel], location: Sequence[Any]) -> tuple[Any, Sequence[Any]] | None:
    """Type and validators of the value at `location`; None where there is no such field."""
    parent = _model_at(model, location[:-1])
    if parent is not None:
        info = parent.model_fields.get(str(location[-1]))
        return None if info is None else (info.annotation, info.metadata)
    # An entry of a dictionary or a list: what the field that holds it says of its values.
    held = field_at(model, location[:-1]) if len(location) > 1 else None
    return None if held is None else (_value_type(held[0]), ())


def _model_at(model: type[BaseModel], location: Sequence[Any]) -> type[BaseModel] | None:
    """The model that describes the mapping at `location`, following fields and dictionaries."""
    annotation: Any = model
    for part in location:
        found = _model_of(annotation, through_dict=False)
        if found is not None:
            info = found.model_fields.get(str(part))
            if info is None:
                return None
            annotation = info.annotation
        else:
            annotation = _value_type(annotation)
    return _model_of(annotation, through_dict=False)


def strip(annotation: Any) -> Any:  # noqa: ANN401 - any type expression
    """A type without Annotated and without ``| None``."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
        else:
            return annotation


def _value_type(annotation: Any) -> Any:  # noqa: ANN401 - any type expression
    arguments = typing.get_args(strip(annotation))
    return arguments[-1] if arguments else None


def _model_of(annotation: Any, through_dict: bool = True) -> type[BaseModel] | None:  # noqa: ANN401
    stripped = strip(annotation)
    if through_dict and typing.get_origin(stripped) is dict:
        stripped = strip(_value_type(stripped))
    return stripped if isinstance(stripped, type) and issubclass(stripped, BaseModel) else None
