"""Blocks laid on a sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, cast

from moesim.reporting.blocks import WIDEST_IN, Block, Pen
from moesim.reporting.canvas import blank, style
from moesim.reporting.figures import Figure, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def pages_of(blocks: Sequence[Block], room_pt: float) -> Iterator[list[Block]]:
    """Blocks by page: each page takes what fits, and what stays together stays together.

    Examples
    --------
    >>> a, b, c = Block(50), Block(30, keep=True), Block(40)
    >>> [len(page) for page in pages_of([a, b, c], 100)]
    [1, 2]
    """
    page: list[Block] = []
    used = 0.0
    for group in _together(blocks):
        size = sum(block.height_pt for block in group)
        if page and used + size > room_pt:
            yield page
            page, used = [], 0.0
        for block in group:
            # What is together and larger than a page is cut where it must be.
            if page and used + block.height_pt > room_pt:
                yield page
                page, used = [], 0.0
            page.append(block)
            used += block.height_pt
    if page:
        yield page


def _together(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    group: list[Block] = []
    for block in blocks:
        group.append(block)
        if not block.keep:
            yield group
            group = []
    if group:
        yield group


@contextmanager
def sheet(
    blocks: Sequence[Block], size_pt: tuple[float, float], margin_pt: float, theme: Theme, foot: str = ""
) -> Iterator[Canvas]:
    """A canvas with blocks on it, to be saved within.

    Parameters
    ----------
    size_pt
        Width and height.
    foot
        A line at the bottom.
    """
    width, height = size_pt
    column = width - 2 * margin_pt
    shown = [block for block in blocks if block.figure is not None]
    # Text in figures shrinks and grows with them.
    with style(theme, column / 72 / WIDEST_IN if shown else 1.0):
        found = blank(width / 72, height / 72)
        pen = Pen(found, theme, width, height)
        tops = [margin_pt]
        for block in blocks:
            tops.append(tops[-1] + block.height_pt)
        # Figures take cells of a grid whose lines are their edges.
        down, across = [0.0], sorted({0.0, margin_pt, width, *(margin_pt + b.width_pt for b in shown)})
        cells: list[tuple[int, int, Figure]] = []
        for block, top in zip(blocks, tops, strict=False):
            if block.figure is not None:
                cells.append((len(down), across.index(margin_pt + block.width_pt), block.figure))
                down += [top + block.gap_pt, top + block.height_pt]
            elif block.draw is not None:
                block.draw(pen, margin_pt, top)
        down.append(height)
        if cells:
            grid = found.add_gridspec(
                len(down) - 1,
                len(across) - 1,
                width_ratios=[b - a for a, b in pairwise(across)],
                height_ratios=[b - a for a, b in pairwise(down)],
            )
            for row, right, figure in cells:
                part = found.add_subfigure(grid[row, 1:right])
                part.set_facecolor("none")
                figure.draw(cast("Canvas", part), theme)
        if foot:
            pen.write(margin_pt, height - margin_pt * 0.62, foot, 7.0, theme.dim)
        yield found
