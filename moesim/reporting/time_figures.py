"""Figures of time: what it is spent on, how sure it is, when a plan pays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from moesim.reporting.documents import PRICED, PredictionDocument, PricePoint
from moesim.reporting.svg import CATEGORIES, COLOURS, GREY, Figure, render, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_OTHER = "other operations"


def breakdown(key: str, answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Figure:
    """Time per output token, stacked by operation, one bar per prediction."""
    parts = [{line.op: line.seconds * 1e3 for line in answer.breakdown} for answer in answers]
    order: dict[str, float] = {}
    for part in parts:
        for op, ms in part.items():
            order[op] = max(order.get(op, 0.0), abs(ms))
    # What is below zero has a name of its own: inside the rest it would hide time that is spent.
    below = {op for part in parts for op, ms in part.items() if ms < 0}
    named = sorted(order, key=lambda op: (op not in below, -order[op], op))[: len(CATEGORIES)]
    named.sort(key=lambda op: (-order[op], op))
    hidden = len(order) > len(named)

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        rows = np.arange(len(parts))[::-1]
        right, left = np.zeros(len(parts)), np.zeros(len(parts))
        for op in [*named, _OTHER] if hidden else named:
            if op == _OTHER:
                ms = np.array([sum(v for name, v in part.items() if name not in named) for part in parts])
            else:
                ms = np.array([part.get(op, 0.0) for part in parts])
            start = np.where(ms >= 0, right, left)
            colour = GREY if op == _OTHER else CATEGORIES[named.index(op)]
            axes.barh(
                rows,
                ms,
                0.62,
                left=start,
                color=colour,
                edgecolor="white",
                linewidth=0.5,
                label=shorten(op, 24),
            )
            right, left = right + np.maximum(ms, 0), left + np.minimum(ms, 0)
        for row, answer, end in zip(rows, answers, right, strict=True):
            axes.annotate(
                f"{answer.tpot_s * 1e3:.4g} ms",
                (end, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(rows, labels)
        axes.set_ylim(-0.6, len(parts) - 0.4)
        axes.grid(False, axis="y")
        axes.set_xlim(right=axes.get_xlim()[1] * 1.08)
        axes.set_xlabel("time per output token (TPOT), ms")
        canvas.legend(loc="outside lower center", ncols=5, fontsize=8)

    title = "What an output token's time is spent on"
    why = {"overlap": "what overlap hides", "calibration": "what measured runs take less than physics says"}
    hides = " and ".join(why.get(op, op) for op in sorted(below))
    learnt = " 'calibration' is what measured runs take beyond physics." if "calibration" in order else ""
    overlap = f"{learnt} Left of zero: {hides}." if below else learnt
    caption = (
        "Mean decode step plus the prefills that interrupt it, in ms per output token; n = "
        f"{_count(len(parts), 'prediction')}. 'expert_imbalance' is waiting for the slowest rank.{overlap}"
    )
    height = 1.5 + 0.42 * len(parts)
    return Figure(key, title, caption, render(key, draw, 9.0, height, f"{title}. {caption}"))


def against_bounds(key: str, answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Figure:
    """TTFT, TPOT and throughput with interval and provable bound."""
    panels = (
        ("ttft_s", "TTFT, ms", 1e3),
        ("tpot_s", "TPOT, ms", 1e3),
        ("output_throughput", "output tokens/s", 1.0),
    )

    def panel(axes: Axes, metric: str, title: str, scale: float) -> None:
        from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

        seen: list[float] = []
        rows = np.arange(len(answers))[::-1]
        for row, answer in zip(rows, answers, strict=True):
            value = getattr(answer, metric) * scale
            bound = answer.bounds.get(metric)
            span = getattr(answer.interval, metric, None) if answer.interval else None
            seen.append(value)
            if span is not None:
                low, high = (end * scale for end in span)
                seen += [low, high]
                axes.plot([low, high], [row, row], color=COLOURS["plan"], linewidth=5, alpha=0.35,
                          solid_capstyle="butt", label="interval")  # fmt: skip
            if bound:
                seen.append(bound * scale)
                axes.plot(bound * scale, row, "|", color=COLOURS["bound"], markersize=16, markeredgewidth=2,
                          label="bound: nothing beats it", linestyle="none")  # fmt: skip
            axes.plot(value, row, "o", color=COLOURS["plan"], markersize=6, label="predicted")
            shown = f"{value:,.0f}" if 1000 <= value < 1e8 else f"{value:.4g}"
            axes.annotate(shown, (value, row), xytext=(0, 8), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
        positive = [v for v in seen if v > 0]
        if max(positive) > 8 * min(positive):
            axes.set_xscale("log")
            near = max(positive) < 50 * min(positive)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,)))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlim(min(positive) / 1.5, max(positive) * 1.5)
        else:
            axes.set_xlim(0, max(positive) * 1.15)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        short = EngFormatter(sep="") if scale == 1.0 else StrMethodFormatter("{x:,g}")
        axes.xaxis.set_major_formatter(short)
        axes.set_ylim(-0.6, len(answers) - 0.3)
        axes.set_yticks(rows, labels)
        axes.grid(False, axis="y")
        axes.set_xlabel(title)

    def draw(canvas: Canvas) -> None:
        found = canvas.subplots(1, 3, sharey=True)
        for axes, (metric, title, scale) in zip(found, panels, strict=True):
            panel(axes, metric, title, scale)
        handles = dict(zip(*reversed(found[0].get_legend_handles_labels()), strict=True))
        canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)

    levels = sorted({f"{answer.interval.level:.0%}" for answer in answers if answer.interval})
    interval = f" Bar: {', '.join(levels)} interval." if levels else ""
    title = "Prediction, interval and bound"
    caption = (
        f"Mean TTFT and TPOT in ms, output throughput of the deployment in tokens/s; n = "
        f"{_count(len(answers), 'prediction')}.{interval} The bar across is the limit that no schedule on "
        "this hardware beats: a lower limit of times, an upper limit of throughput. Axes are logarithmic "
        "where values lie far apart."
    )
    height = 1.45 + 0.5 * len(answers)
    return Figure(key, title, caption, render(key, draw, 9.0, height, f"{title}. {caption}"))


def prices(key: str, points: Sequence[PricePoint]) -> Figure:
    """TPOT by batch size, and what the plan gains over the alternatives, with the break-even."""
    tokens = [point.tokens_per_rank for point in points]
    curves = {
        name: np.array([_or_nan(getattr(point, f"{name}_tpot_s")) for point in points])
        for name in ("before", "balanced", "after")
    }
    curves = {name: values for name, values in curves.items() if not np.isnan(values).all()}
    flips = break_even(points)

    def ticks(axes: Axes) -> None:
        axes.set_xscale("log", base=2)
        axes.set_xticks(tokens, [f"{t:g}" for t in tokens])
        axes.minorticks_off()
        axes.set_xlabel("tokens per rank and step")

    def draw(canvas: Canvas) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

        left, right = canvas.subplots(1, 2)
        for name, values in curves.items():
            left.plot(tokens, values * 1e3, marker="o", markersize=4, color=COLOURS[name], label=PRICED[name])
        ticks(left)
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        left.yaxis.set_minor_formatter(NullFormatter())
        left.set_ylabel("TPOT, ms")
        left.legend(fontsize=8)
        right.axhline(0, color=COLOURS["bound"], linewidth=1)
        for name, values in curves.items():
            if name != "after" and "after" in curves:
                gain = values / curves["after"] - 1
                right.plot(tokens, gain, marker="o", markersize=4, color=COLOURS[name],
                           label=f"against {PRICED[name]}")  # fmt: skip
        for nth, (low, high, _) in enumerate(flips):
            right.axvspan(low, high, color="#f0e442", alpha=0.35, linewidth=0,
                          label="" if nth else "break-even lies here")  # fmt: skip
        ticks(right)
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        right.set_ylabel("speed-up of the plan")
        low, high = right.get_ylim()
        right.set_ylim(low, high + 0.3 * (high - low))
        right.legend(fontsize=8, loc="upper left")

    spoken = "".join(
        f" The plan {'becomes' if better else 'stops being'} the fastest between {low:g} and {high:g} tokens "
        f"per rank."
        for low, high, better in flips
    )
    title = "TPOT by batch size: when the plan pays"
    caption = (
        f"Predicted time per output token (ms) at n = {len(points)} batch sizes; right: TPOT of the "
        f"alternative over TPOT of the plan, minus one; below zero the plan loses.{spoken}"
    )
    return Figure(key, title, caption, render(key, draw, 9.0, 3.1, f"{title}. {caption}"))


def break_even(points: Sequence[PricePoint]) -> list[tuple[float, float, bool]]:
    """Neighbouring batch sizes between which the plan becomes (True) or stops being the fastest."""
    wins = []
    for point in points:
        others = [s for s in (point.before_tpot_s, point.balanced_tpot_s) if s is not None]
        if others and point.after_tpot_s is not None:
            wins.append((point.tokens_per_rank, point.after_tpot_s <= min(others)))
    return [(low, high, won) for (low, was), (high, won) in pairwise(wins) if was != won]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")
