"""The roofline: operations of a step, under what the device could do at best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.engine.roofline import Roof, RooflinePoint
from moesim.errors import ConfigError, Fault
from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.labels import count, number, shorten, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

    from moesim.reporting.figures.theme import Theme

Array = NDArray[np.float64]

#: Operations that are named beside the figure; the rest are dots.
_NAMED = 18
#: Where the number of a dot is tried, in points from its middle.
_AROUND = [
    (r * math.cos(a), r * math.sin(a))
    for r in (9, 13, 18, 24, 31, 40, 52)
    for a in np.arange(12) * math.pi / 6
]


def roofline(
    points: Sequence[RooflinePoint],
    roofs: Sequence[Roof],
    *,
    metric: str = "attained arithmetic of the operations of a decode step",
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Operations at their operations per byte and per second, under the roofs of the device.

    Parameters
    ----------
    points
        As `moesim.result.Prediction.roofline` has them.
    roofs
        Those that the points name.

    Raises
    ------
    ConfigError
        Where no point can be drawn, or one names a roof that is not there.

    Examples
    --------
    >>> figure = roofline([RooflinePoint("experts", 2e12, 2e10, 0.01, "fp8")], [Roof("fp8", 2e15, 4e12)])
    >>> [figure.data[name][0] for name in ("intensity", "flops_per_s", "of_roof")]
    [100.0, 200000000000000.0, 0.5]
    """
    over = {roof.name: roof for roof in roofs}
    ordered = sorted(points, key=lambda point: (-point.seconds, point.op))
    drawn = [p for p in ordered if p.flops > 0 and p.bytes > 0 and p.seconds > 0 and p.roof in over]
    faults = [
        Fault("names a roof that is not there", p.op, p.roof, ", ".join(over))
        for p in points
        if p.roof not in over
    ]
    if faults or not drawn:
        raise ConfigError(
            faults or Fault("nothing here does arithmetic", "points", allowed="one operation at least")
        )
    x = np.array([p.flops / p.bytes for p in drawn])
    y = np.array([p.flops / p.seconds for p in drawn])
    share = y / np.array([over[p.roof].at(i) for p, i in zip(drawn, x, strict=True)])
    whole = sum(p.seconds for p in points)
    scale, unit = time_unit([drawn[0].seconds])
    used = [roof for roof in roofs if any(p.roof == roof.name for p in drawn)]
    place = {roof.name: nth for nth, roof in enumerate(used)}
    ridges = [roof.flops_per_s / roof.bytes_per_s for roof in used]
    ends = (min(x.min(), min(ridges)) / 3, max(x.max(), max(ridges)) * 6)
    heights = (min(y.min(), min(r.at(ends[0]) for r in used)) / 2, max(r.flops_per_s for r in used) * 4)

    def look(name: str, theme: Theme) -> dict[str, Any]:
        return theme.line("", place[name])

    def plot(axes: Axes, theme: Theme) -> None:
        from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

        axes.set(xscale="log", yscale="log", xlim=ends, ylim=heights)
        for roof in used:
            style = look(roof.name, theme)
            ridge = roof.flops_per_s / roof.bytes_per_s
            heights_of = [roof.at(ends[0]), roof.flops_per_s, roof.flops_per_s]
            axes.plot([ends[0], ridge, ends[1]], heights_of, linewidth=1.6, markersize=5, markevery=[1],
                      markerfacecolor=theme.paper, **style)  # fmt: skip
        for roof in used:
            rows = [nth for nth, p in enumerate(drawn) if p.roof == roof.name]
            style = look(roof.name, theme)
            axes.scatter(x[rows], y[rows], s=[_area(drawn[nth].seconds / whole) for nth in rows], alpha=0.8,
                         color=style["color"], marker=style["marker"], edgecolors=theme.paper, linewidths=0.6,
                         zorder=3)  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(numticks=8))
            axis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_xlabel("operations per byte, FLOP/byte")
        axes.set_ylabel("attained, FLOP/s")

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes, words = canvas.subplots(1, 2, width_ratios=(1.5, 1))
        plot(axes, theme)
        _list(words, drawn, share, whole, [look(p.roof, theme) for p in drawn])
        # Where things lie in points is known once the layout is; the canvas may be a part of a sheet.
        canvas.figure.draw_without_rendering()
        before = set(axes.get_children())
        radii = np.sqrt([_area(p.seconds / whole) for p in drawn]) / 2
        _number(axes, np.column_stack([x, y]), radii, _name_roofs(axes, used, ends), canvas.dpi / 72)
        for added in set(axes.get_children()) - before:
            added.set_in_layout(False)

    hottest = drawn[0]
    far = [p.op for p, part in zip(drawn, share, strict=True) if part < 0.3 and p.seconds > 0.02 * whole]
    idle = [p.op for p in ordered if p not in drawn]
    notes = [f"Far below: {', '.join(far[:6])} (see what bounds them)."] if far else []
    notes += [f"Not drawn, without arithmetic: {', '.join(idle[:6])}."] if idle else []
    notes += [f"Numbered are the {_NAMED} that take longest."] if len(drawn) > _NAMED else []
    caption = (
        "Each mark is an operation of one rank, all its runs together, as large as its share of the time. "
        "Nothing lies above the roof of its colour: the slope is the memory's bandwidth, the flat part the "
        "peak of the data type. What is missing to it is lost to what the list names, and to efficiency."
    )
    title = "Operations under the roofs of the device"
    return Figure(
        name="roofline",
        title=title,
        caption=" ".join([caption, *notes]),
        metric=metric,
        unit="FLOP/s against FLOP/byte",
        n=n or count(len(drawn), "operation"),
        seed=seed,
        data={
            "op": [p.op for p in drawn],
            "roof": [p.roof for p in drawn],
            "flops": [p.flops for p in drawn],
            "bytes": [p.bytes for p in drawn],
            "seconds": [p.seconds for p in drawn],
            "intensity": x.tolist(),
            "flops_per_s": y.tolist(),
            "of_roof": share.tolist(),
            "bound_by": [p.bound_by for p in drawn],
        },
        draw=draw,
        height_in=4.4,
        alt=(
            f"{title}. {hottest.op} takes longest, {number(hottest.seconds * scale)} {unit}, at "
            f"{number(x[0])} FLOP/byte and {share[0]:.0%} of its roof. Roofs: "
            + "; ".join(
                f"{r.name} {number(r.flops_per_s / 1e12)} TFLOP/s, {number(r.bytes_per_s / 1e12)} TB/s"
                for r in used
            )
            + "."
        ),
    )


