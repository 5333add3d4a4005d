"""When a plan pays: TPOT by batch size, and the break-even."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.labels import (
    check_curves,
    columns,
    count,
    log_ticks,
    number,
    numbers,
    shorten,
    time_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: What curves of `gain_by_batch` are called.
PLACED = {
    "before": "before (contiguous)",
    "greedy": "greedy",
    "balanced": "best without redundancy",
    "after": "after (the plan)",
}


def gain_by_batch(
    tokens: Sequence[float],
    curves: Mapping[str, Sequence[float | None]],
    *,
    reference: str = "after",
    names: Mapping[str, str] = PLACED,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """TPOT by batch size, and what the plan gains over the alternatives, with the break-even.

    Parameters
    ----------
    tokens
        Per rank and step.
    curves
        TPOT in seconds at each batch size, by name; None where it does not fit.
    reference
        The curve that others are compared with.
    names
        What curves are called.

    Raises
    ------
    ConfigError
        Without any curve, or where one has another number of values.

    Examples
    --------
    >>> figure = gain_by_batch([4, 16], {"before": [0.01, 0.03], "after": [0.011, 0.02]})
    >>> figure.data["gain over before"]
    [-0.09..., 0.5]
    >>> "becomes the fastest between 4 and 16 tokens" in figure.caption
    True
    """
    check_curves(curves, len(tokens), "batch sizes")
    drawn = {name: numbers(values) for name, values in curves.items()}
    drawn = {name: values for name, values in drawn.items() if np.isfinite(values).any()}
    gains = {name: values / drawn[reference] - 1 for name, values in drawn.items()
             if name != reference and reference in drawn}  # fmt: skip
    flips = break_even(tokens, curves, reference)
    scale, unit = time_unit(np.concatenate([*drawn.values(), []]))

    def ticks(axes: Axes) -> None:
        axes.set_xscale("log", base=2)
        few = [tokens[i] for i in np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), 6)).astype(int))]
        axes.set_xticks(few, [number(t) for t in few])
        axes.minorticks_off()
        axes.set_xlabel("tokens per rank and step")

    def draw(canvas: Canvas, theme: Theme) -> None:
        from matplotlib.ticker import NullFormatter, PercentFormatter, StrMethodFormatter

        left, right = canvas.subplots(1, 2)
        looks = theme.lines(drawn)
        for name, values in drawn.items():
            label = shorten(names.get(name, name))
            left.plot(tokens, values * scale, markersize=4, label=label, **looks[name])
        ticks(left)
        low, high = left.get_ylim()
        marks = log_ticks(low, high, most=6) if low > 0 else []
        if len(marks) > 1:
            left.set_yscale("log")
            left.set_yticks(marks)
            left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            left.yaxis.set_minor_formatter(NullFormatter())
        left.set_ylabel(f"TPOT, {unit}")
        right.axhline(0, color=theme.role["bound"], linewidth=1)
        for name, gain in gains.items():
            right.plot(tokens, gain, markersize=4, label=name, **looks[name])
        for start, end, _ in flips:
            span = right.axvspan(start, end, color=theme.dim, alpha=0.25, linewidth=0, label="break-even")
        ticks(right)
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        right.set_ylabel("speed-up of the plan over each")
        handles, labels = left.get_legend_handles_labels()
        if flips:
            handles, labels = [*handles, span], [*labels, "break-even lies here"]
        canvas.legend(handles, labels, loc="outside lower center", ncols=columns(labels), fontsize="small")

    spoken = "".join(
        f" The plan {'becomes' if better else 'stops being'} the fastest between {low:g} and {high:g} tokens "
        f"per rank."
        for low, high, better in flips
    )
    caption = (
        f"Predicted time per output token at {count(len(tokens), 'batch size')}; right: TPOT of the "
        f"alternative over TPOT of the plan, minus one; below zero the plan loses.{spoken}"
    )
    title = "TPOT by batch size: when the plan pays"
    return Figure(
        name="gain_by_batch",
        title=title,
        caption=caption,
        metric="time per output token (TPOT)",
        unit=unit,
        n=n or count(len(tokens), "batch size"),
        seed=seed,
        data={
            "tokens_per_rank": list(tokens),
            **{f"{name} tpot_s": list(values) for name, values in curves.items()},
            **{
                f"gain over {name}": [None if math.isnan(g) else g for g in gain.tolist()]
                for name, gain in gains.items()
            },
        },
        draw=draw,
        height_in=3.4,
        alt=f"{title}.{spoken or ' The order of the placements is the same at all of them.'}",
    )


def break_even(
    tokens: Sequence[float], curves: Mapping[str, Sequence[float | None]], reference: str = "after"
) -> list[tuple[float, float, bool]]:
    """Neighbouring batch sizes between which the reference becomes (True) or stops being the fastest.

    Examples
    --------
    >>> break_even([4, 16, 64], {"before": [2.0, 3.0, 9.0], "after": [2.5, 2.0, None]})
    [(4, 16, True)]
    """
    wins = []
    for nth, batch in enumerate(tokens):
        found = {name: values[nth] for name, values in curves.items()}
        own = found.pop(reference, None)
        others = [seconds for seconds in found.values() if seconds is not None]
        if others and own is not None:
            wins.append((batch, own <= min(others)))
    return [(low, high, won) for (low, was), (high, won) in pairwise(wins) if was != won]
