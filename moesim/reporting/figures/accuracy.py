"""Figures of accuracy: predictions beside measurements, how far they are off, what is reproduced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import F8, Checks, Quantity, listed, percent, quantity, shares
from moesim.reporting.figures.labels import count, shorten
from moesim.reporting.figures.quantiles import Quantiles
from moesim.reporting.figures.theme import LINES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}
#: Cells of an axis; of the points of a group in one cell, one is drawn.
_CELLS = 80
#: Of more points than this, those that lie over another are not drawn, nor are intervals.
_MANY = 300
_GROUPS = 8


def predicted_against_measured(
    predicted: npt.ArrayLike,
    measured: npt.ArrayLike,
    *,
    low: npt.ArrayLike | None = None,
    high: npt.ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    metric: str = "tpot_s",
    unit: str | None = None,
    level: float | None = None,
    band: float = 0.1,
    others: Mapping[str, npt.ArrayLike] | None = None,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Predictions over measurements, both logarithmic, with the line where they agree.

    Parameters
    ----------
    predicted, measured
        In SI, ``[rows]``. Rows without both, or without a positive one, are left out, and said.
    low, high
        Ends of the predictions' intervals, ``[rows]``.
    groups
        What each row is told apart by, ``[rows]``; the smallest of many groups are put together.
    metric
        What was predicted.
    unit
        To draw it in; the metric's own by default.
    level
        Coverage that the intervals claim.
    band
        Width of the shaded band around the line, as a fraction.
    others
        Predictions of other models, by name, ``[rows]``; drawn faint.
    n
        What was measured, in words.
    seed
        Of what was drawn.

    Raises
    ------
    ConfigError
        If lengths differ, or no row has both values.
    """
    checks = Checks()
    p = checks.numbers("predicted", predicted, gaps=True)
    m = checks.numbers("measured", measured, shape=(len(p),), gaps=True)
    ends = [
        None if end is None else checks.numbers(name, end, shape=(len(p),), gaps=True)
        for name, end in (("low", low), ("high", high))
    ]
    beside = {
        name: checks.numbers(f"others.{shorten(name)}", values, shape=(len(p),), gaps=True)
        for name, values in (others or {}).items()
    }
    names = ["all"] * len(p) if groups is None else [str(g) for g in groups]
    if len(names) != len(p):
        checks.numbers("groups", np.zeros(len(names)), shape=(len(p),), empty=True)
        names = ["all"] * len(p)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(p) & np.isfinite(m) & (p > 0) & (m > 0)
    if len(p) and not known.any():
        checks.numbers("predicted and measured, both positive", np.full(1, np.nan), gaps=True)
    checks.done()
    lost = int((~known).sum())
    p, m = p[known], m[known]
    lows, highs = (None if end is None else end[known] for end in ends)
    beside = {name: values[known] for name, values in beside.items()}
    names = [name for name, k in zip(names, known, strict=True) if k]
    kinds = _kinds(names)
    error = np.abs(p / m - 1.0)
    as_drawn = quantity(metric)
    if unit is not None:
        as_drawn = Quantity(as_drawn.words, unit, _UNITS.get(unit, 1.0), as_drawn.less)
    scale = as_drawn.scale
    inside: float | None = None
    if lows is not None and highs is not None:
        has = np.isfinite(lows) & np.isfinite(highs)
        inside = float(((m >= lows) & (m <= highs))[has].mean()) if has.any() else None

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        every = np.concatenate([p, m])
        ends = np.array([every.min() / 1.5, every.max() * 1.5]) * scale
        axes.fill_between(
            ends,
            ends * (1 - band),
            ends * (1 + band),
            color=theme.grid,
            linewidth=0,
            label=f"within {percent(band)}",
        )
        axes.plot(ends, ends, color=theme.ink, linewidth=1, label="equal")
        for i, (name, values) in enumerate(beside.items()):
            at = _apart(m, values, ends / scale)
            axes.plot(
                m[at] * scale,
                values[at] * scale,
                "x+1234"[i % 6],
                color=theme.dim,
                markersize=4,
                label=shorten(name),
            )
        for i, kind in enumerate(kinds):
            rows = np.array([name in kinds[kind] for name in names])
            at = np.flatnonzero(rows)[_apart(m[rows], p[rows], ends / scale)]
            colour = theme.series[i % len(theme.series)]
            if lows is not None and highs is not None and len(p) <= _MANY:
                # Residuals need not lie around nothing: an end may be on the other side of the prediction.
                bars = np.nan_to_num(np.maximum([p[at] - lows[at], highs[at] - p[at]], 0.0))
                axes.errorbar(
                    m[at] * scale, p[at] * scale, yerr=bars * scale, fmt="none", ecolor=colour, elinewidth=0.7
                )
            axes.plot(
                m[at] * scale,
                p[at] * scale,
                MARKERS[i % len(MARKERS)],
                color=colour,
                markersize=4,
                markerfacecolor=colour if i % 2 == 0 else "none",
                label=f"{shorten(kind)} ({int(rows.sum()):,})"
                if groups is not None
                else f"rows ({len(p):,})",
            )
        for set_scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            set_scale("log")
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        axes.set_xlabel(f"measured {as_drawn.axis}")
        axes.set_ylabel("predicted" + (f", {as_drawn.unit}" if as_drawn.unit else ""))
        canvas.legend(loc="outside lower center", ncols=3, fontsize="small")

    hidden = " Of points that coincide, one is drawn." if len(p) > _MANY else ""
    claimed = f" {percent(level)}" if level is not None else ""
    covered = "" if inside is None else f" The{claimed} intervals hold {percent(inside)} of the measurements."
    gone = f" Left out: {count(lost, 'row')} without two positive values." if lost else ""
    said = (
        f"Median error {percent(float(np.median(error)))}, p90 {percent(float(np.quantile(error, 0.9)))}; "
        f"{percent(float((error <= band).mean()))} of rows are within {percent(band)}.{covered}"
    )
    return Figure(
        "predicted_against_measured",
        f"Predicted and measured {as_drawn.words}",
        f"{said} Above the line the prediction is too {'slow' if as_drawn.less else 'fast'}.{hidden}{gone}",
        as_drawn.words,
        as_drawn.unit or "1",
        n or count(len(p), "row"),
        seed,
        {
            "group": names,
            "measured": listed(m),
            "predicted": listed(p),
            **({} if lows is None else {"low": listed(lows)}),
            **({} if highs is None else {"high": listed(highs)}),
            **{name: listed(values) for name, values in beside.items()},
        },
        draw,
        6.4,
        5.2 + 0.18 * ((len(kinds) + len(beside)) // 3),
        said,
    )


def _kinds(names: Sequence[str]) -> dict[str, set[str]]:
    """Groups as they are drawn, largest first; the smallest of many are one."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    order = sorted(counts, key=lambda name: (-counts[name], name))
    if len(order) <= _GROUPS:
        return {name: {name} for name in order}
    kept, rest = order[: _GROUPS - 1], order[_GROUPS - 1 :]
    return {name: {name} for name in kept} | {f"{len(rest)} others": set(rest)}


def _apart(x: F8, y: F8, ends: F8) -> npt.NDArray[np.int64]:
    """Places of points that are drawn: of very many, one of each cell of a logarithmic grid."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cell = np.log(np.stack([x, y]) / ends[0]) / np.log(ends[1] / ends[0]) * _CELLS
    fine = np.flatnonzero(np.isfinite(cell).all(axis=0))
    if len(x) <= _MANY:
        return fine
    _, first = np.unique(np.floor(cell[:, fine]), axis=1, return_index=True)
    return np.sort(fine[first])


def error_cdf(
    errors: Mapping[str, npt.ArrayLike],
    *,
    metric: str = "absolute relative error",
    marks: Sequence[float] = (0.1, 0.25),
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Share of predictions that are off by no more than so much.

    Parameters
    ----------
    errors
        By name, relative errors as fractions; signs are dropped, what is not finite is left out, and said.
    metric
        What kind of error, in words.
    marks
        Errors at which the share is said.
    n
        What was measured, in words.
    seed
        Of what was drawn.

    Raises
    ------
    ConfigError
        If there is nothing to draw.
    """
    checks = Checks()
    checks.some("errors", errors)
    at = checks.numbers("marks", marks, low=0.0, empty=True)
    rows = {
        name: np.abs(checks.numbers(f"errors.{shorten(name)}", values, gaps=True))
        for name, values in errors.items()
    }
    checks.done()
    known = {name: values[np.isfinite(values)] for name, values in rows.items()}
    drawn = {name: Quantiles.of(values) for name, values in known.items()}
    lost = sum(len(rows[name]) - len(known[name]) for name in rows)

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        for mark in at:
            axes.axvline(mark, color=theme.dim, linestyle=(0, (1.2, 1.2)), linewidth=1)
        most = max(one.at(0.99) for one in drawn.values()) or 0.01
        for i, (name, one) in enumerate(drawn.items()):
            colour = theme.series[i % len(theme.series)]
            axes.plot(
                [0.0, *one.values_s],
                [0.0, *one.levels],
                color=colour,
                linestyle=LINES[i % len(LINES)],
                label=f"{shorten(name)}: median {percent(one.at(0.5))}, p90 {percent(one.at(0.9))}",
            )
            axes.plot(
                [one.at(0.5), one.at(0.9)], [0.5, 0.9], MARKERS[i % len(MARKERS)], color=colour, markersize=5
            )
        axes.set_xlim(0, most * 1.02)
        axes.set_ylim(0, 1)
        for axis in (axes.xaxis, axes.yaxis):
            shares(axis)
        axes.set_xlabel(shorten(metric, 60))
        axes.set_ylabel("rows off by no more")
        canvas.legend(loc="outside lower center", ncols=min(len(drawn), 2), fontsize="small")

    said = "; ".join(
        f"{shorten(name)}: median {percent(one.at(0.5))}, p90 {percent(one.at(0.9))}"
        + "".join(f", {percent(float((known[name] <= mark).mean()))} within {percent(mark)}" for mark in at)
        for name, one in drawn.items()
    )
    gone = f" Left out: {count(lost, 'row')} without an error." if lost else ""
    return Figure(
        "error_cdf",
        "How far predictions are off",
        "Share of rows whose error is no larger; marks at the median and at 90 %; the axis ends at the "
        f"largest 99th percentile. {said}.{gone}",
        shorten(metric, 60),
        "fraction",
        n or " + ".join(count(len(values), "row") for values in known.values()),
        seed,
        {
            "of": [name for name, one in drawn.items() for _ in one.levels],
            "level": [v for one in drawn.values() for v in one.levels.tolist()],
            "error": [v for one in drawn.values() for v in one.values_s.tolist()],
        },
        draw,
        7.0,
        3.6,
        f"{said}.",
    )


def signed_errors(
    x: npt.ArrayLike,
    errors: npt.ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    metric: str = "tokens of a batch",
    noise: float | None = None,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Signed relative errors by size, beside how far two measurements of the same lie apart.

    Parameters
    ----------
    x
        Sizes, positive ``[rows]``.
    errors
        Predicted over measured, less one ``[rows]``; NaN is left out, and said.
    groups
        What each row is told apart by, ``[rows]``.
    metric
        What `x` is, in words.
    noise
        Distance of two measurements of the same, as a fraction: shaded.
    n
        What was measured, in words.
    seed
        Of what was drawn.

    Raises
    ------
    ConfigError
        If lengths differ or sizes are none.
    """
    checks = Checks()
    sizes = checks.numbers("x", x, low=1e-300)
    off = checks.numbers("errors", errors, shape=(len(sizes),), gaps=True)
    names = ["all"] * len(sizes) if groups is None else [str(g) for g in groups]
    if len(names) != len(sizes):
        checks.numbers("groups", np.zeros(len(names)), shape=(len(sizes),), empty=True)
    if noise is not None:
        checks.numbers("noise", [noise], low=0.0)
    checks.done()
    known = np.isfinite(off)
    sizes, off = sizes[known], off[known]
    names = [name for name, k in zip(names, known, strict=True) if k]
    kinds = _kinds(names)

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        if noise is not None:
            axes.axhspan(-noise, noise, color=theme.grid, linewidth=0)
        axes.axhline(0.0, color=theme.ink, linewidth=1)
        for i, kind in enumerate(kinds):
            rows = np.array([name in kinds[kind] for name in names])
            axes.plot(
                sizes[rows],
                off[rows],
                MARKERS[i % len(MARKERS)],
                color=theme.series[i % len(theme.series)],
                markersize=5,
                label=shorten(kind),
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        most = max(float(np.abs(off).max()), noise or 0.0, 0.05) * 1.1
        axes.set_ylim(-most, most)
        shares(axes.yaxis)
        axes.set_xlabel(shorten(metric, 60))
        axes.set_ylabel("error")
        if groups is not None:
            canvas.legend(loc="outside lower center", ncols=min(len(kinds), 4), fontsize="small")

    lost = int((~known).sum())
    beside = "" if noise is None else f" Shaded: {percent(noise)}, between two measurements of the same."
    gone = f" Left out: {count(lost, 'row')} without an error." if lost else ""
    said = (
        f"Median error {percent(float(np.median(np.abs(off))))}; from {100 * off.min():+.1f} % to "
        f"{100 * off.max():+.1f} %."
    )
    return Figure(
        "signed_errors",
        f"Signed error by {shorten(metric, 60)}",
        f"Above zero the prediction is too slow. {said}{beside}{gone}",
        "predicted over measured, less one",
        "fraction",
        n or count(len(off), "row"),
        seed,
        {"group": names, "x": sizes.tolist(), "error": off.tolist()},
        draw,
        7.5,
        3.4,
        said,
    )


def tick_ratios(axes: Axes, reach: float) -> None:
    """A logarithmic axis of ratios, a little beyond 1 / `reach` to `reach`."""
    axes.set_xscale("log")
    axes.set_xlim(0.9 / reach, reach * 1.1)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10) if 1 / reach <= tick <= reach]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
