"""The load of a run over its time: who runs, who waits, how full the cache is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import Checks, listed, percent, shares
from moesim.reporting.figures.labels import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme


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
