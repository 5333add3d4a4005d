"""One figure: what it shows, of how many values, the data behind it, and how to draw it anywhere."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.reporting.figures.labels import printable
from moesim.reporting.figures.theme import PRINT, THEMES, Theme

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure as Canvas

#: Nothing that differs from one run to the next.
_METADATA: dict[str, dict[str, None]] = {
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
    "png": {"Software": None},
}
_FONT = "font-family: 'DejaVu Sans', sans-serif"
#: For every element of a drawing.
_COMMON = f"stroke-linejoin: round; stroke-linecap: butt; {_FONT}"


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """One figure, not drawn yet.

    Parameters
    ----------
    name
        Of the function that made it, as in ``latency_cdf``.
    title
        What it shows.
    caption
        How to read it: sentences.
    metric, unit
        What the axis measures, in the field's words, and its unit.
    n
        How many values are in it, in words: ``"1,000 requests"``.
    seed
        None where nothing was random.
    data
        Columns of equal length: everything that is drawn.
    draw
        Draws on a `matplotlib.figure.Figure` with the colours of a theme.
    width_in, height_in
        Inches.
    alt
        What the figure says, with its main values, for those who do not see it.
    """

    name: str
    title: str
    caption: str
    metric: str
    unit: str
    n: str
    seed: int | None
    data: Mapping[str, Sequence[Any]]
    draw: Callable[[Canvas, Theme], None] = field(repr=False)
    width_in: float = 9.0
    height_in: float = 3.1
    alt: str = ""

    @property
    def facts(self) -> str:
        """Metric, unit, n and seed, as every figure states them."""
        seed = "no randomness" if self.seed is None else f"seed {self.seed}"
        return f"{self.metric} [{self.unit}]; n = {self.n}; {seed}"

    def svg(self, key: str = "figure", theme: Theme = PRINT) -> str:
        """The bare ``<svg>`` element; every id in it begins with `key`.

        With the theme `PAGE` its colours are variables, which `moesim.reporting.figures.css` defines.
        """
        stream = io.StringIO()
        self._save(stream, "svg", theme)
        text = theme.follow(stream.getvalue()) if theme.name == "page" else stream.getvalue()
        return _inline(text, key, self.alt or f"{self.title}. {self.caption}")

    def save(self, path: str | os.PathLike[str], theme: str = "print") -> Path:
        """Write the figure as ``.svg``, ``.png`` or ``.pdf``, whole or not at all.

        Raises
        ------
        ConfigError
            For another suffix or theme.
        """
        kind = Path(path).suffix.lower().lstrip(".")
        faults = [
            Fault("is not known", what, value, ", ".join(allowed))
            for what, value, allowed in (("suffix", kind, _METADATA), ("theme", theme, THEMES))
            if value not in allowed
        ]
        if faults:
            raise ConfigError(faults, source=path)
        with atomic_write(path, "wb") as stream:
            self._save(stream, kind, THEMES[theme])
        return Path(path)

    def csv(self) -> str:
        """The data as text, a column each.

        A name that a spreadsheet would run as a formula begins with an apostrophe.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_harmless(name) for name in self.data)
        writer.writerows([_harmless(cell) for cell in row] for row in zip(*self.data.values(), strict=True))
        return text.getvalue()

    def _repr_html_(self) -> str:
        return f"<figure>{self.svg(self.name)}<figcaption>{escape(self.caption)}</figcaption></figure>"

    def _save(self, stream: IO[Any], kind: str, theme: Theme) -> None:
        from matplotlib import style
        from matplotlib.figure import Figure as Canvas

        with style.context(["default", theme.settings()]), warnings.catch_warnings():
            # The browser has the glyphs that the measuring font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            canvas = Canvas(figsize=(self.width_in, self.height_in), layout="constrained")
            self.draw(canvas, theme)
            canvas.savefig(cast("IO[bytes]", stream), format=kind, metadata=_METADATA[kind])


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _inline(text: str, key: str, label: str) -> str:
    """The bare element: unique ids, no prologue, scaled by the page, positions to a hundredth of a point."""
    body = text[text.index("<svg") :].strip()
    # A rule for "*" would reach all over the page.
    body = re.sub(r"<style[^>]*>[^<]*</style>", "", body)
    # Only inside of tags: a name in the text may look like anything.
    body = re.sub(r"<[^<>]*>", lambda tag: _shorter(tag[0], key), body)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} style="{_COMMON}" role="img" aria-label="{escape(printable(label))}">{rest}'


def _shorter(tag: str, key: str) -> str:
    """A tag with ids of this figure, without what the root element says for all."""
    tag = re.sub(r'\bid="', f'id="{key}-', tag)
    tag = re.sub(r'url\(#|href="#', lambda start: f"{start[0]}{key}-", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag).replace(f"{_FONT}; ", "")
    return re.sub(r'\b(?:d|x|y)="[^"]*"', _rounded, tag)


def _rounded(attribute: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(attribute[0].split()))
