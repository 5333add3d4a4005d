"""The roofline: operations of a step, under what the device could do at best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.engine.roofline import Roof, RooflinePoint
from moesim.errors import ConfigError, Fault
from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.labels import count, number, shorten, time_unit
from moesim.reporting.figures.roofline_labels import place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

Array = NDArray[np.float64]

#: Operations that are named beside the figure; the rest are dots.
_NAMED = 18


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
        radii = np.sqrt([_area(p.seconds / whole) for p in drawn]) / 2
        place_labels(axes, used, np.column_stack([x, y]), radii, _NAMED)

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
            axes.text(at, nth - 0.4, cell, ha=side, fontsize="small")
    for nth, look in enumerate(looks[:_NAMED]):
        axes.plot(0.01, nth + 0.4, markersize=4, clip_on=False, **(look | {"linestyle": ""}))
