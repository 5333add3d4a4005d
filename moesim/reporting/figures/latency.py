"""Figures of latency: how it is spread over requests beside what was promised, and the queue over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import Checks, listed, percent, plain, quantity, shares
from moesim.reporting.figures.labels import count, shorten
from moesim.reporting.figures.quantiles import Quantiles
from moesim.reporting.figures.theme import LINES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: With so few levels each is marked.
_FEW = 12


def latency_cdf(
    samples: Mapping[str, npt.ArrayLike | Quantiles],
    metric: str = "ttft_s",
    *,
    limit_s: float | None = None,
    attainment: float | None = None,
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
            if name in within and limit_s is not None:
                share_of = 1.0 - within[name] if slower else within[name]
                axes.plot(limit_s * scale, share_of, MARKERS[i % len(MARKERS)], color=colour, zorder=3)
            if one.low_s is not None and one.high_s is not None:
                axes.fill_betweenx(
                    share, one.low_s * scale, one.high_s * scale, color=colour, alpha=0.2, linewidth=0
                )
        if limit_s is not None:
            axes.axvline(limit_s * scale, color=theme.role["limit"], linestyle=(0, (5, 2)))
        if attainment is not None:
            axes.axhline(
                1 - attainment if slower else attainment, color=theme.role["limit"], linestyle=(0, (1.2, 1.2))
            )

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
        spread = [v for v in (least, *([limit_s * scale] if limit_s else [])) if v > 0]
        for axes in (left, right):
            if spread and most > 30 * min(spread):
                axes.set_xscale("log")
                plain(axes.xaxis)
            axes.set_xlabel(as_drawn.axis)
        if limit_s is not None:
            left.annotate(
                f"limit {as_drawn.text(limit_s)}",
                (limit_s * scale, 0.02),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize="small",
                color=theme.ink,
            )
        handles, names = left.get_legend_handles_labels()
        canvas.legend(handles, names, loc="outside lower center", ncols=min(len(names), 3), fontsize="small")

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
    return Figure(
        "latency_cdf",
        f"How {as_drawn.words} is spread over requests",
        "Left: share of requests within a time. Right: share that is slower, down to one request."
        f"{promise}{band}{gone if missing else ''}",
        as_drawn.words,
        as_drawn.unit,
        n or " + ".join(count(one.n, "request") for one in drawn.values()),
        seed,
        _columns(drawn),
        draw,
        9.0,
        3.4 + 0.18 * (len(drawn) // 3),
        f"{'; '.join(said)}.{promise}",
    )


def _columns(drawn: Mapping[str, Quantiles]) -> dict[str, list[object]]:
    bands = any(one.low_s is not None for one in drawn.values())
    found: dict[str, list[object]] = {name: [] for name in ("sample", "level", "seconds")}
    for name, one in drawn.items():
        found["sample"] += [name] * len(one.levels)
        found["level"] += one.levels.tolist()
        found["seconds"] += one.values_s.tolist()
        if bands:
            blank = np.full(len(one.levels), np.nan)
            for column, ends in (("low", one.low_s), ("high", one.high_s)):
                found.setdefault(column, [])
                found[column] += listed(blank if ends is None else ends)
    return found


def serving_over_time(
    edges_s: npt.ArrayLike,
    running: npt.ArrayLike,
    waiting: npt.ArrayLike,
    *,
    kv_share: npt.ArrayLike | None = None,
    window_s: tuple[float, float] | None = None,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Requests that run and wait, and the part of the cache in use, over the time of a run.

    Parameters
    ----------
    edges_s
        Ends of equal spans of time, ``[spans + 1]``, as `moesim.serving.over_time.over_time` makes them.
    running, waiting
        Mean number of requests in each span, ``[spans]``.
    kv_share
        Mean share of the cache in use, ``[spans]``; NaN where it is not known.
    window_s
        From when to when the run was judged.
    n
        What was counted, in words.
    seed
        Of the simulation.

    Raises
    ------
    ConfigError
        If times do not ascend or lengths differ.

    Examples
    --------
    >>> serving_over_time([0, 10, 20], [4, 2], [1, 0]).alt
    'Over 20 s: On average 3 run (at most 4) and 0.5 wait (at most 1).'
    """
    checks = Checks()
    edges = checks.numbers("edges_s", edges_s)
    spans = max(len(edges) - 1, 0)
    if (np.diff(edges) <= 0).any() or not spans:
        checks.numbers("edges_s, ascending", np.diff(edges), low=1e-12)
    busy = checks.numbers("running", running, shape=(spans,), low=0.0)
    queue = checks.numbers("waiting", waiting, shape=(spans,), low=0.0)
    cache = None
    if kv_share is not None:
        cache = checks.numbers("kv_share", kv_share, shape=(spans,), low=0.0, high=1.0 + 1e-9, gaps=True)
    checks.done()

    def draw(canvas: Canvas, theme: Theme) -> None:
        from matplotlib.ticker import MaxNLocator

        if cache is None:
            panels = [canvas.add_subplot()]
        else:
            panels = list(canvas.subplots(2, 1, sharex=True, height_ratios=(2, 1)))
        top = panels[0]
        top.stairs(busy, edges, color=theme.role["after"], fill=True, alpha=0.35, linewidth=0)
        top.stairs(busy, edges, color=theme.role["after"], linewidth=1.2, label="running")
        top.stairs(queue, edges, color=theme.role["before"], linewidth=1.4, linestyle="--", label="waiting")
        top.set_ylim(0, max(float(busy.max()), float(queue.max()), 1.0) * 1.1)
        top.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        top.set_ylabel("requests")
        if cache is not None:
            panels[1].stairs(cache, edges, color=theme.role["balanced"], fill=True, alpha=0.5)
            panels[1].set_ylim(0, 1)
            shares(panels[1].yaxis)
            panels[1].set_ylabel("cache in use")
        if window_s is not None:
            for axes in panels:
                for end in window_s:
                    axes.axvline(end, color=theme.dim, linestyle=(0, (1.2, 1.2)), linewidth=1)
        panels[-1].set_xlim(edges[0], edges[-1])
        panels[-1].set_xlabel("time, s")
        top.legend(ncols=2, loc="upper right", fontsize="small")

    width = np.diff(edges)
    means = [float((part * width).sum() / width.sum()) for part in (busy, queue)]
    full = "" if cache is None else f" At most {percent(float(np.nanmax(cache)))} of the cache is in use."
    between = "" if window_s is None else " Dotted: the part of the run that is judged."
    said = (
        f"On average {means[0]:.3g} run (at most {busy.max():.3g}) and {means[1]:.3g} wait (at most "
        f"{queue.max():.3g}).{full}"
    )
    return Figure(
        "serving_over_time",
        "Requests running and waiting over time",
        f"Means over {spans:,} spans of {width[0]:.3g} s. {said}{between}",
        "requests at a time" + ("" if cache is None else ", and part of the cache in use"),
        "requests" + ("" if cache is None else "; share"),
        n or count(spans, "span"),
        seed,
        {
            "from_s": edges[:-1].tolist(),
            "to_s": edges[1:].tolist(),
            "running": busy.tolist(),
            "waiting": queue.tolist(),
            **({} if cache is None else {"kv_share": listed(cache)}),
        },
        draw,
        9.0,
        2.6 if cache is None else 3.8,
        f"Over {edges[-1] - edges[0]:.4g} s: {said}",
    )
