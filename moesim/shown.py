"""Results as small tables of HTML, for notebooks.

Strings alone: everything is escaped, nothing is loaded, colours are those of the page around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

_TABLE = "border-collapse:collapse;margin:.3em 0"
_CELL = "padding:.15em .8em .15em 0;text-align:{side};border:0;white-space:nowrap"
_HEAD = "padding:.15em .8em .15em 0;text-align:{side};border:0;border-bottom:1px solid currentColor"
#: Characters of a name or a note; what is longer came from a file that means harm, or helps nobody.
MOST = 300

Cell = str | float | int | None


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], *, words: int = 1) -> str:
    """A table; numbers have four digits, what is unknown is a dash.

    Parameters
    ----------
    head
        Titles of the columns, each with its unit.
    rows
        Text, numbers or None.
    words
        Columns of text, to the left; others are numbers, to the right.

    Examples
    --------
    >>> "<td" in table(["metric", "value"], [["TPOT, ms", 12.3456]]), number(12.3456)
    (True, '12.35')
    """
    sides = ["left" if i < words else "right" for i in range(len(head))]
    top = "".join(
        f'<th scope="col" style="{_HEAD.format(side=side)}">{escape(title)}</th>'
        for title, side in zip(head, sides, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_CELL.format(side=side)}">{cell(value)}</td>'
            for value, side in zip(row, sides, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def block(title: str, *parts: str, notes: Sequence[str] = ()) -> str:
    """A result: its title, what is known of it, and what must be known with it.

    Parameters
    ----------
    title
        In words.
    parts
        HTML, made by the functions of this module.
    notes
        Sentences.
    """
    said = "".join(f"<li>{text(note)}</li>" for note in notes)
    return (
        f'<div style="overflow-x:auto"><p style="margin:.3em 0"><b>{text(title)}</b></p>'
        + "".join(parts)
        + (f'<ul style="margin:.3em 0 .3em 1.2em;padding:0">{said}</ul>' if said else "")
        + "</div>"
    )


def bars(values: Sequence[tuple[str, float]], unit: str) -> str:
    """Shares of a whole as one bar, its parts named below it with their values.

    Parameters
    ----------
    values
        Name and value of each part, none negative.
    unit
        Of the values.
    """
    whole = sum(value for _, value in values)
    if not whole > 0:
        return ""
    drawn, at = [], 0.0
    for i, (name, value) in enumerate(values):
        width = 100.0 * value / whole
        label = f"{name}: {number(value)} {unit}, {value / whole:.0%}"
        drawn.append(
            f'<rect x="{at:.3f}" y="0" width="{width:.3f}" height="8" fill="{_COLOURS[i % len(_COLOURS)]}">'
            f"<title>{text(label)}</title></rect>"
        )
        at += width
    said = "; ".join(f"{name} {value / whole:.0%}" for name, value in values)
    return (
        f'<svg viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{text(said)}" '
        f'style="width:100%;max-width:40em;height:.9em;display:block">{"".join(drawn)}</svg>'
        f'<p style="margin:.2em 0;font-size:90%">{text(said)}</p>'
    )


#: Okabe and Ito's colours, told apart with every common colour blindness, on light paper and on dark.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")


def cell(value: Cell) -> str:
    """One value, escaped."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "&ndash;"
    return text(value if isinstance(value, str) else number(value))


def number(value: float) -> str:
    """Four digits, or all of a whole number.

    >>> number(1234.56), number(0.00012345), number(2_000_000), number(3.0)
    ('1,235', '0.0001234', '2,000,000', '3')
    """
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def span(ends: Sequence[float] | None, scale: float = 1.0) -> str | None:
    """An interval in words.

    >>> span([0.0123, 0.02], 1e3), span(None)
    ('12.3 to 20', None)
    """
    return None if ends is None else f"{number(ends[0] * scale)} to {number(ends[1] * scale)}"


def text(value: str) -> str:
    """Text of a file or a user, escaped and not longer than `MOST` characters.

    >>> text("<b>")
    '&lt;b&gt;'
    """
    return escape(value if len(value) <= MOST else value[:MOST] + "...")
