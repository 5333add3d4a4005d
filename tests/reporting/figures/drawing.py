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


def plain_figures():
    """One of each of several figures."""
    import numpy as np

    from moesim.reporting import figures as f

    rng = np.random.default_rng(0)
    x = rng.lognormal(0, 1, 50)
    return [
        f.hit_ratio_curves([0, 1, 2], {"lru": [0, 0.5, 1], "belady": [0, 0.7, 1]}, objects=2),
        f.latency_cdf({"a": x}, limit_s=1.0),
        f.predicted_against_measured(x, x * 1.1, low=x * 0.9, high=x * 1.3, groups=["a", "b"] * 25),
        f.scoreboard([f.ScoreRow("system", 1.1, "reproduced", 0.5, 2.0)] * 9),
        f.expert_affinity(np.exp(rng.normal(0, 1, (8, 8))), (3, 4)),
        f.token_reuse([1, 2], [[0.5, 0.4], [0.3, 0.2]], random=0.1),
        f.serving_over_time([0, 1, 2], [1, 2], [0, 1], kv_share=[0.5, None]),
        f.pareto_front([f.PlanPoint("a", {"usd_per_hour": 1.0, "tpot_s": 0.1})], limit=0.2),
        f.sensitivity_tornado([f.Effect("a", 1.0, 2.0)], "tpot_s", 1.5),
        f.load_curve({"a": [f.LoadPoint(1, 0.1, 1.0), f.LoadPoint(8, 0.2, 9.0)]}, limit_s=0.15),
        f.error_cdf({"a": x}),
        f.signed_errors(x, x, noise=0.1),
        f.ratio_histogram([f.ScoreRow("system", 1.1, "reproduced")]),
    ]


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
