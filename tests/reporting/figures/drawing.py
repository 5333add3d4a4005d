"""A figure drawn without a file, so that a test can look at what is on it."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree as ET

from matplotlib import style
from matplotlib.figure import Figure as Canvas

from moesim.reporting.figures import PRINT

EVIL = '</svg><script>alert("$x$")</script>\n&\x00'


def drawn(figure, theme=PRINT):
    """The canvas of a figure, laid out."""
    with style.context(["default", theme.settings()]):
        canvas = Canvas(figsize=(figure.width_in, figure.height_in), layout="constrained")
        figure.draw(canvas, theme)
        canvas.draw_without_rendering()
    return canvas


def curve(canvas, name, panel=0):
    """Points of the line whose label begins with a name, ``[2, points]``."""
    (found,) = [line for line in canvas.axes[panel].lines if str(line.get_label()).startswith(name)]
    return found.get_data()


def texts(canvas):
    """Everything that is written in the axes."""
    return [text.get_text() for axes in canvas.axes for text in axes.texts]


def sound(figure, *facts):
    """What holds for every figure: it states its facts, draws in every theme; SVG and CSV are whole."""
    from moesim.reporting.figures import THEMES

    for fact in (figure.metric, f"[{figure.unit}]", f"n = {figure.n}", *facts):
        assert fact in figure.facts
    lengths = {len(column) for column in figure.data.values()}
    assert len(lengths) == 1
    rows = list(csv.reader(io.StringIO(figure.csv())))
    assert rows[0] == list(figure.data)
    assert len(rows) == 1 + lengths.pop()
    assert figure.alt
    drawings = [figure.svg("key", theme) for theme in THEMES.values()]
    assert figure.svg("key") == drawings[0]
    for svg in drawings:
        assert len(svg) < 120_000
        assert "<script" not in svg
        assert not re.search(r"[ \">]nan[ \"<]", svg)
        ET.fromstring(svg.replace("xlink:href", "href"))
        assert set(re.findall(r' id="([^"]{3})', svg)) <= {"key"}
