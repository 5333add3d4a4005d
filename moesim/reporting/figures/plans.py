"""Plans by two metrics, and those that no other beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import (
    F8,
    Checks,
    apart,
    kinds_of,
    legend_below,
    plain,
    quantity,
)
from moesim.reporting.figures.labels import count, shorten
from moesim.reporting.figures.limits import limit_line
from moesim.reporting.figures.theme import MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: What is said of a plan, in words; it is drawn filled, crossed or hollow.
STATUS = {
    "confirmed": "simulation agrees",
    "refuted": "simulation does not agree",
    "": "not simulated",
}
#: Plans of the front that are numbered, and listed in words.
_NAMED = 8
#: From one end of an axis to the other, beyond which it is logarithmic.
_FAR = 8.0


@dataclass(frozen=True, slots=True)
class PlanPoint:
    """A configuration in a figure.

    Parameters
    ----------
    name
        In words.
    values
        Its metrics, in SI: ``usd_per_hour``, ``tpot_s``, ``output_throughput``...
    status
        ``confirmed`` or ``refuted`` by simulation; empty where it was not simulated.
    group
        What it is coloured by, such as its hardware.
    chosen
        Whether it is the answer.
    """

    name: str
    values: Mapping[str, float | None] = field(default_factory=dict)
    status: str = ""
    group: str = ""
    chosen: bool = False


def front_of(x: F8, y: F8, less_x: bool = True, less_y: bool = True) -> list[int]:
    """Places of points that no other is as good as in both and better in one, by `x`; of equals, the first.

    >>> front_of(np.array([1.0, 2.0, 2.0, 3.0, 1.0]), np.array([3.0, 2.0, 3.0, 2.0, 3.0]))
    [0, 1]
    """
    a, b = (x if less_x else -x), (y if less_y else -y)
    found, best = [], np.inf
    for i in np.lexsort((np.arange(len(a)), b, a)):
        if b[i] < best:
            found.append(int(i))
            best = b[i]
    return found


def pareto_front(
    points: Sequence[PlanPoint],
    *,
    x: str = "usd_per_hour",
    y: str = "tpot_s",
    limit: float | None = None,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Configurations by two metrics, with those that no other beats in both.

    Parameters
    ----------
    points
        What was looked at; those without a finite value of both metrics are left out, and said.
    x, y
        Metrics.
    limit
        What was promised of `y`, in SI.
    n
        What was counted, in words.
    seed
        Of the simulation.

    Raises
    ------
    ConfigError
        If no point has both values, or a status is none.

    Examples
    --------
    >>> plans = (("a", 10, 0.02, "confirmed"), ("b", 20, 0.03, ""), ("c", 9, 0.01, "refuted"))
    >>> points = [PlanPoint(name, {"usd_per_hour": usd, "tpot_s": s}, how) for name, usd, s, how in plans]
    >>> pareto_front(points).data["on_front"]
    [True, False, False]
    """
    checks = Checks()
    checks.some("points", points)
    table = np.array([[p.values.get(name) for name in (x, y)] for p in points], np.float64).reshape(-1, 2)
    for p in points:
        if p.status not in STATUS:
            checks.unknown(f"points.{shorten(p.name)}.status", p.status, STATUS)
    if limit is not None:
        checks.numbers("limit", [limit])
    known = np.asarray(np.isfinite(table).all(axis=1))
    if len(points) and not known.any():
        checks.numbers(f"points.{x} and points.{y}", np.where(known, 1.0, np.nan), gaps=True)
    checks.done()
    drawn = [p for p, k in zip(points, known, strict=True) if k]
    as_x, as_y = quantity(x), quantity(y)
    xs, ys = table[known].T
    # What the simulator refuted does not do what it says.
    holds = np.flatnonzero([p.status != "refuted" for p in drawn])
    front = [int(holds[i]) for i in front_of(xs[holds], ys[holds], as_x.less, as_y.less)]
    best = np.isin(np.arange(len(drawn)), front)

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        places = xs * as_x.scale, ys * as_y.scale
        for values, set_scale in zip(places, (axes.set_xscale, axes.set_yscale), strict=True):
            if values.min() > 0 and values.max() > _FAR * values.min():
                set_scale("log")
        stairs = "steps-post" if as_x.less else "steps-pre"
        axes.plot(places[0][front], places[1][front], color=theme.ink, linewidth=1, drawstyle=stairs)
        legend = _dots(axes, theme, drawn, places, best)
        if limit is not None:
            limit_line(axes, theme, "y", limit * as_y.scale, f"limit {as_y.text(limit)}")
        for axis, one in ((axes.xaxis, as_x), (axes.yaxis, as_y)):
            plain(axis)
            axis.set_label_text(one.axis)
        for nth, i in enumerate(front[:_NAMED], 1):
            at = places[0][i], places[1][i]
            axes.annotate(str(nth), at, xytext=(6, 6), textcoords="offset points", fontsize="small")
        legend_below(canvas, 7.5, list(legend.values()), list(legend))

    listing = "; ".join(
        f"({nth}) {shorten(drawn[i].name, 60)}: {as_x.text(xs[i])}, {as_y.text(ys[i])}"
        for nth, i in enumerate(front[:_NAMED], 1)
    )
    more = f"; and {len(front) - _NAMED} more" if len(front) > _NAMED else ""
    missing = f" Left out, without both values: {len(points) - len(drawn)}." if not known.all() else ""
    better = f"{'lower' if as_y.less else 'higher'} and further {'left' if as_x.less else 'right'}"
    return Figure(
        "pareto_front",
        f"{as_y.words[0].upper()}{as_y.words[1:]} against {as_x.words}",
        f"Better is {better}. On the line: what no other beats in both, of those not refuted. Faint: the "
        f"others. {listing}{more}.{missing}",
        f"{as_y.words} against {as_x.words}",
        f"{as_y.unit or '1'} against {as_x.unit or '1'}",
        n or count(len(drawn), "configuration"),
        seed,
        {
            "name": [p.name for p in drawn],
            "group": [p.group for p in drawn],
            "status": [p.status or "not simulated" for p in drawn],
            "chosen": [p.chosen for p in drawn],
            x: xs.tolist(),
            y: ys.tolist(),
            "on_front": best.tolist(),
        },
        draw,
        7.5,
        4.4,
        f"{len(front)} of {len(drawn)} configurations are beaten by no other in both: {listing}{more}.",
    )


