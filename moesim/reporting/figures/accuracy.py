"""Predictions beside measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import (
    Checks,
    Quantity,
    apart,
    kinds_of,
    legend_below,
    legend_in,
    listed,
    percent,
    plain,
    quantity,
)
from moesim.reporting.figures.labels import count, shorten
from moesim.reporting.figures.theme import MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}
#: Of more rows than this, intervals are not drawn.
_MANY = 300
_WIDTH = 6.4


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

    Examples
    --------
    >>> low, high = [0.009, 0.021], [0.011, 0.03]
    >>> predicted_against_measured([0.01, 0.024], [0.01, 0.02], low=low, high=high).alt
    'Median error 10 %, p90 18 %; 50 % of rows are within 10 %. The intervals hold 50 % of the measurements.'
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
    kinds = kinds_of(names)
    error = np.abs(p / m - 1.0)
    as_drawn = quantity(metric)
    if unit is not None:
        as_drawn = Quantity(as_drawn.words, unit, _UNITS.get(unit, 1.0), as_drawn.less)
    scale = as_drawn.scale
    inside: float | None = None
    if lows is not None and highs is not None:
        has = np.isfinite(lows) & np.isfinite(highs)
        inside = float(((m >= lows) & (m <= highs))[has].mean()) if has.any() else None

    # Of very many rows, of every group only what can be told apart.
    few = _MANY if len(p) <= _MANY else _MANY // 5

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
            fine = np.flatnonzero(np.isfinite(values) & (values > 0))
            at = fine[apart(np.log(m[fine]), np.log(values[fine]))]
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
            at = np.flatnonzero(rows)[apart(np.log(m[rows]), np.log(p[rows]), cells=60, few=few)]
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
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        plain(axes.xaxis)
        plain(axes.yaxis)
        axes.set_xlabel(f"measured {as_drawn.axis}")
        axes.set_ylabel("predicted" + (f", {as_drawn.unit}" if as_drawn.unit else ""))
        legend_below(canvas, _WIDTH, *axes.get_legend_handles_labels())

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
        _WIDTH,
        4.9 + legend_in([*kinds, *beside, "within", "equal"], _WIDTH),
        said,
    )
