"""How latency is spread over requests, beside what was promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import Checks, legend_below, legend_in, percent, plain, quantity, shares
from moesim.reporting.figures.labels import count, shorten
from moesim.reporting.figures.limits import limit_line
from moesim.reporting.figures.quantiles import Quantiles
from moesim.reporting.figures.theme import LINES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: Of a sample by name: the low and the high end of quantiles by level.
Intervals = Mapping[str, Mapping[float, tuple[float, float]]]
#: With so few levels each is marked.
_FEW = 12
#: From the least to the most, beyond which the axis is logarithmic.
_FAR = 30.0


def latency_cdf(
    samples: Mapping[str, npt.ArrayLike | Quantiles],
    metric: str = "ttft_s",
    *,
    limit_s: float | None = None,
    attainment: float | None = None,
    counted: Mapping[str, float] | None = None,
    intervals: Intervals | None = None,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Share of requests that are answered within a time, and how rare the slow ones are.

    Parameters
    ----------
    samples
        By name, seconds of each request or their `Quantiles`. What is not finite is left out, and said.
    metric
        ``ttft_s``, ``tpot_s``, ``itl_s``, ``e2el_s`` or ``queue_s``.
    limit_s
        What was promised.
    attainment
        For what share of requests it was promised.
    counted
        By name, the share of requests within the limit, where it was counted: those without an answer too.
        Otherwise it is that of the sample.
    intervals
        By name, intervals of quantiles by level: of replications, or of parts of one run.
    n
        What was counted, in words.
    seed
        Of the simulation.

    Raises
    ------
    ConfigError
        If a sample holds nothing, or less than no time.

    Examples
    --------
    >>> latency_cdf({"run": [0.1, 0.2, 0.3, 0.4]}, limit_s=0.3, attainment=0.9).alt
    'run: p50 250 ms, p90 370 ms, p99 397 ms. Within the limit of 300 ms: run 75 %. Promised for 90 %: kept
    by none.'
    """
    checks = Checks()
    checks.some("samples", samples)
    if limit_s is not None:
        checks.numbers("limit_s", [limit_s], low=0.0)
    if attainment is not None:
        checks.numbers("attainment", [attainment], low=0.0, high=1.0)
    for name, share in (counted or {}).items():
        checks.numbers(f"counted.{shorten(name)}", [share], low=0.0, high=1.0)
    bars = {name: dict(intervals.get(name, {})) if intervals else {} for name in samples}
    for name, spans in bars.items():
        where = f"intervals.{shorten(name)}"
        checks.numbers(f"{where}, levels", list(spans), low=0.0, high=1.0, empty=True)
        checks.numbers(
            where, [list(span) for span in spans.values()] or np.zeros((0, 2)), shape=(None, 2), empty=True
        )
    values = {
        name: checks.numbers(f"samples.{shorten(name)}", sample, low=0.0, gaps=True)
        for name, sample in samples.items()
        if not isinstance(sample, Quantiles)
    }
    checks.done()
    drawn = {
        name: sample if isinstance(sample, Quantiles) else Quantiles.of(values[name])
        for name, sample in samples.items()
    }
    within: dict[str, float] = {}
    if limit_s is not None:
        within = {name: one.share_within(limit_s) for name, one in drawn.items()}
        # Where every value is at hand, they are counted.
        for name, sample in values.items():
            within[name] = float((sample[np.isfinite(sample)] <= limit_s).mean())
        within |= {name: share for name, share in (counted or {}).items() if name in drawn}
    as_drawn = quantity(metric)
    scale = as_drawn.scale

    def curves(axes: Axes, theme: Theme, slower: bool) -> None:
        for i, (name, one) in enumerate(drawn.items()):
            share = 1.0 - one.levels if slower else one.levels
            colour = theme.series[i % len(theme.series)]
            said = f": {percent(within[name])} in time" if name in within else ""
            axes.plot(
                one.values_s * scale,
                share,
                color=colour,
                linestyle=LINES[i % len(LINES)],
                marker="o" if len(one.levels) <= _FEW else "none",
                markersize=4,
                label=shorten(name) + said,
            )
            if one.low_s is not None and one.high_s is not None:
                axes.fill_betweenx(
                    share, one.low_s * scale, one.high_s * scale, color=colour, alpha=0.2, linewidth=0
                )
            for level, span in bars[name].items():
                at = 1.0 - level if slower else level
                axes.plot(np.multiply(span, scale), [at, at], color=colour, linewidth=4, alpha=0.45)
        if attainment is not None:
            axes.axhline(
                1 - attainment if slower else attainment, color=theme.role["limit"], linestyle=(0, (1.2, 1.2))
            )

    def limits(axes: Axes, theme: Theme, limit: float, slower: bool) -> None:
        words = "" if slower else f"limit {as_drawn.text(limit)}"
        if limit_line(axes, theme, "x", limit * scale, words, foot=True):
            # On it, the share of every sample.
            for i, share in enumerate(within.values()):
                at, colour = 1.0 - share if slower else share, theme.series[i % len(theme.series)]
                axes.plot(limit * scale, at, MARKERS[i % len(MARKERS)], color=colour, zorder=3)

    def draw(canvas: Canvas, theme: Theme) -> None:
        left, right = canvas.subplots(1, 2)
        curves(left, theme, slower=False)
        curves(right, theme, slower=True)
        left.set_ylim(0, 1)
        shares(left.yaxis)
        left.set_ylabel("requests within")
        rarest = min(max(1.0 / max(one.n, 1), 1e-6) for one in drawn.values())
        right.set_yscale("log")
        right.set_ylim(rarest, 1)
        shares(right.yaxis)
        right.set_ylabel("requests slower")
        ends = [one.values_s[[0, -1]] * scale for one in drawn.values()]
        least, most = min(end[0] for end in ends), max(end[1] for end in ends)
        for axes in (left, right):
            if least > 0 and most > _FAR * least:
                axes.set_xscale("log")
            if limit_s is not None:
                limits(axes, theme, limit_s, slower=axes is right)
            plain(axes.xaxis)
            axes.set_xlabel(as_drawn.axis)
        legend_below(canvas, 9.0, *left.get_legend_handles_labels())

    missing = {name: one.missing for name, one in drawn.items() if one.missing}
    said = [
        f"{shorten(name)}: {', '.join(f'p{100 * p:g} {as_drawn.text(one.at(p))}' for p in (0.5, 0.9, 0.99))}"
        for name, one in drawn.items()
    ]
    promise = ""
    if limit_s is not None:
        each = "; ".join(f"{shorten(name)} {percent(share)}" for name, share in within.items())
        promise = f" Within the limit of {as_drawn.text(limit_s)}: {each}."
        if attainment is not None:
            kept = [shorten(name) for name, share in within.items() if share >= attainment]
            promise += f" Promised for {percent(attainment)}: kept by {', '.join(kept) or 'none'}."
    gone = " Left out, without a value: " + "; ".join(f"{shorten(k)} {v:,}" for k, v in missing.items()) + "."
    band = " Bands: from the least to the most of what other runs give." * any(
        one.low_s is not None for one in drawn.values()
    )
    band += " Bars: intervals of percentiles." * any(bars.values())
    return Figure(
        "latency_cdf",
        f"How {as_drawn.words} is spread over requests",
        "Left: share of requests within a time. Right: share that is slower, down to one request."
        f"{promise}{band}{gone if missing else ''}",
        as_drawn.words,
        as_drawn.unit,
        n or _number_of(drawn),
        seed,
        _columns(drawn, bars),
        draw,
        9.0,
        3.1 + legend_in([f"{name}: 99.9 % in time" for name in map(shorten, drawn)], 9.0),
        f"{'; '.join(said)}.{promise}",
    )


def _number_of(drawn: Mapping[str, Quantiles]) -> str:
    """Requests of all samples, in words."""
    if len(drawn) <= 2:
        return " + ".join(count(one.n, "request") for one in drawn.values())
    return f"{count(sum(one.n for one in drawn.values()), 'request')} of {len(drawn)} runs"


def _columns(
    drawn: Mapping[str, Quantiles], bars: Mapping[str, Mapping[float, tuple[float, float]]]
) -> dict[str, list[object]]:
    """Quantiles, and rows of their own for those with an interval."""
    found: dict[str, list[object]] = {name: [] for name in ("sample", "level", "seconds")}
    ends: dict[str, list[object]] = {"low": [], "high": []}
    for name, one in drawn.items():
        levels = [*one.levels.tolist(), *bars[name]]
        found["sample"] += [name] * len(levels)
        found["level"] += levels
        found["seconds"] += [*one.values_s.tolist(), *(one.at(level) for level in bars[name])]
        for side, (column, values) in enumerate((("low", one.low_s), ("high", one.high_s))):
            ends[column] += [None] * len(one.levels) if values is None else values.tolist()
            ends[column] += [float(span[side]) for span in bars[name].values()]
    some = any(value is not None for value in ends["low"])
    return found | ends if some else found
