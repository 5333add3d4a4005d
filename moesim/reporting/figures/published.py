"""Figures of published systems: how near ours is to what each published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import Checks, legend_below, percent
from moesim.reporting.figures.labels import count, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: What is said of a row, best first: the marker, and the place of its colour in a theme's series.
VERDICTS = {
    "reproduced": ("o", 2),
    "assumption-bound": ("s", 0),
    "direction": ("^", 4),
    "not reproduced": ("X", 1),
}
#: Beyond this ratio and its inverse, points are drawn at the edge.
_REACH = 10.0


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One published figure and ours.

    Parameters
    ----------
    system
        Whose.
    ratio
        Ours over published; None where one of them is missing.
    verdict
        One of `VERDICTS`.
    low, high
        Between what the ratio lies over the plausible values of what the source leaves open; None where
        nothing is.
    """

    system: str
    ratio: float | None
    verdict: str
    low: float | None = None
    high: float | None = None


def scoreboard(
    rows: Sequence[ScoreRow],
    *,
    tolerance: float = 0.15,
    what: str = "system",
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Ours over published, a line per row, nearest on top.

    Parameters
    ----------
    rows
        What is compared; those without a ratio are left out, and said.
    tolerance
        What counts as reproduced: shaded.
    what
        What a row is.
    n
        What was compared, in words.
    seed
        Of what was drawn.

    Raises
    ------
    ConfigError
        If no row has a ratio, or a verdict is none.

    Examples
    --------
    >>> scoreboard([ScoreRow("a", 1.5, "direction"), ScoreRow("b", 0.9, "reproduced", 0.7, 1.2)]).alt
    '1 reproduced, 1 direction; 1 of 2 within 15 %.'
    """
    known, lost = _known(rows, tolerance)
    order = sorted(known, key=lambda row: (abs(np.log(row.ratio or 1.0)), row.system))

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        axes.axvspan(1 - tolerance, 1 + tolerance, color=theme.grid, linewidth=0)
        axes.axvline(1.0, color=theme.ink, linewidth=1)
        for at, row in enumerate(order):
            marker, nth = VERDICTS[row.verdict]
            if row.low is not None and row.high is not None:
                axes.plot(
                    [_place(row.low), _place(row.high)],
                    [at, at],
                    color=theme.series[nth],
                    linewidth=2.5,
                    alpha=0.4,
                    solid_capstyle="butt",
                )
            axes.plot(_place(row.ratio or 1.0), at, marker, color=theme.series[nth], markersize=5, zorder=3)
        _ratios(axes)
        axes.set_yticks(range(len(order)), [shorten(row.system) for row in order], fontsize="small")
        axes.set_ylim(len(order) - 0.3, -0.7)
        axes.grid(True, axis="y", linewidth=0.4)
        axes.set_xlabel("ours over published")
        _legend(canvas, theme, order)

    counts = _counts(order)
    near = sum(abs((row.ratio or 0.0) - 1.0) <= tolerance for row in order)
    return Figure(
        "scoreboard",
        f"Ours over published, by {what}",
        f"{counts}; {near} of {len(order)} within {percent(tolerance)} (shaded). Bars: over the plausible "
        f"values of what a source leaves open. Beyond {_REACH:g} times, at the edge.{lost}",
        "ours over published",
        "ratio",
        n or count(len(order), what),
        seed,
        {
            what: [row.system for row in order],
            "ratio": [row.ratio for row in order],
            "low": [row.low for row in order],
            "high": [row.high for row in order],
            "verdict": [row.verdict for row in order],
        },
        draw,
        7.5,
        1.3 + 0.19 * len(order),
        f"{counts}; {near} of {len(order)} within {percent(tolerance)}.",
    )


def ratio_histogram(
    rows: Sequence[ScoreRow],
    *,
    tolerance: float = 0.15,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """How the ratios of many rows are spread, by verdict.

    Parameters
    ----------
    rows
        What is compared; those without a ratio are left out, and said.
    tolerance
        What counts as reproduced: shaded.
    n
        What was compared, in words.
    seed
        Of what was drawn.

    Raises
    ------
    ConfigError
        If no row has a ratio, or a verdict is none.

    Examples
    --------
    >>> ratio_histogram([ScoreRow("a", 1.5, "direction")]).alt
    '1 direction; 0 % within 15 %.'
    """
    known, lost = _known(rows, tolerance)
    edges = _REACH ** np.linspace(-1.0, 1.0, 41)
    ratios = {
        verdict: np.array([_place(row.ratio or 1.0) for row in known if row.verdict == verdict])
        for verdict in VERDICTS
    }
    heights = {verdict: np.histogram(values, edges)[0] for verdict, values in ratios.items()}

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        axes.axvspan(1 - tolerance, 1 + tolerance, color=theme.grid, linewidth=0)
        floor = np.zeros(len(edges) - 1)
        for (verdict, height), hatch in zip(heights.items(), ("", "////", "xxxx", "\\\\\\\\"), strict=True):
            axes.bar(
                edges[:-1],
                height,
                np.diff(edges),
                floor,
                align="edge",
                color=theme.series[VERDICTS[verdict][1]],
                edgecolor=theme.paper,
                hatch=hatch,
                linewidth=0.5,
                label=f"{verdict} ({int(height.sum())})",
            )
            floor += height
        _ratios(axes)
        axes.set_xlabel("ours over published")
        axes.set_ylabel("rows")
        legend_below(canvas, 7.5, *axes.get_legend_handles_labels())

    counts = _counts(known)
    inside = np.mean([abs((row.ratio or 0.0) - 1.0) <= tolerance for row in known])
    return Figure(
        "ratio_histogram",
        "Ours over published, all rows",
        f"{counts}; {percent(float(inside))} within {percent(tolerance)} (shaded). Beyond {_REACH:g} "
        f"times, at the edge.{lost}",
        "ours over published",
        "ratio",
        n or count(len(known), "row"),
        seed,
        {
            "from": edges[:-1].tolist(),
            "to": edges[1:].tolist(),
            **{verdict: height.tolist() for verdict, height in heights.items()},
        },
        draw,
        7.5,
        3.2,
        f"{counts}; {percent(float(inside))} within {percent(tolerance)}.",
    )


def _known(rows: Sequence[ScoreRow], tolerance: float) -> tuple[list[ScoreRow], str]:
    """Rows with a ratio, and what is said of the others."""
    checks = Checks()
    checks.some("rows", rows)
    checks.numbers("tolerance", [tolerance], low=0.0, high=0.99)
    for row in rows:
        if row.verdict not in VERDICTS:
            checks.unknown(f"rows.{shorten(row.system)}.verdict", row.verdict, VERDICTS)
    known = [row for row in rows if row.ratio is not None and np.isfinite(row.ratio) and row.ratio > 0]
    if rows and not known:
        checks.numbers("rows.ratio, positive", [np.nan], gaps=True)
    checks.done()
    lost = len(rows) - len(known)
    return known, f" Left out: {lost} without a ratio." if lost else ""


def _place(ratio: float) -> float:
    return min(max(ratio, 1 / _REACH), _REACH)


def _counts(rows: Sequence[ScoreRow]) -> str:
    return ", ".join(
        f"{n} {verdict}" for verdict in VERDICTS if (n := sum(row.verdict == verdict for row in rows))
    )


def _legend(canvas: Canvas, theme: Theme, rows: Sequence[ScoreRow]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=theme.series[nth], label=f"{verdict} ({n})")
        for verdict, (marker, nth) in VERDICTS.items()
        if (n := sum(row.verdict == verdict for row in rows))
    ]
    legend_below(canvas, 7.5, handles, [str(handle.get_label()) for handle in handles])


def _ratios(axes: Axes) -> None:
    """A logarithmic axis of ratios, a little beyond what is drawn."""
    axes.set_xscale("log")
    axes.set_xlim(0.9 / _REACH, _REACH * 1.1)
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
