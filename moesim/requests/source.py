"""A request file from a stranger: a first look, its lines, its JSON; all within limits."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from moesim.errors import Fault, TraceError
from moesim.units import show

_HEAD_BYTES = 65536
#: A line of a file with one request per line.
MAX_LINE_BYTES = 4 * 2**20
#: A whole JSON document, which costs many times its size in memory.
MAX_JSON_BYTES = 256 * 2**20
#: A file of requests, which is read piece by piece.
MAX_FILE_BYTES = 64 * 2**30
MAX_REQUESTS = 200_000_000
_SHOWN = 20


class Source:
    """A file that readers look at before one of them takes it.

    Parameters
    ----------
    path
        A regular file.

    Attributes
    ----------
    path, size, head
        The file, its size in bytes, and its first 64 KiB.

    Raises
    ------
    TraceError
        If it is missing, empty, no regular file, too large, or may not be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            info = self.path.stat()
            if not stat.S_ISREG(info.st_mode):
                what = "is a folder, not a file" if stat.S_ISDIR(info.st_mode) else "is no regular file"
                raise TraceError(Fault(what), self.path)
            with self.path.open("rb") as stream:
                self.head = stream.read(_HEAD_BYTES)
        except (OSError, ValueError) as error:
            raise _unreadable(error, self.path) from None
        self.size = info.st_size
        if not self.head:
            raise TraceError(Fault("is empty"), self.path)
        if self.size > MAX_FILE_BYTES:
            allowed = f"at most {show(MAX_FILE_BYTES, 'bytes')}"
            raise TraceError(
                Fault("is too large", value=show(self.size, "bytes"), allowed=allowed), self.path
            )

    @property
    def first_line(self) -> str:
        """The first line that is not blank, as far as it is in the head; what is no UTF-8 is replaced."""
        text = self.head.decode("utf-8-sig", errors="replace").lstrip()
        return text.split("\n", 1)[0].strip()

    def open(self) -> IO[bytes]:
        """The file, for reading from its start."""
        try:
            return self.path.open("rb")
        except OSError as error:
            raise _unreadable(error, self.path) from None

    def lines(self, faults: Faults, limit_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
        """Number and text of every line that is not blank; lines that are no text become faults."""
        with self.open() as stream:
            number = 0
            while raw := stream.readline(limit_bytes + 1):
                number += 1
                if len(raw) > limit_bytes:
                    faults.add(f"line {number}", f"is longer than {show(limit_bytes, 'bytes')}")
                    return
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError:
                    faults.add(f"line {number}", "is no UTF-8 text")
                    continue
                if text:
                    yield number, text

    def objects(
        self, faults: Faults, limit_bytes: int = MAX_LINE_BYTES
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and JSON object of every line; lines that hold none become faults."""
        for number, text in self.lines(faults, limit_bytes):
            value = _parse(text, f"line {number}", faults)
            if isinstance(value, dict):
                yield number, value
            elif value is not _NOTHING:
                faults.add(f"line {number}", "is no JSON object", text)

    def document(self, faults: Faults) -> Any:  # noqa: ANN401 - any JSON tree
        """The whole file as one JSON value; None, with a fault, if it is none."""
        if self.size > MAX_JSON_BYTES:
            faults.add("", f"is too large for one JSON document; allowed: {show(MAX_JSON_BYTES, 'bytes')}")
            return None
        with self.open() as stream:
            content = stream.read()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            faults.add("", "is no UTF-8 text")
            return None
        value = _parse(text, "", faults)
        return None if value is _NOTHING else value

    def first_object(self) -> dict[str, Any]:
        """The JSON object of the first line, if it is in the head; else an empty one."""
        try:
            value = json.loads(self.first_line)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


class Faults:
    """What is wrong with a file: the first few in full, and how many more."""

    def __init__(self) -> None:
        self._shown: list[Fault] = []
        self._more = 0

    def __bool__(self) -> bool:
        return bool(self._shown)

    def add(self, where: str, message: str, value: object = None, allowed: str = "") -> None:
        """Note one fault; a long value is shortened."""
        if len(self._shown) == _SHOWN:
            self._more += 1
            return
        if value is not None:
            text = str(value)
            value = text[:40] + "..." if len(text) > 40 else value
        self._shown.append(Fault(message, where, value, allowed))

    def raise_if_any(self, path: Path) -> None:
        """Raise a `TraceError` of all of them."""
        if self._shown:
            more = [Fault(f"and {self._more} more")] if self._more else []
            raise TraceError(self._shown + more, path)


def whole(value: object, where: str, faults: Faults, low: int = 0, high: int = 2**31 - 1) -> int | None:
    """A whole number from JSON or text within bounds, or None and a fault."""
    number: int | None = None
    if isinstance(value, str) and len(value) < 20 and value.strip().isascii():
        value = value.strip()
        number = int(value) if value.isdigit() else None
    elif isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        number = int(value)
    elif type(value) is int:
        number = value
    if number is None or not low <= number <= high:
        faults.add(
            where, "is no such number" if value is not None else "is missing", value, f"{low} to {high}"
        )
        return None
    return number


def seconds(value: object, where: str, faults: Faults, per: float = 1.0) -> float | None:
    """A time of at least 0 in seconds, from a number or text in units of 1 / `per` s, or None and a fault."""
    number: float | None = None
    if isinstance(value, str) and len(value) < 40:
        try:
            number = float(value)
        except ValueError:
            number = None
    elif type(value) in (int, float) and abs(value) < 1e300:  # type: ignore[arg-type]
        number = float(value)  # type: ignore[arg-type]
    if number is None or not 0 <= number < 1e20:
        allowed = "a number of at least 0"
        faults.add(where, "is no time" if value is not None else "is missing", value, allowed)
        return None
    return number / per


_NOTHING = object()


def _parse(text: str, where: str, faults: Faults) -> Any:  # noqa: ANN401 - any JSON tree
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where or f"line {error.lineno}"
        faults.add(f"{place}, column {error.colno}", f"is no JSON, or is truncated: {error.msg.lower()}")
    except RecursionError:
        faults.add(where, "is nested too deeply")
    except ValueError as error:
        faults.add(where, f"is no JSON: {error}")
    return _NOTHING


def _unreadable(error: Exception, path: object) -> TraceError:
    reason = getattr(error, "strerror", None) or str(error)
    return TraceError(Fault(f"cannot be read: {reason.lower()}"), path)