def _dots(
    axes: Axes,
    theme: Theme,
    points: Sequence[PlanPoint],
    places: tuple[F8, F8],
    best: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """Points: a marker and a colour for a group, what is inside for a status; and what the legend says."""
    kinds = kinds_of([p.group for p in points])
    nth = {name: i for i, names in enumerate(kinds.values()) for name in names}
    status, group = np.array([p.status for p in points]), np.array([nth[p.group] for p in points])

    def dots(which: int, how: str, those: Any, **more: Any) -> tuple[Any, ...]:  # noqa: ANN401
        colour = theme.series[which % len(theme.series)] if which >= 0 else theme.dim
        inside = colour if how == "confirmed" else "none"
        looks = {"color": colour, "markerfacecolor": inside, "linestyle": "none", "markersize": 7.0, **more}
        shape = axes.plot(places[0][those], places[1][those], marker=MARKERS[max(which, 0)], **looks)
        cross = {**looks, "markersize": 1.6 * looks["markersize"]}
        return *shape, *(
            axes.plot(places[0][those], places[1][those], marker="x", **cross) if how == "refuted" else ()
        )

    for how, which, front in product(STATUS, range(len(kinds)), (False, True)):
        those = np.flatnonzero((status == how) & (group == which) & (best == front))
        those = those[apart(places[0][those], places[1][those])]
        if len(those):
            looks = {"zorder": 3} if front else {"zorder": 2, "markersize": 5.0, "alpha": 0.45}
            dots(which, how, those, **looks)
    chosen = [i for i, p in enumerate(points) if p.chosen]
    ring: dict[str, Any] = {"marker": "o", "color": theme.ink, "markerfacecolor": "none", "linestyle": "none"}
    legend: dict[str, Any] = {
        words: dots(-1, how, []) for how, words in STATUS.items() if (status == how).any()
    }
    for which, name in enumerate(kinds if len(kinds) > 1 else ()):
        legend[shorten(name or "other")] = dots(which, "confirmed", [])
    circle = axes.plot(places[0][chosen], places[1][chosen], markersize=14, zorder=4, **ring)
    return legend | ({"chosen": axes.plot([], [], markersize=10, **ring)[0]} if circle and chosen else {})
