"""Cells of a comma-separated file, line by line in bounded memory, and everything that is wrong with them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from moesim.errors import ConfigError, Fault, nearest
from moesim.units import show

MAX_LINE_BYTES = 1 << 20
#: Faults that are shown in full; the rest are counted.
SHOWN = 50
#: The largest number of tokens, requests, devices or milliseconds that is no slip.
MOST = 1e12


class Faults:
    """What is wrong with one file: the first few in full, and how many more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shown: list[Fault] = []
        self._more = 0

    def __bool__(self) -> bool:
        return bool(self._shown)

    def add(self, where: str, message: str, value: str | None = None, allowed: str = "") -> None:
        """Note one fault; a long value is shortened."""
        if len(self._shown) == SHOWN:
            self._more += 1
            return
        if value is not None and len(value) > 40:
            value = value[:40] + "..."
        self._shown.append(Fault(message, where, value, allowed))

    def raise_if_any(self) -> None:
        """Raise a `ConfigError` of all of them."""
        if self._shown:
            more = [Fault(f"and {self._more} more")] if self._more else []
            raise ConfigError(self._shown + more, self.path)


class Cells:
    """Cells of one line by column.

    Parameters
    ----------
    line
        Its number in the file.
    values
        Text by column, stripped; a column the file lacks is blank.
    faults
        Where what is wrong is noted.
    """

    def __init__(self, line: int, values: Mapping[str, str], faults: Faults) -> None:
        self.line = line
        self._values = values
        self._faults = faults

    def text(self, column: str) -> str:
        """A cell, empty if blank."""
        return self._values.get(column, "")

    def needed(self, column: str) -> str:
        """A cell that must not be blank."""
        text = self.text(column)
        if not text:
            self.fault(column, "is blank")
        return text

    def one_of(self, column: str, allowed: Sequence[str]) -> str:
        """A cell that is one of few words."""
        text = self.needed(column)
        if text and text.lower() not in allowed:
            near = nearest(text, allowed)
            words = ", ".join(allowed)
            self.fault(column, "is none of these", text, f"{words}; nearest: {near[0]}" if near else words)
        return text.lower()

    def number(self, column: str, low: float = 0.0) -> float | None:
        """A number of at least `low`, or None where blank."""
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text) if len(text) < 40 and "_" not in text else float("nan")
        except ValueError:
            value = float("nan")
        if not low <= value <= MOST:
            self.fault(column, "is no such number", text, f"{low:g} to {MOST:g}, or blank")
            return None
        return value

    def whole(self, column: str) -> int | None:
        """A whole number of at least 0, or None where blank."""
        value = self.number(column)
        if value is not None and not (value.is_integer() and value < 2**31):
            self.fault(column, "is no whole number", self.text(column), "0, 1, 2, ..., or blank")
            return None
        return None if value is None else int(value)

    def fault(self, column: str, message: str, value: str | None = None, allowed: str = "") -> None:
        """Note a fault of this line."""
        self._faults.add(f"line {self.line}, {column}", message, value, allowed)


def read_cells(path: Path, required: Sequence[str], known: Sequence[str]) -> Iterator[Cells]:
    """Lines of a file with a header, one after the other.

    Parameters
    ----------
    path
        The file; UTF-8, with or without a byte order mark.
    required, known
        Columns that must be there, and all that mean something.

    Raises
    ------
    ConfigError
        At the end of the file, with every fault that was noted meanwhile; at its start, if columns are
        missing.
    """
    faults = Faults(path)
    try:
        with path.open("rb") as stream:
            rows = csv.reader(_lines(stream, faults), strict=True)
            yield from _cells(rows, required, known, faults)
    except OSError as error:
        raise ConfigError(f"cannot be read: {(error.strerror or str(error)).lower()}", path) from None
    except csv.Error as error:
        faults.add(f"line {rows.line_num}", f"is no comma-separated line: {error}")
    faults.raise_if_any()


def _cells(
    rows: Iterator[list[str]], required: Sequence[str], known: Sequence[str], faults: Faults
) -> Iterator[Cells]:
    header = [name.strip() for name in next(rows, [])]
    _check_header(header, required, known, faults)
    line_of: Callable[[], int] = lambda: rows.line_num  # type: ignore[attr-defined]  # noqa: E731
    before = line_of()
    for row in rows:
        line, before = before + 1, line_of()
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            faults.add(f"line {line}", f"has {len(row)} cells", allowed=f"{len(header)}, as the header")
            continue
        yield Cells(line, {n: c.strip() for n, c in zip(header, row, strict=True)}, faults)


def _check_header(header: list[str], required: Sequence[str], known: Sequence[str], faults: Faults) -> None:
    spare = [name for name in header if name not in known]
    for name in required:
        if name not in header:
            near = nearest(name, spare, 1)
            faults.add("line 1", f"has no column {name}", allowed=f"not {near[0]!r}" if near else "")
    for name in sorted({n for n in header if n in known and header.count(n) > 1}):
        faults.add("line 1", f"has the column {name} {header.count(name)} times")
    faults.raise_if_any()


def _lines(stream: IO[bytes], faults: Faults) -> Iterator[str]:
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            faults.add(f"line {number}", f"is longer than {show(MAX_LINE_BYTES, 'bytes')}")
            return
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            faults.add(f"line {number}", "is no UTF-8 text")
