"""What load does: throughput against the time that a token takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import F8, Checks, legend_below, legend_in, listed, plain, quantity
from moesim.reporting.figures.labels import count, number, shorten
from moesim.reporting.figures.limits import limit_line
from moesim.reporting.figures.theme import LINES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.limits import limit_line
from moesim.reporting.figures.theme import Theme

#: Of an axis, between two points that are both labelled.
_ROOM = 0.07


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """A deployment at one load.

    Parameters
    ----------
    concurrency
        Requests at a time.
    tpot_s
        Time per output token; None where the load does not fit.
    output_throughput
        Tokens per second; None where the load does not fit.
    """

    concurrency: float
    tpot_s: float | None
    output_throughput: float | None


def load_curve(
    curves: Mapping[str, Sequence[LoadPoint]],
    *,
    limit_s: float | None = None,
    metric: str = "output_throughput",
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Throughput against time per output token as load grows.

    Parameters
    ----------
    curves
        Loads of each deployment, by name; those that do not fit are left out, and said.
    limit_s
        What was promised of the time per output token.
    metric
        What throughput is meant: ``output_throughput`` or ``output_throughput_per_device``.
    n
        What was asked, in words.
    seed
        Of what was drawn.

    Raises
    ------
    ConfigError
        If nothing fits.

    Examples
    --------
    >>> loads = [LoadPoint(c, 0.01 + 1e-4 * c, c / (0.01 + 1e-4 * c)) for c in (16, 64, 256)]
    >>> load_curve({"tp8": loads}, limit_s=0.02).alt
    'Most within 20 ms: tp8 3,902 tokens/s at 64 requests (16.4 ms).'
    """
    checks = Checks()
    checks.some("curves", curves)
    if limit_s is not None:
        checks.numbers("limit_s", [limit_s], low=0.0)
    drawn: dict[str, F8] = {}
    lost = 0
    for name, points in curves.items():
        where = f"curves.{shorten(name)}"
        rows = [[p.concurrency, p.tpot_s, p.output_throughput] for p in points]
        table = checks.numbers(where, rows, shape=(None, 3), low=0.0, gaps=True) if rows else np.zeros((0, 3))
        fits = np.isfinite(table).all(axis=1)
        lost += int((~fits).sum())
        drawn[name] = table[fits][np.argsort(table[fits][:, 0], kind="stable")]
    if curves and not any(len(table) for table in drawn.values()):
        checks.numbers("curves", [np.nan], gaps=True)
    checks.done()
    tpot, rate = quantity("tpot_s"), quantity(metric)
    best = {
        name: table[table[:, 1] <= limit_s][-1:] if limit_s is not None else table[-1:]
        for name, table in drawn.items()
    }

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        for i, (name, table) in enumerate(drawn.items()):
            colour, marker = theme.series[i % len(theme.series)], MARKERS[i % len(MARKERS)]
            axes.plot(
                table[:, 1] * tpot.scale,
                table[:, 2] * rate.scale,
                color=colour,
                linestyle=LINES[i % len(LINES)],
                marker=marker,
                markersize=5,
                label=shorten(name),
            )
            _loads(axes, table, tpot.scale, rate.scale)
        axes.margins(0.08)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if limit_s is not None:
            at = limit_s * tpot.scale
            if limit_line(axes, theme, "x", at, f"limit {tpot.text(limit_s)}"):
                axes.set_xlim(right=max(axes.get_xlim()[1], 1.05 * at))
        plain(axes.yaxis)
        axes.set_xlabel(tpot.axis)
        axes.set_ylabel(rate.axis)
        legend_below(canvas, 7.5, *axes.get_legend_handles_labels())

    said = "; ".join(
        f"{shorten(name)} {rate.text(row[0, 2])} at {number(row[0, 0])} requests ({tpot.text(row[0, 1])})"
        if len(row)
        else f"{shorten(name)} no load"
        for name, row in best.items()
    )
    within = "at the largest load" if limit_s is None else f"within {tpot.text(limit_s)}"
    gone = f" Left out: {count(lost, 'load')} that does not fit." if lost == 1 else ""
    gone = f" Left out: {count(lost, 'load')} that do not fit." if lost > 1 else gone
    stacked = [(name, row) for name, table in drawn.items() for row in table]
    return Figure(
        "load_curve",
        "Throughput and time per output token as load grows",
        f"Numbers are requests at a time; better is higher and further left. Most {within}: {said}.{gone}",
        f"{rate.words} against {tpot.words}",
        f"{rate.unit} against {tpot.unit}",
        n or f"{count(len(stacked), 'load')} of {count(len(drawn), 'deployment')}",
        seed,
        {
            "deployment": [name for name, _ in stacked],
            "concurrency": listed(np.array([row[0] for _, row in stacked])),
            "tpot_s": listed(np.array([row[1] for _, row in stacked])),
            metric: listed(np.array([row[2] for _, row in stacked])),
        },
        draw,
        7.5,
        3.7 + legend_in(list(map(shorten, drawn)), 7.5),
        f"Most {within}: {said}.",
    )


def _loads(axes: Axes, table: F8, x: float, y: float) -> None:
    """Loads written beside the points that have room for it."""
    span = np.maximum(table[:, 1:].max(axis=0), 1e-300)
    last = np.full(2, -np.inf)
    for at in range(len(table)):
        place = table[at, 1:] / span
        if np.abs(place - last).max() < _ROOM:
            continue
        last = place
        axes.annotate(
            number(table[at, 0]),
            (table[at, 1] * x, table[at, 2] * y),
            xytext=(5, -9),
            textcoords="offset points",
            fontsize="x-small",
        )