def _area(share: float) -> float:
    """Of a mark, in square points."""
    return 22.0 + 260.0 * share


def _list(
    axes: Axes,
    points: Sequence[RooflinePoint],
    share: Array,
    whole: float,
    looks: Sequence[dict[str, Any]],
) -> None:
    """Names, times and limits of the numbered marks, each beside the mark of its roof."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(_NAMED + 0.5, -1))
    columns = ((0.09, "right"), (0.12, "left"), (0.63, "right"), (0.77, "right"), (0.80, "left"))
    rows = [("", "operation", "time", "of roof", "bound by")]
    for point, part in zip(points[:_NAMED], share, strict=False):
        time, limit = f"{point.seconds / whole:.1%}", shorten(point.bound_by, 12)
        rows.append(
            (str(len(rows)), shorten(point.op, 21), time, "<1%" if part < 0.005 else f"{part:.0%}", limit)
        )
    for nth, cells in enumerate(rows):
        for (at, side), cell in zip(columns, cells, strict=True):
            axes.text(at, nth - 0.4, cell, ha=side, fontsize=7.5)
    for nth, look in enumerate(looks[:_NAMED]):
        axes.plot(0.01, nth + 0.4, markersize=4, clip_on=False, **(look | {"linestyle": ""}))


def _name_roofs(axes: Axes, roofs: Sequence[Roof], ends: tuple[float, float]) -> list[Bbox]:
    """Write each peak on its roof, and each bandwidth along its slope; where they are, in pixels."""
    peaks: dict[float, list[str]] = {}
    for roof in roofs:
        peaks.setdefault(roof.flops_per_s, []).append(roof.name)
    lines = axes.transData.transform([(ends[1], peak) for peak in peaks])[:, 1]
    found: list[Bbox] = []

    def place(text: Annotation, places: Iterable[tuple[tuple[float, float], tuple[float, float]]]) -> None:
        """The first place, or the one that covers least."""

        def cost(at: tuple[tuple[float, float], tuple[float, float]]) -> int:
            text.xy, offset = at
            text.set_position(offset)
            box = text.get_window_extent()
            crossed = sum(box.y0 < line < box.y1 for line in lines) if text.get_rotation() == 0 else 0
            return 2 * sum(box.overlaps(other) for other in found) + crossed

        best = min(places, key=cost)
        cost(best)
        found.append(text.get_window_extent())

    for peak, names in sorted(peaks.items()):
        text = f"{shorten(', '.join(names), 40)}: {number(peak / 1e12)} TFLOP/s"
        written = axes.annotate(text, (ends[1], peak), (0, 0), textcoords="offset points", ha="right",
                                fontsize=7.5)  # fmt: skip
        at = (ends[1], peak)
        place(written, [(at, (dx, dy)) for dx in (-3, -110, -220) for dy in (3, -9.5)])
    for slope in sorted({roof.bytes_per_s for roof in roofs}):
        low = ends[0] * 1.15
        start, end = axes.transData.transform([(low, low * slope), (low * 2, low * 2 * slope)])
        angle = math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))
        speed = f"{number(slope / 1e12)} TB/s"
        written = axes.annotate(speed, (low, low * slope), (0, 0), textcoords="offset points",
                                rotation=angle, rotation_mode="anchor", fontsize=7.5)  # fmt: skip
        place(written, [((low * 3**k, low * 3**k * slope), (0, dy)) for k in range(4) for dy in (3, -10)])
    return found


def _number(axes: Axes, points: Array, radii: Array, taken: list[Bbox], pixels: float) -> None:
    """Number marks from 1, each where it covers nothing, with a line to its mark where that is not near.

    Offsets and radii are in points, of so many `pixels`.
    """
    from matplotlib.transforms import Bbox

    marks, reach = axes.transData.transform(points), radii * pixels
    frame, taken = axes.get_window_extent(), list(taken)
    for nth, mark in enumerate(marks[:_NAMED]):
        half = np.array([2.6 * len(str(nth + 1)) + 0.5, 4.2]) * pixels

        def cost(offset: tuple[float, float], mark: Array = mark, half: Array = half) -> tuple[float, float]:
            middle = mark + np.array(offset) * pixels
            box = Bbox([middle - half, middle + half])
            outside = not (frame.contains(*box.min) and frame.contains(*box.max))
            covered = sum(box.overlaps(other) for other in taken)
            hidden = (np.abs(marks - middle) < half + reach[:, None]).all(axis=1).sum()
            return (100.0 * outside + 10.0 * covered + hidden, math.hypot(*offset))

        best = min(_AROUND, key=cost)
        middle = mark + np.array(best) * pixels
        taken.append(Bbox([middle - half, middle + half]))
        line = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0,
                "color": axes.xaxis.label.get_color()}  # fmt: skip
        axes.annotate(str(nth + 1), points[nth], xytext=best, textcoords="offset points", ha="center",
                      va="center_baseline", fontsize=7.5, zorder=4,
                      arrowprops=line if math.hypot(*best) > 12 + radii[nth] else None)  # fmt: skip
