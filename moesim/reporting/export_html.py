"""A report as one page of HTML that loads nothing and stays small."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from moesim._version import __version__
from moesim.errors import ConfigError, Fault
from moesim.reporting.canvas import png
from moesim.reporting.documents import ReportDocument
from moesim.reporting.downloads import Download, csv_download, json_download, lightened
from moesim.reporting.figures import PAGE, PRINT, Figure
from moesim.reporting.pages import inside, template
from moesim.reporting.sections import Section
from moesim.reporting.tiles import grouped, rows_of
from moesim.reporting.view import View, view_of

#: No page is larger.
MAX_BYTES = 2_000_000
#: Parts of that: vector figures together, one of them, tables of figures to save, the data inside.
_SVG_BYTES, _ONE_SVG_BYTES, _CSV_BYTES, _DATA_BYTES = 800_000, 250_000, 250_000, 500_000
#: Rows and sentences of one kind that are shown; the data has them all.
MOST_ROWS, MOST_SENTENCES = 400, 40


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure as it stands in the page.

    Parameters
    ----------
    picture
        An ``<svg>`` or ``<img>`` element; None if there was no room.
    pixels
        Whether it is an image of pixels.
    note
        What is not as usual about it.
    """

    figure: Figure
    picture: Markup | None
    pixels: bool
    download: Download | None
    note: str


def render_page(document: ReportDocument) -> str:
    """The page as text.

    Raises
    ------
    ConfigError
        If there is so much to show that no page of `MAX_BYTES` holds it.
    """
    view = view_of(document)
    data, left_out = lightened(document, _DATA_BYTES)
    drawn = _drawn(view.sections)
    values = {
        "view": view,
        "version": __version__,
        "drawn": drawn,
        "contents": _contents(view, drawn),
        "data": inside(data),
        "left_out": left_out,
        "grouped": grouped,
        "most_rows": MOST_ROWS,
        "rows_of": rows_of,
        "most_sentences": MOST_SENTENCES,
    }
    page = template("report.html.j2").render(**values, link=None)
    link = json_download(data)
    if len(page.encode()) + len(link.href) < MAX_BYTES - 1000:
        page = template("report.html.j2").render(**values, link=link)
    if (size := len(page.encode())) > MAX_BYTES:
        fault = Fault(
            "the page would be too big", "results", f"{size:,} bytes", f"{MAX_BYTES:,}: fewer results"
        )
        raise ConfigError(fault)
    return page


def _contents(view: View, drawn: list[list[Drawn]]) -> list[tuple[str, str, bool]]:
    """Places in the page: ``(id, name, whether it is inside the one above)``."""
    found = []
    several = len(view.sections) > 1
    for nth, section in enumerate(view.sections, 1):
        if several:
            found.append((f"s{nth}", section.title, False))
        found += [(f"s{nth}-f{i}", one.figure.title, several) for i, one in enumerate(drawn[nth - 1], 1)]
        found += [(f"s{nth}-tables", "Tables", several)]
    return [*found, ("provenance", "Provenance", False)]


def _drawn(sections: tuple[Section, ...]) -> list[list[Drawn]]:
    """The figures of each section, as long as there is room."""
    room = _Room(_SVG_BYTES, _CSV_BYTES)
    return [list(_of_section(section, f"s{nth + 1}", room)) for nth, section in enumerate(sections)]


@dataclass(slots=True)
class _Room:
    """Bytes that are left."""

    pictures: int
    tables: int


def _of_section(section: Section, key: str, room: _Room) -> Iterator[Drawn]:
    for nth, figure in enumerate(section.figures, 1):
        name = f"{key}-{figure.name}-{nth}"
        drawn, pixels = figure.svg(name, PAGE), False
        if len(drawn) > min(_ONE_SVG_BYTES, room.pictures):
            drawn, pixels = _pixels(figure), True
        download = csv_download(figure, f"{name}.csv", room.tables)
        room.tables -= len(download.href) if download else 0
        if len(drawn) > room.pictures:
            yield Drawn(figure, None, pixels, download, "Not drawn: the page has no room left for it.")
            continue
        room.pictures -= len(drawn)
        note = "Drawn as pixels: as lines it would take too much room." if pixels else ""
        yield Drawn(figure, Markup(drawn), pixels, download, note)


def _pixels(figure: Figure) -> str:
    """The figure as an image of pixels, on white."""
    data = base64.b64encode(png(figure, PRINT)).decode("ascii")
    return f'<img alt="{escape(figure.alt or figure.title)}" src="data:image/png;base64,{data}">'
