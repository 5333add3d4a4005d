"""Comma-separated files with a header, one request per line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator

from moesim.requests.source import Faults, Source


class CommaFile:
    """The lines of a file, cut into cells.

    Parameters
    ----------
    source
        The file.
    faults
        Where lines of another width are noted.
    spell
        What makes a header cell the name it is looked up by.

    Attributes
    ----------
    names
        Columns.
    """

    def __init__(self, source: Source, faults: Faults, spell: Callable[[str], str] = str.strip) -> None:
        self._faults = faults
        self._lines = source.lines(faults)
        _, head = next(self._lines, (0, ""))
        self.names = [spell(cell) for cell in head.split(",")]

    def places(self, *wanted: str) -> list[int]:
        """Where the columns stand; a missing one is a fault, and stands at 0."""
        for name in wanted:
            if name not in self.names:
                self._faults.add("line 1", f"has no column {name}")
        return [self.names.index(name) if name in self.names else 0 for name in wanted]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of every line of the right width."""
        for number, text in self._lines:
            try:
                cells = next(csv.reader([text])) if '"' in text else text.split(",")
            except csv.Error as error:
                self._faults.add(f"line {number}", f"is no CSV: {error}")
                continue
            if len(cells) == len(self.names):
                yield number, cells
            else:
                what = f"has {len(cells)} columns, the header has {len(self.names)}"
                self._faults.add(f"line {number}", what)
