"""What sections are made of: an answer in words, tables of text, and numbers written for readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.labels import number

if TYPE_CHECKING:
    from moesim.reporting.documents import Document
    from moesim.reporting.figures import Figure
    from moesim.reporting.tiles import Tile

Row = tuple[str, ...]
Points = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The first screen.

    Parameters
    ----------
    lead
        The answer in a sentence or two.
    points
        ``(heading, sentences)``.
    """

    lead: str
    points: Points


@dataclass(frozen=True, slots=True)
class Table:
    """A table; every column but the first is right-aligned if it is numeric.

    Parameters
    ----------
    columns
        Headings, with units.
    folded
        Whether it is shown only when asked for.
    compares
        Whether rows are properties, and columns from the second on results.
    """

    title: str
    columns: Row
    rows: tuple[Row, ...]
    folded: bool = False
    compares: bool = False

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers only."""
        return tuple(i > 0 and all(_is_number(row[i]) for row in self.rows) for i in range(len(self.columns)))


@dataclass(frozen=True, slots=True)
class Section:
    """One result, or all of its kind side by side.

    Parameters
    ----------
    key
        Short, and unique in the page.
    title
        Empty if the page has only one section.
    missing
        What is not shown, and why.
    tiles
        The key numbers.
    """

    key: str
    title: str
    answer: Answer
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    tiles: tuple[Tile, ...] = ()


def filled(*points: tuple[str, Iterable[str]]) -> Points:
    """Headings that have something below them.

    >>> filled(("Proven", []), ("Uncertain", ["much"]))
    (('Uncertain', ('much',)),)
    """
    found = ((heading, tuple(sentences)) for heading, sentences in points)
    return tuple((heading, sentences) for heading, sentences in found if sentences)


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """Each text once, in order."""
    return tuple(dict.fromkeys(texts))


def seed_of(documents: Sequence[Document]) -> int | None:
    """The seed that all share; None if there is none."""
    seeds = {document.provenance.seed for document in documents}
    return seeds.pop() if len(seeds) == 1 else None


def each(sentence: str, label: str) -> str:
    """A sentence about one of several.

    >>> each("All fits.", "small"), each("All fits.", "")
    ('small: all fits.', 'All fits.')
    """
    return f"{label}: {sentence[:1].lower()}{sentence[1:]}" if label else sentence


def array(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Numbers, or rows of numbers, with NaN where there is none."""
    return np.array(values, np.float64)


def fixed(value: float | None, digits: int = 4) -> str:
    """A number with so many digits behind the point; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def short(value: float | None) -> str:
    """A number of four digits."""
    return "-" if value is None else number(value)


def brief(value: float) -> str:
    """A number of three digits, thousands apart.

    >>> brief(0.0123456), brief(59.81), brief(1000.0), brief(123456.0)
    ('0.0123', '59.8', '1,000', '123,456')
    """
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e8 else f"{value:.3g}"


def in_ms(seconds: float | None) -> str:
    """A cell in milliseconds."""
    return "-" if seconds is None else number(seconds * 1e3)


def duration(seconds: float) -> str:
    """A time in a sentence.

    >>> duration(0.0123), duration(75.0)
    ('12.3 ms', '75 s')
    """
    return f"{number(seconds * 1e3)} ms" if seconds < 10 else f"{number(seconds)} s"


def ratio(value: float | None) -> str:
    """Largest over mean, finer the nearer it is to one."""
    return "-" if value is None else f"{value:.4f}" if value < 1.01 else f"{value:.3f}"


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "", 1).lstrip("-").isdigit()
