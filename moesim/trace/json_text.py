"""JSON from strangers: whole documents of a bounded size, and lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from moesim.errors import Fault, TraceError
from moesim.trace.limits import MAX_JSON_BYTES, size_fault
from moesim.trace.peek import Peek

_SHOWN = 5


def read_json(peek: Peek) -> Any:  # noqa: ANN401 - any JSON tree
    """The document of a file, gzipped or not.

    Raises
    ------
    TraceError
        If it is too large, no JSON, truncated, or nested too deeply.
    """
    fault = size_fault(peek.size, "JSON document", MAX_JSON_BYTES)
    if fault:
        raise TraceError(fault, peek.path)
    with peek.open_text() as stream:
        content = stream.read(MAX_JSON_BYTES + 1)
    fault = size_fault(len(content), "JSON document", MAX_JSON_BYTES)
    if fault:
        raise TraceError(fault, peek.path)
    return parse(content, peek)


def json_lines(peek: Peek) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with one on each line, with the number of the line.

    Raises
    ------
    TraceError
        At the first line that is no JSON object.
    """
    for number, line in peek.lines():
        value = parse(line, peek, f"line {number}")
        if not isinstance(value, dict):
            raise TraceError(Fault("is no JSON object", f"line {number}"), peek.path)
        yield number, value


def parse(content: bytes, peek: Peek, where: str = "") -> Any:  # noqa: ANN401
    """The value of a JSON text; `where` is its place in the file."""
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        place = where or f"line {error.lineno}, column {error.colno}"
        fault = Fault(f"is no JSON, or is truncated: {error.msg.lower()}", place)
    except RecursionError:
        fault = Fault("is nested too deeply", where)
    except ValueError as error:
        fault = Fault(f"is no JSON: {error}", where)
    raise TraceError(fault, peek.path)


def first_line(peek: Peek) -> dict[str, Any]:
    """The object on the first line, as far as the head of the file shows it; empty if there is none."""
    for line in peek.text_head.removeprefix(b"\xef\xbb\xbf").splitlines():
        if not line.isspace():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                return {}
            return value if isinstance(value, dict) else {}
    return {}


def is_whole(value: object, low: int = 0, high: int = 2**31 - 1) -> bool:
    """Whether a JSON value is a whole number in a range; true and false are none."""
    return type(value) is int and low <= value <= high


class Faults(list[Fault]):
    """A list that keeps the first few faults and counts the others: a hostile file has millions."""

    more = 0

    def append(self, fault: Fault) -> None:
        """Keep a fault, or count it."""
        if len(self) < _SHOWN:
            super().append(fault)
        else:
            self.more += 1

    def extend(self, faults: Iterable[Fault]) -> None:
        """Keep or count each of some faults."""
        for fault in faults:
            self.append(fault)


def shown(faults: Iterable[Fault], name: str = "") -> list[Fault]:
    """The first faults, and how many more there are."""
    every = list(faults)
    more = len(every) - len(every[:_SHOWN]) + (faults.more if isinstance(faults, Faults) else 0)
    return every[:_SHOWN] + ([Fault(f"{more} more such faults", name)] if more else [])


def short(value: object) -> object:
    """A value, or the beginning of its text."""
    text = repr(value)
    return value if len(text) < 40 else text[:40] + "..."
