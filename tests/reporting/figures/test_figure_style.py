"""The house style: colours that everyone tells apart, text that fits, bytes that stay the same."""

from __future__ import annotations

import csv
import io
import re
from itertools import combinations
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from drawing import drawn
from gallery import every
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from moesim.errors import ConfigError
from moesim.reporting.figures import DARK, PAGE, PRINT, THEMES, css, rank_loads, time_breakdown
from moesim.reporting.figures.theme import HATCHES, LINES, MARKERS

BOTH = pytest.mark.parametrize("theme", [PRINT, DARK], ids=lambda theme: theme.name)
FIGURES = every()
EACH = pytest.mark.parametrize("name", FIGURES)

# Machado, Oliveira and Fernandes (IEEE TVCG 15(6), 2009): whole absence of one kind of cone, in linear light.
SEEN_WITH = {
    "all cones": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                           [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                           [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                           [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


def _linear(colour):
    """Linear light of an sRGB colour."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def _contrast(one, other):
    """Of WCAG 2."""
    low, high = sorted(_linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def _oklab(linear):
    """Ottosson's perceptual space, in which 0.02 is about the least difference that is seen."""
    cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                      [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
    lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    return lab @ np.cbrt(cones @ np.clip(linear, 0, 1))


def test_reference_values():
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    assert _contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    # Red is told from green by those who see all colours, and from a dark yellow hardly by deuteranopes.
    assert np.linalg.norm(_oklab(_linear("#ff0000")) - _oklab(_linear("#00ff00"))) > 0.5
    assert np.allclose(_oklab(np.ones(3)), [1, 0, 0], atol=1e-4)


@BOTH
def test_colours_stand_out(theme):
    assert all(_contrast(colour, theme.paper) >= 3 for colour in (*theme.series, *theme.role.values()))
    assert _contrast(theme.ink, theme.paper) >= 7
    assert _contrast(theme.dim, theme.paper) >= 4.5
    # Both ends of the map, on either background.
    for end in (0.0, 1.0):
        colour = "#" + "".join(f"{round(255 * part):02x}" for part in theme.diverging(end)[:3])
        assert _contrast(colour, theme.paper) >= 3


@BOTH
@pytest.mark.parametrize("eyes", SEEN_WITH)
def test_colours_are_told_apart(theme, eyes):
    seen = [_oklab(SEEN_WITH[eyes] @ _linear(colour)) for colour in theme.series]
    for (i, one), (j, other) in combinations(enumerate(seen), 2):
        least = 0.11 if max(i, j) < 4 else 0.09 if max(i, j) < 6 else 0.075
        assert np.linalg.norm(one - other) >= least, (theme.series[i], theme.series[j])


def test_nothing_is_told_by_colour_alone():
    places = len(PRINT.series)
    for looks in (MARKERS, LINES, HATCHES, DARK.series):
        assert len(set(looks)) == len(looks) == places
    for one, other in combinations(("before", "after", "balanced", "greedy", "measured"), 2):
        looks = PRINT.line(one), PRINT.line(other)
        assert all(looks[0][key] != looks[1][key] for key in ("color", "marker", "linestyle"))


@given(st.lists(st.sampled_from(["before", "contiguous", "plan", "greedy", "x", "y", "z"]), unique=True))
def test_curves_of_one_figure_differ(names):
    looks = PRINT.lines(names)
    assert list(looks) == names
    for key in ("color", "marker", "linestyle"):
        assert len({look[key] for look in looks.values()}) == len(names)


def _definitions(text):
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", text))


def test_style_sheet_has_every_variable_in_every_scheme():
    blocks = re.findall(r"(:root\S*) \{ ([^}]*) \}", css())
    assert [selector for selector, _ in blocks] == [
        ":root",
        ":root:not([data-theme=light])",
        ":root[data-theme=dark]",
    ]
    light, *dark = [_definitions(text) for _, text in blocks]
    assert light == PRINT.variables
    assert dark == [DARK.variables] * 2
    # Dark is for screens: paper stays white.
    assert css().count("@media screen") == 2


@EACH
def test_page_svg_has_variables_only(name):
    svg = FIGURES[name].svg("p", PAGE)
    used = set(re.findall(r"var\(--(\w+)\)", svg))
    assert {"ink", "paper"} <= used <= set(PRINT.variables)
    left = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg))
    assert not left, left
    # Nothing else differs, and the same values give the same bytes.
    again = FIGURES[name].svg("p", PRINT)
    for variable, colour in PRINT.variables.items():
        svg = svg.replace(f"var(--{variable})", colour)
    assert svg == again


def test_same_values_same_bytes(tmp_path):
    for suffix in ("svg", "png", "pdf"):
        one, two = (FIGURES["rank_loads"].save(tmp_path / f"{nth}.{suffix}").read_bytes() for nth in "ab")
        assert one == two


@EACH
def test_svg_lives_beside_others(name):
    svg = FIGURES[name].svg("left")
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.get("width") is None
    names = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(names) == len(set(names))
    assert all(name.startswith("left-") for name in names)
    targets = {
        link[1:]
        for e in root.iter()
        for key, link in e.attrib.items()
        if key.endswith("href") and link[0] == "#"
    }
    targets |= set(re.findall(r"url\(#([^)]*)\)", svg))
    assert targets <= set(names)
    assert "<style" not in svg
    assert not re.search(r'href="(?!#|data:image/png)', svg)


HOSTILE = (
    "$\\frac{a}{b}$ of $x^2$",
    "</text></svg><script>alert(1)</script>",
    "#0d66a9 id=\"a\" url(#b) style='fill: #ffffff'",
    "line\nbreak\tand\x00control\x1b[31m",
    "_hidden label that is a hundred characters long and goes on and on, well past what has any room in here",
    "=cmd|' /C calc'!A0",
    "模型 مرحبا",
)


@pytest.mark.parametrize("start", [0, 4])
@EACH
def test_names_are_text(name, start):
    names = HOSTILE[start:] + HOSTILE[:start]
    svg = every(names, rows=len(names))[name].svg("h", PAGE)
    root = ET.fromstring(svg)
    assert not [e for e in root.iter() if e.tag.endswith("script")]
    shown = [e.text for e in root.iter() if e.tag.endswith("text") and e.text]
    assert all(text.isprintable() for text in shown)
    if name in ("time_breakdown", "bounds_and_intervals"):
        assert {"$\\frac{a}{b}$ of $x^2$", "line break and\ufffdcontrol\ufffd[31m"} <= set(shown)


def test_a_name_that_looks_like_a_colour_stays():
    svg = time_breakdown([{"#0d66a9": 1.0, 'id="a" url(#b)': 0.5}], ["#ffffff"]).svg("p", PAGE)
    shown = [e.text for e in ET.fromstring(svg).iter() if e.tag.endswith("text")]
    assert {"#0d66a9", "#ffffff", 'id="a" url(#b)'} <= set(shown)


LONG = ("a name of a deployment that is much longer than anything that there is room for in a figure",)


@pytest.mark.parametrize(("names", "rows", "scale"), [(("a",), 1, 1.0), (LONG, 2, 1e-7), (LONG, 30, 1e6)])
@EACH
def test_everything_lies_on_the_canvas(name, names, rows, scale):
    canvas = drawn(every(names, rows, scale)[name])
    renderer = FigureCanvasAgg(canvas).get_renderer()
    width, height = canvas.get_size_inches()
    boxes = [canvas.get_tightbbox(renderer).extents]
    boxes += [
        text.get_window_extent(renderer).extents / canvas.dpi
        for axes in canvas.axes
        for text in axes.texts
        if text.get_visible() and text.get_text()
    ]
    for x0, y0, x1, y1 in boxes:
        assert -0.02 < x0 <= x1 < width + 0.02
        assert -0.02 < y0 <= y1 < height + 0.02


@EACH
def test_facts_and_data(name):
    figure = FIGURES[name]
    assert figure.name == name
    assert re.fullmatch(r".+ \[.+\]; n = [\d,]+ .+; no randomness", figure.facts)
    assert figure.alt
    assert len({len(column) for column in figure.data.values()}) == 1
    rows = list(csv.reader(io.StringIO(figure.csv())))
    assert rows[0] == list(figure.data)
    for cells, values in zip(zip(*rows[1:], strict=True), figure.data.values(), strict=True):
        assert list(cells) == ["" if value is None else str(value) for value in values]


def test_seed_is_stated():
    assert rank_loads([1, 2], [2, 1], 0, seed=7).facts.endswith("; seed 7")


def test_spreadsheets_run_nothing():
    figure = time_breakdown([{"=1+1": 1.0, "-2": -0.5}], ["@x"])
    rows = list(csv.reader(io.StringIO(figure.csv())))
    assert rows[1:] == [["'@x", "'=1+1", "1.0"], ["'@x", "'-2", "-0.5"]]


def test_files_are_whole_and_themed(tmp_path):
    from PIL import Image

    figure = FIGURES["rank_loads"]
    for theme, paper in (("print", (255, 255, 255)), ("dark", (15, 19, 24))):
        path = figure.save(tmp_path / f"{theme}.png", theme)
        with Image.open(path) as image:
            assert image.convert("RGB").getpixel((0, 0)) == paper
            assert image.size == (round(100 * figure.width_in), round(100 * figure.height_in))
    assert set(THEMES) == {"print", "dark"}
    with pytest.raises(ConfigError) as caught:
        figure.save(tmp_path / "a.bmp", "neon")
    assert [fault.value for fault in caught.value.faults] == ["bmp", "neon"]
    assert not (tmp_path / "a.bmp").exists()


@pytest.mark.parametrize("above", range(0, len(FIGURES), 2))
def test_figures_share_a_sheet(above):
    from matplotlib.figure import Figure as Sheet

    sheet, pair = Sheet(figsize=(9, 9), layout="constrained"), list(FIGURES.values())[above : above + 2]
    for part, figure in zip(sheet.subfigures(2, 1), pair, strict=True):
        figure.draw(part, PRINT)
    sheet.savefig(io.BytesIO(), format="png")
    assert len(sheet.axes) == sum(len(drawn(figure).axes) for figure in pair)
