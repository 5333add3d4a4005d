"""What PDF pages and images are made of, from top to bottom: lines, tiles, rows of tables, figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.reporting.figures import Figure, Theme
from moesim.reporting.sections import Table
from moesim.reporting.tiles import Number, Tile, grouped, rows_of
from moesim.reporting.typeset import LEADING, width_of, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: Inches of the widest figures.
WIDEST_IN = 9.0


@dataclass(frozen=True, slots=True)
class Block:
    """One thing across the sheet that is not cut.

    Parameters
    ----------
    height_pt
        Points, with the space above it.
    draw
        Draws at so many points from the left and from the top of a sheet.
    figure
        Drawn as wide as `width_pt`, below the space above, `gap_pt`, by whoever fills the sheet.
    keep
        Whether it stays with what follows.
    """

    height_pt: float
    draw: Callable[[Pen, float, float], None] | None = None
    figure: Figure | None = None
    gap_pt: float = 0.0
    width_pt: float = 0.0
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Pen:
    """Writes on a canvas in points from its upper left corner."""

    canvas: Canvas
    theme: Theme
    width_pt: float
    height_pt: float

    def write(self, x: float, y: float, text: str, size: float, colour: str = "", bold: bool = False) -> None:
        """A line whose upper edge is at `y`."""
        self.canvas.text(
            x / self.width_pt,
            1 - (y + size * 1.02) / self.height_pt,
            text,
            fontsize=size,
            color=colour or self.theme.ink,
            fontweight="bold" if bold else "normal",
            va="baseline",
            ha="left",
        )

    def box(self, x: float, y: float, width: float, height: float) -> None:
        """A frame."""
        from matplotlib.patches import Rectangle

        corner = (x / self.width_pt, 1 - (y + height) / self.height_pt)
        self.canvas.add_artist(
            Rectangle(
                corner,
                width / self.width_pt,
                height / self.height_pt,
                transform=self.canvas.transFigure,
                facecolor="none",
                edgecolor=self.theme.grid,
                linewidth=0.8,
            )
        )

    def rule(self, x: float, y: float, width: float) -> None:
        """A thin line."""
        from matplotlib.lines import Line2D

        height = 1 - y / self.height_pt
        self.canvas.add_artist(
            Line2D(
                (x / self.width_pt, (x + width) / self.width_pt),
                (height, height),
                transform=self.canvas.transFigure,
                color=self.theme.grid,
                linewidth=0.6,
            )
        )


@dataclass(frozen=True, slots=True)
class Setter:
    """Makes blocks of a width.

    Parameters
    ----------
    width_pt, size_pt
        Of the column and of its text, in points.
    tallest_pt
        No figure is taller; one that would be is squeezed.
    """

    width_pt: float
    size_pt: float
    theme: Theme
    tallest_pt: float

    def text(
        self,
        text: str,
        *,
        scale: float = 1.0,
        bold: bool = False,
        dim: bool = False,
        gap: float = 0.0,
        indent: float = 0.0,
        keep: bool = False,
    ) -> Iterator[Block]:
        """A paragraph, a block for each line.

        Parameters
        ----------
        gap
            Above it, in lines.
        indent
            Points.
        """
        size = self.size_pt * scale
        colour = self.theme.dim if dim else self.theme.ink
        lines = wrapped(text, self.width_pt - indent, size, bold)
        for nth, line in enumerate(lines):
            above = gap * self.size_pt * LEADING if nth == 0 else 0.0

            def draw(pen: Pen, x: float, y: float, line: str = line, above: float = above) -> None:
                pen.write(x + indent, y + above, line, size, colour, bold)

            # No line of a heading stands alone, nor the first one of a paragraph.
            stays = keep or (nth == 0 and len(lines) > 1)
            yield Block(above + size * LEADING, draw, keep=stays)

    def figure(self, figure: Figure, captioned: bool = True) -> Iterator[Block]:
        """A figure below its title and above its caption."""
        yield from self.text(figure.title, bold=True, scale=1.1, gap=1.0, keep=True)
        # All at one scale, so that text is of one size.
        scale = self.width_pt / WIDEST_IN
        height = min(figure.height_in * scale, self.tallest_pt)
        width = min(figure.width_in * scale, self.width_pt)
        yield Block(height + 4, figure=figure, gap_pt=4, width_pt=width, keep=True)
        if captioned:
            yield from self.text(figure.caption, dim=True, scale=0.9)
        yield from self.text(figure.facts, dim=True, scale=0.82)

    def tiles(self, tiles: Sequence[Tile], columns: int = 4) -> Iterator[Block]:
        """Key numbers: in boxes, or as a table where there are several results."""
        for labels, group in grouped(tiles):
            if labels:
                shown = rows_of(group)
                rows = [[labels[row], *(_cell(tile, row) for tile in group)] for row in shown]
                titles = ["", *(f"{tile.title}, {tile.unit}" for tile in group)]
                yield from self.rows(titles, rows, [False] * len(titles), gap=0.6, first_bold=True)
                if len(labels) > len(shown):
                    more = f"The first and the best of each, of {len(labels)}."
                    yield from self.text(more, dim=True, scale=0.85, gap=0.2)
                continue
            for start in range(0, len(group), columns):
                yield self._boxes(group[start : start + columns], columns)

    def _boxes(self, tiles: Sequence[Tile], columns: int) -> Block:
        small, gap, pad = self.size_pt * 0.85, self.size_pt * 0.8, self.size_pt * 0.7
        width = (self.width_pt - gap * (columns - 1)) / columns
        inner = width - 2 * pad
        content: list[list[tuple[str, float, bool, bool]]] = []
        for tile in tiles:
            number = tile.numbers[0]
            large = self.size_pt * 2.1
            needed = width_of(number.text, large, True) + width_of(f" {tile.unit}", small)
            large *= min(1.0, inner / needed) if needed else 1.0
            lines = [(t, small, True, True) for t in wrapped(tile.title, inner, small, True)]
            lines.append((number.text, max(large, small), True, False))
            lines += [(t, small, False, True) for t in _details(number, inner, small)]
            content.append(lines)
        heights = [sum(size * LEADING for _, size, _, _ in lines) for lines in content]
        above, height = gap, max(heights) + 2 * pad

        def draw(pen: Pen, x: float, y: float) -> None:
            for nth, (tile, lines) in enumerate(zip(tiles, content, strict=True)):
                left, top = x + nth * (width + gap), y + above
                pen.box(left, top, width, height)
                top += pad
                for text, size, bold, dim in lines:
                    pen.write(left + pad, top, text, size, pen.theme.dim if dim else "", bold)
                    if bold and not dim:
                        shift = width_of(f"{text} ", size, True)
                        pen.write(left + pad + shift, top + (size - small) * 1.02, tile.unit, small)
                    top += size * LEADING

        return Block(above + height, draw)

    def table(self, table: Table, most: int) -> Iterator[Block]:
        """A table; of a long one the first rows, and how many there are."""
        yield from self.text(table.title, bold=True, gap=1.0, keep=True)
        columns = list(table.columns)
        rows = [list(row) for row in table.rows[:most]]
        if table.compares and len(columns) > 2:
            rows = [[f"{row[0]} \u2260" if len(set(row[1:])) > 1 else row[0], *row[1:]] for row in rows]
        yield from self.rows(columns, rows, list(table.numeric))
        if len(table.rows) > most:
            yield from self.text(f"And {len(table.rows) - most} more rows.", dim=True, scale=0.85)

    def rows(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        numeric: Sequence[bool],
        gap: float = 0.2,
        first_bold: bool = False,
    ) -> Iterator[Block]:
        """Rows of cells below their headings; what is too wide is wrapped.

        Parameters
        ----------
        first_bold
            Whether the first line of each cell stands out.
        """
        size, space = self.size_pt * 0.85, self.size_pt * 0.9
        widths = _widths([columns, *rows], self.width_pt, size, space, first_bold)
        for nth, row in enumerate([columns, *rows]):
            head = nth == 0
            if head and not any(columns):
                continue
            cells = [
                [
                    line
                    for i, part in enumerate(text.split("\n"))
                    for line in wrapped(part, width, size, head or (first_bold and i == 0))
                ]
                for text, width in zip(row, widths, strict=True)
            ]
            above = gap * self.size_pt if head else 0.0
            height = max(1, *map(len, cells)) * size * LEADING + size * 0.35

            def draw(
                pen: Pen,
                x: float,
                y: float,
                cells: list[list[str]] = cells,
                above: float = above,
                height: float = height,
                head: bool = head,
            ) -> None:
                left = x
                for lines, width, right in zip(cells, widths, numeric, strict=True):
                    for i, line in enumerate(lines):
                        shift = width - width_of(line, size, head) if right else 0.0
                        bold = head or (first_bold and i == 0)
                        colour = pen.theme.dim if head or (first_bold and i > 0) else ""
                        pen.write(left + shift, y + above + i * size * LEADING, line, size, colour, bold)
                    left += width + space
                pen.rule(x, y + above + height - size * 0.15, self.width_pt)

            yield Block(above + height, draw, keep=head)


def _cell(tile: Tile, row: int) -> str:
    """A number among others, and what stands below it, a line each."""
    number = tile.numbers[row]
    first = " ".join(filter(None, (number.text, tile.changes[row], "(best)" if tile.best[row] else "")))
    return "\n".join((first, *number.details))


def _details(number: Number, width_pt: float, size_pt: float) -> list[str]:
    return [line for text in number.details for line in wrapped(text, width_pt, size_pt)]


def _widths(
    rows: Sequence[Sequence[str]], width_pt: float, size_pt: float, space: float, bold: bool
) -> list[float]:
    """Widths of columns: as much as each needs if there is room, else a fair share."""
    count = len(rows[0])
    needed = [
        max(
            width_of(part, size_pt, bold=nth == 0 or bold) + 0.5
            for nth, row in enumerate(rows)
            for part in row[column].split("\n")
        )
        for column in range(count)
    ]
    room = width_pt - space * (count - 1)
    # Narrow columns keep what they need; what is left is shared by the wide ones.
    widths = [0.0] * count
    left = sorted(range(count), key=lambda i: needed[i])
    for nth, column in enumerate(left):
        widths[column] = min(needed[column], room / (count - nth))
        room -= widths[column]
    return widths
