"""The first screen of a report as an image: title, answer, key numbers, the main figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from moesim.reporting.blocks import Block, Setter
from moesim.reporting.documents import ReportDocument
from moesim.reporting.figures import Figure, Theme
from moesim.reporting.sheets import pages_of, sheet
from moesim.reporting.view import View, view_of

#: Points across, and pixels to a point.
_WIDTH, _MARGIN, _SIZE, _PIXELS = 720.0, 28.0, 10.5, 2.0
#: No image is taller; a screen shows no more, and a canvas of matplotlib holds no more.
_MOST_HEIGHT = 2400.0
_FIGURES = 2


def write_png(document: ReportDocument, stream: IO[bytes], theme: Theme) -> None:
    """Write the first screen of a report, 1440 pixels wide."""
    view = view_of(document)
    setter = Setter(_WIDTH - 2 * _MARGIN, _SIZE, theme, _MOST_HEIGHT / 2)
    blocks = next(pages_of(list(_flow(view, setter)), _MOST_HEIGHT - 2 * _MARGIN))
    height = sum(block.height_pt for block in blocks) + 2 * _MARGIN
    with sheet(blocks, (_WIDTH, height), _MARGIN, theme) as drawn:
        drawn.savefig(stream, format="png", dpi=72 * _PIXELS, metadata={"Software": None})


def _flow(view: View, setter: Setter) -> Iterator[Block]:
    yield from setter.text(view.title, scale=1.6, bold=True)
    for note in view.notes:
        yield from setter.text(note, dim=True, gap=0.3)
    several = len(view.sections) > 1
    shown: list[Figure] = []
    for section in view.sections:
        lead = f"{section.title}: {section.answer.lead}" if several else section.answer.lead
        yield from setter.text(lead, scale=1.1, gap=0.6)
        if view.tiled:
            yield from setter.tiles(section.tiles)
        shown += section.figures[: 1 if several else _FIGURES]
    for figure in shown[:_FIGURES]:
        yield from setter.figure(figure, captioned=False)
