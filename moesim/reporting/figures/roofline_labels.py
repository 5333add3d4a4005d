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

#: Where a number is tried, in points from the middle of its mark, the nearest first.
_AROUND = [
    (r * math.cos(turn), r * math.sin(turn))
    for r in (9, 13, 18, 24, 31, 40, 52)
    for turn in np.arange(16) * math.pi / 8
]


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
        from matplotlib.text import Text

        self.text.xy, offset = place
        self.text.set_position(offset)
        # Without its line, which goes as far as the mark.
        self.text.update_positions(renderer)
        return Text.get_window_extent(self.text, renderer)


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
    ends = np.geomspace(*axes.get_xlim(), 300)
    on_roofs = np.array([(x, roof.at(x)) for roof in roofs for x in ends])
    line = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0}
    named, numbers = _name_roofs(axes, roofs), []
    for nth, (x, y) in enumerate(points[:numbered].tolist()):
        text = _write(axes, str(nth + 1), "center", line | {"color": axes.xaxis.label.get_color()})
        numbers.append(Label(text, [((x, y), offset) for offset in _AROUND]))

    def place(renderer: RendererBase) -> None:
        frame, taken = axes.get_window_extent(), list[Bbox]()
        marks = axes.transData.transform(points)
        reach = np.asarray(radii)[:, None] * float(np.asarray(renderer.points_to_pixels(1.0)))
        for roof in named:
            if roof.along:
                (x, y), _ = roof.places[0]
                (x0, y0), (x1, y1) = axes.transData.transform([(x, y), (2 * x, 2 * y)])
                roof.text.set(rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)), rotation_mode="anchor")
        lines = axes.transData.transform(on_roofs)
        flat = [axes.transData.transform(roof.places[0][0])[1] for roof in named if not roof.along]

        def on_roof(label: Label, place: tuple[Point, Point]) -> float:
            box = label.put(place, renderer)
            crossed = 0 if label.along else sum(box.y0 < y < box.y1 for y in flat)
            return 2 * sum(box.overlaps(other) for other in taken) + crossed

        def at_mark(label: Label, place: tuple[Point, Point]) -> tuple[float, float]:
            box = label.put(place, renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            low, high = np.array(box.min), np.array(box.max)
            hidden = ((low - reach < marks) & (marks < high + reach)).all(axis=1).sum()
            hidden += ((low < lines) & (lines < high)).all(axis=1).any()
            covered = sum(box.overlaps(other) for other in taken)
            return 100 * (not inside) + 10 * covered + int(hidden), math.hypot(*place[1])

        for label in named:
            costs = [on_roof(label, place) for place in label.places]
            taken.append(label.put(label.places[int(np.argmin(costs))], renderer))
        for label, radius in zip(numbers, radii, strict=False):
            _, best = min((at_mark(label, place), place) for place in label.places)
            taken.append(label.put(best, renderer))
            if label.text.arrow_patch is not None:
                label.text.arrow_patch.set_visible(math.hypot(*best[1]) > 12 + radius)

    from matplotlib.transforms import Bbox

    when_drawn(axes, place)


def _write(axes: Axes, text: str, side: str, line: dict[str, object] | None = None) -> Annotation:
    height = "baseline" if line is None else "center"
    written = axes.annotate(text, (1, 1), (0, 0), textcoords="offset points", arrowprops=line, ha=side,
                            va=height, fontsize="small", zorder=4)  # fmt: skip
    written.set_in_layout(False)
    return written
