"""Labels of a roofline: on the roofs, and numbers beside the marks, each where it covers least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesim.engine.roofline import Roof
from moesim.reporting.figures.fitting import when_drawn
from moesim.reporting.figures.labels import number, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

Array = NDArray[np.float64]
Point = tuple[float, float]

#: Where a number is tried, in points of type from the middle of its mark; and how far that is.
_AROUND = np.array(
    [
        (r * math.cos(turn), r * math.sin(turn))
        for r in (9, 13, 18, 24, 31, 40, 52)
        for turn in np.arange(16) * math.pi / 8
    ]
)
_DISTANCE = np.hypot(*_AROUND.T).round(6)


@dataclass(frozen=True, slots=True)
class Label:
    """A text, and where it may be: points of the axes, each with an offset in points of type.

    Parameters
    ----------
    along
        Whether it runs along a slope of one.
    """

    text: Annotation
    places: list[tuple[Point, Point]]
    along: bool = False

    def put(self, place: tuple[Point, Point], renderer: RendererBase) -> Bbox:
        """Move it there; its rectangle, in pixels."""
        self.text.xy, offset = place
        self.text.set_position(offset)
        return _box(self.text, renderer)


def _name_roofs(axes: Axes, roofs: Sequence[Roof]) -> list[Label]:
    """Labels with each peak on its roof, and each bandwidth along its slope."""
    low, high = axes.get_xlim()
    peaks: dict[float, list[str]] = {}
    for roof in roofs:
        peaks.setdefault(roof.flops_per_s, []).append(roof.name)
    found = []
    for peak, names in sorted(peaks.items()):
        name = f"{shorten(', '.join(names), 40)}: {number(peak / 1e12)} TFLOP/s"
        places = [((high, peak), (dx, dy)) for dx in (-3.0, -110.0, -220.0) for dy in (3.0, -9.5)]
        found.append(Label(_write(axes, name, "right"), places))
    for slope in sorted({roof.bytes_per_s for roof in roofs}):
        along = [low * 1.15 * 3.0**nth for nth in range(4)]
        text = _write(axes, f"{number(slope / 1e12)} TB/s", "left")
        found.append(Label(text, [((x, x * slope), (0.0, dy)) for x in along for dy in (3.0, -10.0)], True))
    return found


def place_labels(axes: Axes, roofs: Sequence[Roof], points: Array, radii: Array, numbered: int) -> None:
    """Name the roofs, number the first marks, and let all labels find their places when the figure is drawn.

    Parameters
    ----------
    roofs
        Those that are drawn.
    points
        ``[marks, 2]``, where the marks are.
    radii
        ``[marks]``, in points of type. A number that is not near its mark has a line to it.
    numbered
        How many marks have a number.
    """
    named, ends = _name_roofs(axes, roofs), np.geomspace(*axes.get_xlim(), 300)
    along = np.array([(x, roof.at(x)) for roof in roofs for x in ends])
    line = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0}
    line["color"] = axes.xaxis.label.get_color()
    numbers = [_write(axes, str(nth + 1), "center", line) for nth in range(min(numbered, len(points)))]

    def place(renderer: RendererBase) -> None:
        pixels = float(np.asarray(renderer.points_to_pixels(1.0)))
        marks, lines = axes.transData.transform(points), axes.transData.transform(along)
        taken = _place_names(axes, named, renderer)
        for nth, text in enumerate(numbers):
            middles = marks[nth] + _AROUND * pixels
            half = np.array(_box(text, renderer).size) / 2
            boxes = np.stack([middles - half, middles + half], axis=1)
            reach = (radii * pixels)[:, None]
            cost = (
                100 * (~_inside(boxes, np.array(axes.get_window_extent().get_points())))
                + 10 * _overlaps(boxes, np.array(taken))
                + _overlaps(boxes, np.stack([marks - reach, marks + reach], axis=1))
                + (_overlaps(boxes, np.stack([lines, lines], axis=1)) > 0)
            )
            best = int(np.lexsort((_DISTANCE, cost))[0])
            text.xy = points[nth].tolist()
            text.set_position(tuple(_AROUND[best].tolist()))
            taken.append(boxes[best])
            if text.arrow_patch is not None:
                text.arrow_patch.set_visible(bool(_DISTANCE[best] > 12 + radii[nth]))

    when_drawn(axes, place)


def _place_names(axes: Axes, named: Sequence[Label], renderer: RendererBase) -> list[Array]:
    """Each name where it covers least of those before it and crosses no roof; their corners, in pixels."""
    for label in named:
        if label.along:
            (x, y), _ = label.places[0]
            (x0, y0), (x1, y1) = axes.transData.transform([(x, y), (2 * x, 2 * y)])
            label.text.set(rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)), rotation_mode="anchor")
    flat = np.array([axes.transData.transform(n.places[0][0])[1] for n in named if not n.along])
    taken: list[Array] = []
    for label in named:
        boxes = np.array([label.put(place, renderer).get_points() for place in label.places])
        crossed = (boxes[:, :1, 1] < flat) & (flat < boxes[:, 1:, 1])
        cost = 2 * _overlaps(boxes, np.array(taken)) + (0 if label.along else crossed.sum(axis=1))
        best = int(np.argmin(cost))
        label.put(label.places[best], renderer)
        taken.append(boxes[best])
    return taken


def _overlaps(boxes: Array, others: Array) -> NDArray[np.int64]:
    """How many of the others, ``[others, 2, 2]`` corners, each of the boxes touches."""
    if not len(others):
        return np.zeros(len(boxes), dtype=np.int64)
    low, high = np.maximum(boxes[:, None, 0], others[:, 0]), np.minimum(boxes[:, None, 1], others[:, 1])
    return np.asarray((low <= high).all(axis=2).sum(axis=1))


def _inside(boxes: Array, frame: Array) -> NDArray[np.bool_]:
    return np.asarray(((boxes[:, 0] >= frame[0]) & (boxes[:, 1] <= frame[1])).all(axis=1))


def _box(text: Annotation, renderer: RendererBase) -> Bbox:
    """The rectangle of a text, in pixels, without its line, which goes as far as the mark."""
    from matplotlib.text import Text

    text.update_positions(renderer)
    return Text.get_window_extent(text, renderer)


def _write(axes: Axes, text: str, side: str, line: dict[str, object] | None = None) -> Annotation:
    height = "baseline" if line is None else "center"
    written = axes.annotate(text, (1, 1), (0, 0), textcoords="offset points", arrowprops=line, ha=side,
                            va=height, fontsize="small", zorder=4)  # fmt: skip
    written.set_in_layout(False)
    return written
