"""Text set in lines of a given width, for PDF pages and images."""

from __future__ import annotations

from functools import lru_cache

#: Line height over font size.
LEADING = 1.32


def wrapped(text: str, width_pt: float, size_pt: float, bold: bool = False) -> list[str]:
    """Lines of a text that are no wider than asked; nothing of it is left out.

    Parameters
    ----------
    text
        White space of any kind separates words; a word longer than a line is broken.
    width_pt, size_pt
        Points.

    Examples
    --------
    >>> wrapped("some words and averyveryverylongone", 60, 10)
    ['some', 'words and', 'averyveryv', 'erylongone']
    """
    lines, line, used = [], "", 0.0
    space = width_of(" ", size_pt, bold)
    for word in text.split():
        size = width_of(word, size_pt, bold)
        if line and used + space + size <= width_pt:
            line, used = f"{line} {word}", used + space + size
            continue
        if size <= width_pt:
            lines += [line] if line else []
            line, used = word, size
            continue
        # No line holds it: as much as goes beside what is there, the rest below.
        line, used = (f"{line} ", used + space) if line else ("", 0.0)
        for letter in word:
            step = width_of(letter, size_pt, bold)
            if line.strip() and used + step > width_pt:
                lines.append(line.rstrip())
                line, used = "", 0.0
            line, used = line + letter, used + step
    return [*lines, line] if line else lines


def width_of(text: str, size_pt: float, bold: bool = False) -> float:
    """Points that a text takes in one line."""
    return sum(_advance(letter, bold) for letter in text) * size_pt


@lru_cache(maxsize=4096)
def _advance(letter: str, bold: bool) -> float:
    """Width of a letter of size one."""
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.ft2font import LoadFlags

    font = get_font(findfont(FontProperties(family=["DejaVu Sans"], weight="bold" if bold else "normal")))
    font.set_size(100, 72)
    # What the font lacks is drawn as its box for missing letters.
    glyph = font.load_glyph(font.get_char_index(ord(letter)), flags=LoadFlags.NO_HINTING)
    return float(glyph.linearHoriAdvance) / 65536 / 100
