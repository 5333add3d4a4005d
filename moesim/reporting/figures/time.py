"""Figures of time: what it is spent on, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.labels import (
    check_lengths,
    columns,
    count,
    log_ticks,
    number,
    numbers,
    shorten,
    time_unit,
)
from moesim.reporting.figures.theme import HATCHES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

_OTHER = "other operations"
#: Rows of a figure; more are left out, and it says so.
_MOST_ROWS = 60
#: Operations with a colour of their own.
_NAMED = len(HATCHES)
#: Below zero, and why.
_HIDDEN = {"overlap": "what overlap hides", "calibration": "what measured runs take less than physics says"}


def time_breakdown(
    parts: Sequence[Mapping[str, float]],
    labels: Sequence[str],
    *,
    totals_s: Sequence[float] | None = None,
    metric: str = "time per output token (TPOT)",
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Time by operation, stacked, one bar for each answer.

    Parameters
    ----------
    parts
        Seconds by operation, of each bar; negative where work is hidden behind other work.
    labels
        Of the bars.
    totals_s
        Seconds written at the bars' ends; else the sums of `parts`.
    metric
        What the parts add up to.

    Raises
    ------
    ConfigError
        Without bars, or with another number of labels or totals.

    Examples
    --------
    >>> figure = time_breakdown([{"experts": 0.004, "attention": 0.001}], ["8 GPUs"])
    >>> figure.data["part"], figure.facts
    (['experts', 'attention'], 'time per output token (TPOT) [ms]; n = 1 prediction; no randomness')
    """
    kept = [{op: s for op, s in part.items() if math.isfinite(s)} for part in parts]
    totals = [sum(part.values()) for part in kept] if totals_s is None else list(totals_s)
    check_lengths(parts=parts, labels=labels, totals_s=totals)
    bars, kept, totals, labels = len(parts), kept[:_MOST_ROWS], totals[:_MOST_ROWS], labels[:_MOST_ROWS]
    order: dict[str, float] = {}
    for part in kept:
        for op, seconds in part.items():
            order[op] = max(order.get(op, 0.0), abs(seconds))
    # What is below zero has a name of its own: inside the rest it would hide time that is spent.
    below = {op for part in kept for op, seconds in part.items() if seconds < 0}
    named = sorted(order, key=lambda op: (op not in below, -order[op], op))[:_NAMED]
    named.sort(key=lambda op: (-order[op], op))
    scale, unit = time_unit(totals)
    shown = [*named, _OTHER] if len(order) > len(named) else named

    wide = columns([shorten(op, 24) for op in shown])

    def of(part: Mapping[str, float], op: str) -> float:
        if op == _OTHER:
            return sum(seconds for name, seconds in part.items() if name not in named)
        return part.get(op, 0.0)

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        rows = np.arange(len(kept))[::-1]
        right, left = np.zeros(len(kept)), np.zeros(len(kept))
        for nth, op in enumerate(shown):
            widths = np.array([of(part, op) for part in kept]) * scale
            colour, hatch = (theme.dim, "") if op == _OTHER else (theme.series[nth], HATCHES[nth])
            axes.barh(rows, widths, 0.62, left=np.where(widths >= 0, right, left), color=colour, hatch=hatch,
                      edgecolor=theme.paper, linewidth=0.5, label=shorten(op, 24))  # fmt: skip
            right, left = right + np.maximum(widths, 0), left + np.minimum(widths, 0)
        reach = float(right.max() - left.min()) or 1.0
        for row, total, end in zip(rows, totals, right, strict=True):
            axes.text(end + 0.01 * reach, row, f"{number(total * scale)} {unit}", va="center")
        axes.set_yticks(rows, [shorten(label) for label in labels])
        axes.set_ylim(-0.6, len(kept) - 0.4)
        axes.grid(False, axis="y")
        if left.min() < 0:
            axes.axvline(0, color=theme.ink, linewidth=0.8)
        # Room for the number at the end of the longest bar.
        axes.set_xlim(float(left.min()) - 0.02 * reach * (left.min() < 0), float(right.max()) + 0.16 * reach)
        axes.set_xlabel(f"{metric}, {unit}")
        canvas.legend(loc="outside lower center", ncols=wide, fontsize="small")

    lost = sum(len(part) for part in parts[:_MOST_ROWS]) - sum(len(part) for part in kept)
    notes = ["'expert_imbalance' is waiting for the slowest rank."] if "expert_imbalance" in order else []
    notes += ["'calibration' is what measured runs take beyond physics."] if "calibration" in order else []
    notes += [f"Left of zero: {' and '.join(_HIDDEN.get(op, op) for op in sorted(below))}."] if below else []
    notes += [f"Left out: {count(lost, 'part')} without a number."] if lost else []
    notes += [f"The first {_MOST_ROWS} of {bars}."] if bars > _MOST_ROWS else []
    most = [max(part, key=lambda op: part[op], default="nothing") for part in kept]
    spoken = "; ".join(
        f"{label}: {number(total * scale)} {unit}, most of it {op}"
        for label, total, op in zip(labels[:10], totals[:10], most, strict=False)
    )
    title = "What an output token's time is spent on" if "TPOT" in metric else f"What {metric} is spent on"
    rows = [
        (label, op, seconds) for label, part in zip(labels, kept, strict=True) for op, seconds in part.items()
    ]
    return Figure(
        name="time_breakdown",
        title=title,
        caption=" ".join([f"{metric[:1].upper()}{metric[1:]} by operation.", *notes]),
        metric=metric,
        unit=unit,
        n=n or count(bars, "prediction"),
        seed=seed,
        data={
            "label": [row[0] for row in rows],
            "part": [row[1] for row in rows],
            "seconds": [row[2] for row in rows],
        },
        draw=draw,
        height_in=1.35 + len(kept) * (0.42 if len(kept) <= 12 else 0.28) + 0.18 * -(-len(shown) // wide),
        alt=f"{title}. {spoken}.",
    )


#: Panels of `bounds_and_intervals`: metric, and what it is called.
_PANELS = (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("output_throughput", "output throughput"))


def bounds_and_intervals(
    values: Sequence[Mapping[str, float]],
    labels: Sequence[str],
    *,
    bounds: Sequence[Mapping[str, float]],
    intervals: Sequence[Mapping[str, tuple[float, float]] | None],
    level: float | None = None,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """TTFT, TPOT and throughput with interval and provable bound.

    Parameters
    ----------
    values
        ``ttft_s``, ``tpot_s`` and ``output_throughput`` (tokens/s) of each row.
    labels
        Of the rows.
    bounds
        The same metrics; what is not there is not drawn.
    intervals
        Lowest and highest value by metric.
    level
        Of the intervals, as a fraction.

    Raises
    ------
    ConfigError
        Without rows, or with other numbers of labels, bounds or intervals.

    Examples
    --------
    >>> figure = bounds_and_intervals(
    ...     [{"ttft_s": 0.2, "tpot_s": 0.02, "output_throughput": 900.0}], ["a"],
    ...     bounds=[{"tpot_s": 0.01}], intervals=[{"tpot_s": (0.015, 0.03)}], level=0.9)
    >>> [(figure.data["metric"][1], figure.data[k][1]) for k in ("value", "bound", "low", "high")]
    [('tpot_s', 0.02), ('tpot_s', 0.01), ('tpot_s', 0.015), ('tpot_s', 0.03)]
    """
    check_lengths(values=values, labels=labels, bounds=bounds, intervals=intervals)
    rows_given, values, labels = len(values), values[:_MOST_ROWS], labels[:_MOST_ROWS]
    bounds, intervals = bounds[:_MOST_ROWS], intervals[:_MOST_ROWS]
    data: dict[str, list[float | str | None]] = {
        name: [] for name in ("label", "metric", "value", "bound", "low", "high")
    }
    for label, value, bound, interval in zip(labels, values, bounds, intervals, strict=True):
        for metric, _ in _PANELS:
            low, high = (interval or {}).get(metric) or (None, None)
            found = (label, metric, value.get(metric), bound.get(metric), low, high)
            for column, cell in zip(data.values(), found, strict=True):
                column.append(cell)

    def columns_of(nth: int) -> list[np.ndarray]:
        return [numbers(data[name][nth :: len(_PANELS)]) for name in ("value", "bound", "low", "high")]

    units = [*(time_unit(np.concatenate(columns_of(nth))) for nth in (0, 1)), (1.0, "tokens/s")]

    def panel(axes: Axes, nth: int, theme: Theme) -> None:
        _, title = _PANELS[nth]
        found = columns_of(nth)
        scale, unit = units[nth]
        rows = np.arange(len(values))[::-1]
        for row, value, bound, low, high in zip(rows, *(column * scale for column in found), strict=True):
            if low <= high:
                axes.plot([low, high], [row, row], color=theme.role["after"], linewidth=5, alpha=0.35,
                          solid_capstyle="butt", label="interval")  # fmt: skip
            if bound > 0:
                axes.plot(bound, row, "|", color=theme.role["bound"], markersize=16, markeredgewidth=2,
                          label="bound: nothing beats it", linestyle="none")  # fmt: skip
            if not math.isfinite(value):
                continue
            axes.plot(value, row, "o", color=theme.role["after"], markersize=6, label="predicted")
            axes.annotate(number(value), (value, row), xytext=(0, 8), textcoords="offset points",
                          ha="center", fontsize="small")  # fmt: skip
        _scale(axes, np.concatenate(found) * scale)
        axes.set_ylim(-0.6, len(values) - 0.3)
        axes.set_yticks(rows, [shorten(label) for label in labels])
        axes.grid(False, axis="y")
        axes.set_xlabel(f"{title}, {unit}")

    def draw(canvas: Canvas, theme: Theme) -> None:
        found = canvas.subplots(1, len(_PANELS), sharey=True)
        handles: dict[str, Artist] = {}
        for nth, axes in enumerate(found):
            panel(axes, nth, theme)
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        canvas.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize="small"
        )

    title = "Prediction, interval and bound"
    bar = f" Bar: {level:.0%} interval." if level is not None and any(intervals) else ""
    caption = (
        f"Mean TTFT and TPOT, and output throughput of the deployment.{bar} The bar across is the limit "
        "that no schedule on this hardware beats: a lower limit of times, an upper limit of throughput. Axes "
        "are logarithmic where values lie far apart."
        + (f" The first {_MOST_ROWS} of {rows_given}." if rows_given > _MOST_ROWS else "")
    )
    spoken = "; ".join(
        f"{label}: TTFT {number(1e3 * value.get('ttft_s', math.nan))} ms, TPOT "
        f"{number(1e3 * value.get('tpot_s', math.nan))} ms, "
        f"{number(value.get('output_throughput', math.nan))} tokens/s"
        for label, value in zip(labels[:10], values[:10], strict=True)
    )
    return Figure(
        name="bounds_and_intervals",
        title=title,
        caption=caption,
        metric="TTFT, TPOT, output throughput",
        unit=", ".join(unit for _, unit in units),
        n=n or count(rows_given, "prediction"),
        seed=seed,
        data=data,
        draw=draw,
        height_in=1.45 + 0.5 * len(values),
        alt=f"{title}. {spoken}.",
    )


def _scale(axes: Axes, values: np.ndarray) -> None:
    """An axis that holds all values: logarithmic where they lie far apart."""
    from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, StrMethodFormatter

    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (1.0, 1.0)
    if high > 8 * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.7, high * 1.7)
        axes.set_xticks(log_ticks(low / 1.7, high * 1.7))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, high * 1.18)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if high >= 1e4 else StrMethodFormatter("{x:,g}"))
