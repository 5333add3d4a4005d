"""Figures of plans: what is worth its cost, what would change the answer, what load does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import F8, Checks, listed, quantity
from moesim.reporting.figures.labels import count, number, shorten
from moesim.reporting.figures.theme import LINES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: What is said of a plan, with the marker that says it.
STATUS = {"confirmed": "o", "refuted": "X", "": "D"}
_NAMED = 8
_EFFECTS = 20
#: Of an axis, between two points that are both labelled.
_ROOM = 0.07


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


@dataclass(frozen=True, slots=True)
class Effect:
    """What one input does to a metric.

    Parameters
    ----------
    name
        The input.
    low, high
        The metric at either end of the input's range, in SI; None for a range with one end.
    low_input, high_input
        The ends, in words: ``"-10 %"``, ``"3.35 TB/s"``.
    """

    name: str
    low: float | None
    high: float | None
    low_input: str = ""
    high_input: str = ""

    def swing(self, base: float) -> float:
        """From the least to the most of the metric."""
        ends = [base, *(end for end in (self.low, self.high) if end is not None)]
        return max(ends) - min(ends)


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
    xs, ys = table[known].T
    as_x, as_y = quantity(x), quantity(y)
    # What the simulator refuted does not do what it says.
    holds = np.flatnonzero([p.status != "refuted" for p in drawn])
    front = [int(holds[i]) for i in front_of(xs[holds], ys[holds], as_x.less, as_y.less)]
    on_front = set(front)
    groups = list(dict.fromkeys(p.group for p in drawn))
    words = {"confirmed": "simulation agrees", "refuted": "simulation does not agree", "": "not simulated"}

    def draw(canvas: Canvas, theme: Theme) -> None:
        from matplotlib.lines import Line2D

        axes = canvas.add_subplot()
        if limit is not None:
            axes.axhline(limit * as_y.scale, color=theme.role["limit"], linestyle=(0, (5, 2)))
            axes.annotate(
                f"limit {as_y.text(limit)}",
                (1, limit * as_y.scale),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 1},
                fontsize="small",
            )
        axes.plot(
            xs[front] * as_x.scale,
            ys[front] * as_y.scale,
            color=theme.ink,
            linewidth=1.0,
            drawstyle="steps-post" if as_x.less else "steps-pre",
        )
        for i, p in enumerate(drawn):
            colour = theme.series[groups.index(p.group) % len(theme.series)]
            axes.plot(
                xs[i] * as_x.scale,
                ys[i] * as_y.scale,
                STATUS[p.status],
                color=colour,
                markerfacecolor="none" if p.status == "" else colour,
                markersize=7 if i in on_front else 5,
                alpha=1.0 if i in on_front else 0.4,
                zorder=3 if i in on_front else 2,
            )
            if p.chosen:
                axes.plot(
                    xs[i] * as_x.scale,
                    ys[i] * as_y.scale,
                    "o",
                    color=theme.ink,
                    markerfacecolor="none",
                    markersize=14,
                    zorder=4,
                )
        for nth, i in enumerate(front[:_NAMED], 1):
            axes.annotate(
                str(nth),
                (xs[i] * as_x.scale, ys[i] * as_y.scale),
                xytext=(6, 6),
                textcoords="offset points",
                fontsize="small",
            )
        for values, quantity_, axis, set_scale in (
            (xs, as_x, axes.xaxis, axes.set_xscale),
            (ys, as_y, axes.yaxis, axes.set_yscale),
        ):
            if values.min() > 0 and values.max() > 20 * values.min():
                set_scale("log")
            axis.set_major_formatter("{x:,g}")
            axis.set_label_text(quantity_.axis)
        used = [s for s in STATUS if any(p.status == s for p in drawn)]
        handles = [
            Line2D([], [], linestyle="none", marker=STATUS[s], color=theme.dim,
                   markerfacecolor="none" if s == "" else theme.dim, label=words[s])
            for s in used
        ]  # fmt: skip
        if len(groups) > 1:
            handles += [
                Line2D(
                    [],
                    [],
                    linewidth=5,
                    color=theme.series[i % len(theme.series)],
                    label=shorten(g or "other"),
                )
                for i, g in enumerate(groups)
            ]
        if any(p.chosen for p in drawn):
            handles.append(
                Line2D([], [], linestyle="none", marker="o", markersize=11, markerfacecolor="none",
                       color=theme.ink, label="chosen")
            )  # fmt: skip
        canvas.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize="small"
        )

    listing = "; ".join(
        f"{nth} {shorten(drawn[i].name, 60)}: {as_x.text(xs[i])}, {as_y.text(ys[i])}"
        for nth, i in enumerate(front[:_NAMED], 1)
    )
    more = f"; and {len(front) - _NAMED} more" if len(front) > _NAMED else ""
    out = len(points) - len(drawn)
    missing = f" Left out, without both values: {out}." if out else ""
    better = f"{'lower' if as_y.less else 'higher'} and further {'left' if as_x.less else 'right'}"
    return Figure(
        "pareto_front",
        f"{as_y.words.capitalize() if as_y.words.islower() else as_y.words[0].upper() + as_y.words[1:]} "
        f"against {as_x.words}",
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
            "on_front": [i in on_front for i in range(len(drawn))],
        },
        draw,
        7.5,
        4.4,
        f"{len(front)} of {len(drawn)} configurations are beaten by no other in both: {listing}{more}.",
    )


def sensitivity_tornado(
    effects: Sequence[Effect],
    metric: str,
    base: float,
    *,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """What a metric becomes at either end of each input's range, the most telling input on top.

    Parameters
    ----------
    effects
        One per input.
    metric
        The metric.
    base
        Its value with every input as it is, in SI.
    n
        What was asked, in words.
    seed
        Of what was drawn.

    Raises
    ------
    ConfigError
        If there are no effects, or an effect has no end.
    """
    checks = Checks()
    checks.some("effects", effects)
    checks.numbers("base", [base])
    for effect in effects:
        checks.numbers(f"effects.{shorten(effect.name)}", [effect.low, effect.high], gaps=True)
    checks.done()
    as_drawn = quantity(metric)
    ordered = sorted(effects, key=lambda effect: (-effect.swing(base), effect.name))
    shown, rest = ordered[:_EFFECTS], ordered[_EFFECTS:]

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        ends = [base]
        for row, effect in enumerate(shown):
            for side, value, words, role, hatch in (
                ("low", effect.low, effect.low_input, "before", "////"),
                ("high", effect.high, effect.high_input, "after", ""),
            ):
                if value is None:
                    continue
                ends.append(value)
                axes.barh(
                    row,
                    (value - base) * as_drawn.scale,
                    0.62,
                    left=base * as_drawn.scale,
                    color="none" if hatch else theme.role[role],
                    edgecolor=theme.role[role],
                    hatch=hatch,
                    label=f"{side} end of the range" if row == 0 else None,
                )
                right = value > base or (value == base and side == "high")
                axes.annotate(
                    shorten(words, 20),
                    (value * as_drawn.scale, row),
                    xytext=(4 if right else -4, 0),
                    textcoords="offset points",
                    ha="left" if right else "right",
                    va="center",
                    fontsize="small",
                )
        axes.axvline(base * as_drawn.scale, color=theme.ink, linewidth=1)
        span = (max(ends) - min(ends)) * as_drawn.scale or abs(base) * as_drawn.scale or 1.0
        axes.set_xlim(min(ends) * as_drawn.scale - 0.18 * span, max(ends) * as_drawn.scale + 0.18 * span)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_yticks(range(len(shown)), [shorten(effect.name) for effect in shown])
        axes.grid(False, axis="y")
        axes.set_xlabel(as_drawn.axis)
        handles, names = axes.get_legend_handles_labels()
        if len(names) > 1:
            canvas.legend(handles, names, loc="outside lower center", ncols=2, fontsize="small")

    first = shown[0]
    most = ", ".join(
        f"{words or side} gives {as_drawn.text(value)}"
        for side, value, words in (
            ("low", first.low, shorten(first.low_input, 20)),
            ("high", first.high, shorten(first.high_input, 20)),
        )
        if value is not None
    )
    hidden = (
        f" Not drawn: {count(len(rest), 'input')}, each of which changes it by "
        f"{as_drawn.text(rest[0].swing(base))} at most."
        if rest
        else ""
    )
    said = f"{as_drawn.text(base)} as it is; {shorten(first.name)} tells most: {most}."
    return Figure(
        "sensitivity_tornado",
        f"What {as_drawn.words} depends on",
        f"One input changed at a time, everything else as it is. {said}{hidden}",
        as_drawn.words,
        as_drawn.unit or "1",
        n or count(len(effects), "input"),
        seed,
        {
            "input": [effect.name for effect in ordered],
            "low_input": [effect.low_input for effect in ordered],
            "low": [effect.low for effect in ordered],
            "base": [base] * len(ordered),
            "high": [effect.high for effect in ordered],
            "high_input": [effect.high_input for effect in ordered],
        },
        draw,
        8.0,
        1.3 + 0.32 * len(shown),
        said,
    )


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
        if limit_s is not None:
            axes.axvline(limit_s * tpot.scale, color=theme.role["limit"], linestyle=(0, (5, 2)))
            axes.annotate(
                f"limit {tpot.text(limit_s)}",
                (limit_s * tpot.scale, 0.98),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                va="top",
                fontsize="small",
            )
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.margins(0.08)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel(tpot.axis)
        axes.set_ylabel(rate.axis)
        canvas.legend(loc="outside lower center", ncols=min(len(drawn), 3), fontsize="small")

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
        4.0,
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
