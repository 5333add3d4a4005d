"""How far predictions are off, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import Checks, kinds_of, legend_below, legend_in, percent, plain, shares
from moesim.reporting.figures.labels import count, shorten
from moesim.reporting.figures.quantiles import Quantiles
from moesim.reporting.figures.theme import LINES, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme


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

    Examples
    --------
    >>> error_cdf({"ours": [0.02, -0.08, 0.2]}).alt
    'ours: median 8 %, p90 17.6 %, 66.7 % within 10 %, 100 % within 25 %.'
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
        legend_below(canvas, 7.0, *axes.get_legend_handles_labels())

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
        3.2 + 0.17 * len(drawn),
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

    Examples
    --------
    >>> signed_errors([1, 64], [0.04, -0.1], noise=0.03).alt
    'Median error 7 %; from -10.0 % to +4.0 %.'
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
    kinds = kinds_of(names)

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
        plain(axes.xaxis)
        most = max(float(np.abs(off).max()), noise or 0.0, 0.05) * 1.1
        axes.set_ylim(-most, most)
        shares(axes.yaxis)
        axes.set_xlabel(shorten(metric, 60))
        axes.set_ylabel("error")
        if groups is not None:
            legend_below(canvas, 7.5, *axes.get_legend_handles_labels())

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
        3.1 + legend_in(list(kinds), 7.5),
        said,
    )
