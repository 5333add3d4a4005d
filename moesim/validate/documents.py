"""JSON from a stranger: documents and lines within limits, and numbers that are checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.units import show
from moesim.validate.cells import Faults

#: A JSON document costs many times its size in memory.
MAX_DOCUMENT_BYTES = 256 * 2**20
MAX_LINES = 10_000_000
_LARGEST = 1e15


def read_document(path: Path) -> Any:  # noqa: ANN401 - any JSON tree
    """The whole file as one JSON value.

    Raises
    ------
    ConfigError
        If it cannot be read, is too large, or is no JSON.
    """
    return _parse(_bytes(path), path, "")


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and JSON object of every line that is not blank.

    Raises
    ------
    ConfigError
        At the first line that holds none, or is too long.
    """
    try:
        with path.open("rb") as stream:
            number = 0
            while raw := stream.readline(MAX_DOCUMENT_BYTES + 1):
                number += 1
                where = f"line {number}"
                if len(raw) > MAX_DOCUMENT_BYTES or number > MAX_LINES:
                    raise ConfigError(Fault("is too long", where), path)
                if not raw.strip():
                    continue
                value = _parse(raw, path, where)
                if not isinstance(value, dict):
                    raise ConfigError(Fault("is no JSON object", where), path)
                yield number, value
    except OSError as error:
        raise ConfigError(f"cannot be read: {(error.strerror or str(error)).lower()}", path) from None


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_DOCUMENT_BYTES:
            allowed = f"at most {show(MAX_DOCUMENT_BYTES, 'bytes')}"
            raise ConfigError(Fault("is too large", "", show(size, "bytes"), allowed), path)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {(error.strerror or str(error)).lower()}", path) from None


def _parse(raw: bytes, path: Path, where: str) -> Any:  # noqa: ANN401 - any JSON tree
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        place = f"{where or f'line {error.lineno}'}, column {error.colno}"
        raise ConfigError(Fault(f"is no JSON, or is cut off: {error.msg.lower()}", place), path) from None
    except RecursionError:
        raise ConfigError(Fault("is nested too deeply", where), path) from None
    except ValueError as error:
        raise ConfigError(Fault(f"is no JSON: {error}", where), path) from None


class Fields:
    """Values of one JSON object, checked as they are taken.

    Parameters
    ----------
    values
        The object.
    faults
        Where what is wrong is noted.
    where
        Path of the object inside the file, with what separates it from a field.
    """

    def __init__(self, values: Mapping[str, Any], faults: Faults, where: str = "") -> None:
        self.values = values
        self._faults = faults
        self._where = where

    def text(self, *keys: str) -> str:
        """The first of some fields that is text; empty if none is."""
        found = (self.values.get(key) for key in keys)
        return next((value[:300] for value in found if isinstance(value, str)), "")

    def number(self, *keys: str, needed: bool = False) -> float | None:
        """The first of some fields that is there, as a number of at least 0; None if none is."""
        key = next((k for k in keys if self.values.get(k) is not None), None)
        if key is None:
            if needed:
                self._faults.add(self._where + keys[0], "is missing")
            return None
        value = self.values[key]
        if not is_number(value):
            self._faults.add(self._where + key, "is no such number", str(value), "a number of at least 0")
            return None
        return float(value)

    def whole(self, *keys: str) -> int | None:
        """The first of some fields that is there, as a whole number; None if none is."""
        value = self.number(*keys)
        return None if value is None else round(value)

    def numbers(self, key: str, length: int | None = None) -> list[float] | None:
        """A list of numbers of at least 0; None if it is missing or null."""
        value = self.values.get(key)
        if value is None:
            return None
        good = isinstance(value, list) and all(map(is_number, value))
        if not good or (length is not None and len(value) != length):
            size = "" if length is None else f", {length} of them"
            self._faults.add(self._where + key, "is no such list", None, f"numbers of at least 0{size}")
            return None
        return [float(v) for v in value]

    def part(self, *keys: str) -> Fields:
        """The first of some fields that is an object; an empty one if none is."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, dict):
                return Fields(value, self._faults, f"{self._where}{key}.")
        return Fields({}, self._faults, f"{self._where}{keys[0]}.")


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number of at least 0 and below 1e15."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value < _LARGEST
        and math.isfinite(value)
    )
