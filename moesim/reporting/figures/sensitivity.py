"""What the answer depends on: one input changed at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import Checks, legend_below, quantity
from moesim.reporting.figures.labels import count, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: Inputs that are drawn, of those that tell most.
_EFFECTS = 20


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

    Examples
    --------
    >>> effects = [Effect("link", 0.021, 0.019, "-10 %", "+10 %"), Effect("memory", None, 0.017, "", "+10 %")]
    >>> sensitivity_tornado(effects, "tpot_s", 0.02).alt
    '20 ms as it is; memory tells most: +10 % gives 17 ms.'
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
            legend_below(canvas, 8.0, handles, names)

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
