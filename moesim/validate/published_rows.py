"""Figures that others published, one to a line of a comma-separated file, and what moesim says to each."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from moesim.validate.cells import MOST, Cells, read_cells

#: How a figure is known. Only the primary text counts in a gate.
GRADES = {
    "P": "primary text",
    "S": "secondary source",
    "E": "excerpt",
    "R": "recalled",
    "D": "derived",
    "P/SIM": "a simulator's own result",
    "S/SIM": "a simulator's own result, second-hand",
}
_REQUIRED = ("system", "hardware", "metric", "value", "unit", "grade")
_KNOWN = (
    *_REQUIRED,
    *("source", "locator", "num_devices", "model", "phase", "precision", "parallelism", "batch"),
    *("input_len", "output_len", "baseline", "notes"),
)


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One published figure, as it was written down.

    Parameters
    ----------
    line
        In the file.
    value
        The figure, in `unit`; None where it is blank or no single number.
    grade
        One of `GRADES`.
    cells
        The other columns by name.
    """

    line: int
    value: float | None
    grade: str
    cells: dict[str, str]

    @property
    def system(self) -> str:
        """Whose figure it is."""
        return self.cells["system"]

    def text(self, column: str) -> str:
        """A column, empty where it is blank."""
        return self.cells.get(column, "")

    def first_number(self, column: str) -> float | None:
        """The first number of a column: 4096 of ``4096 tok/rank`` or of ``4K tok``.

        >>> row = PublishedRow(2, None, "P", {"batch": "M=64", "input_len": "8K"})
        >>> row.first_number("batch"), row.first_number("input_len")
        (64.0, 8192.0)
        """
        found = re.search(r"(\d+(?:\.\d+)?)\s*([kK]\b)?", self.text(column))
        return float(found[1]) * (1024.0 if found[2] else 1.0) if found else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What moesim says to a published figure: a value in its unit, or why there is none.

    Parameters
    ----------
    ours
        In the row's unit, or None.
    kind
        ``exchange``, ``kernel``, ``prefill`` or ``decode``; for a row without a value, empty.
    assumed
        What the row does not say and had to be taken.
    fitted
        Whether moesim's numbers were fitted to this row, which then judges nothing.
    reason
        Why there is no value.
    """

    ours: float | None = None
    kind: str = ""
    assumed: str = ""
    fitted: bool = False
    reason: str = ""


def read_published(path: str | Path) -> list[PublishedRow]:
    """Read a file of published figures.

    Parameters
    ----------
    path
        Comma-separated, with at least the columns system, hardware, metric, value, unit and grade.

    Raises
    ------
    ConfigError
        With every fault of the file.
    """
    return [_row(cells) for cells in read_cells(Path(path), _REQUIRED, _KNOWN)]


def _row(cells: Cells) -> PublishedRow:
    for column in ("system", "metric"):
        cells.needed(column)
    grade = cells.one_of("grade", [g.lower() for g in GRADES]).upper()
    return PublishedRow(cells.line, _value(cells), grade, {name: cells.text(name) for name in _KNOWN})


def _value(cells: Cells) -> float | None:
    """The figure; None for a range, a limit or a blank, which no prediction can be compared with."""
    text = cells.text("value")
    try:
        value = float(text)
    except ValueError:
        if text and not any(c.isdigit() for c in text):
            cells.fault("value", "is no number", text, "a number, a range, or blank")
        return None
    if not math.isfinite(value) or abs(value) > MOST * 1e12 or "_" in text:
        cells.fault("value", "is no finite number", text, "a number, a range, or blank")
        return None
    return value
