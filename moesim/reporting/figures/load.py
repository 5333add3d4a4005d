"""Figures of load: over ranks, and over layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.labels import (
    check_curves,
    check_lengths,
    check_loads,
    columns,
    count,
    numbers,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: Beyond, bars become outlines, and curves go without markers.
_MOST_BARS, _MOST_MARKERS = 64, 100
#: Steps of an outline, beyond which every so many ranks share one.
_MOST_STEPS = 1000


def rank_loads(
    before: ArrayLike,
    after: ArrayLike,
    layer_id: int,
    *,
    names: tuple[str, str] = ("contiguous", "plan"),
    seed: int | None = None,
) -> Figure:
    """Load of every rank of one layer, sorted, before and after.

    Parameters
    ----------
    before, after
        ``[ranks]``, in selections.
    layer_id
        Decoder index of the layer.
    names
        Of the two.

    Raises
    ------
    ConfigError
        Without any rank, with two numbers of them, or with a load that is negative or no number.

    Examples
    --------
    >>> rank_loads([1, 6, 3, 2], [3, 3, 2, 4], 9).data["contiguous"]
    [6.0, 3.0, 2.0, 1.0]
    """
    first, second = (np.sort(np.asarray(v, dtype=np.float64).ravel())[::-1] for v in (before, after))
    check_lengths(before=first, after=second)
    check_loads(before=first, after=second)
    mean, every = float(first.mean()) or 1.0, -(-len(first) // _MOST_STEPS)
    shown = first[::every], second[::every]
    edges = np.append(np.arange(0, len(first), every), len(first)) - 0.5
    roles = ("before", "after")

    def draw(canvas: Canvas, theme: Theme) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.add_subplot()
        place = np.arange(len(first))
        for role, name, values, shift, hatch in zip(
            roles, names, shown, (-0.2, 0.2), ("////", ""), strict=True
        ):
            colour = theme.role[role]
            if len(first) <= _MOST_BARS:
                axes.bar(place + shift, values / mean, 0.4, color=colour, edgecolor=theme.paper, hatch=hatch,
                         linewidth=0, label=shorten(name))  # fmt: skip
            else:
                axes.stairs(values / mean, edges, color=colour, linewidth=1.6,
                            linestyle="--" if hatch else "-", label=shorten(name))  # fmt: skip
        axes.axhline(1, color=theme.role["bound"], linestyle=":", linewidth=1.2, label="mean")
        axes.grid(False, axis="x")
        axes.set_xlim(-0.7, len(first) - 0.3)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("rank, the busiest first")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("load / mean")
        axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)

    busiest = (
        f"The busiest rank takes {first[0] / mean:.2f} times the mean with {names[0]}, "
        f"{second[0] / mean:.2f} times with {names[1]}."
    )
    caption = (
        f"Load of each of the {count(len(first), 'rank')} over the mean of {first.mean():,.0f} selections, "
        f"sorted for each placement by itself: everyone waits for the leftmost bar. {busiest}"
        + (f" Each step is the busiest of {every} ranks." if every > 1 else "")
    )
    title = f"Ranks of decoder layer {layer_id}"
    return Figure(
        name="rank_loads",
        title=title,
        caption=caption,
        metric="rank load over the mean",
        unit="ratio",
        n=f"{count(len(first), 'rank')}, {first.sum():,.0f} selections",
        seed=seed,
        data={
            "place": list(range(1, len(first) + 1, every)),
            names[0]: shown[0].tolist(),
            names[1]: shown[1].tolist(),
        },
        draw=draw,
        height_in=2.7,
        alt=f"{title}. {busiest}",
    )


def imbalance_by_layer(
    curves: Mapping[str, Sequence[float | None]],
    layer_ids: Sequence[int],
    *,
    bound: Sequence[float | None] | None = None,
    elsewhere: Mapping[str, Sequence[float | None]] | None = None,
    seed: int | None = None,
) -> Figure:
    """Largest over mean rank load of each layer, by placement, with the bound; once whole, once near it.

    Parameters
    ----------
    curves
        ``[layers]`` by name of the placement: ``contiguous``, ``greedy`` and ``plan`` have
        colours of their own.
    layer_ids
        Decoder index of each layer.
    bound
        ``[layers]``: what no placement goes below.
    elsewhere
        The same placements on loads that they were not made for.

    Raises
    ------
    ConfigError
        Without any curve, or where one has another number of layers.

    Examples
    --------
    >>> figure = imbalance_by_layer({"contiguous": [2.0, 1.5], "plan": [1.1, None]}, [3, 4], bound=[1.0, 1.0])
    >>> list(figure.data)
    ['layer_id', 'contiguous', 'plan', 'bound']
    """
    unseen = dict(elsewhere or {})
    limit = {} if bound is None else {"bound": bound}
    check_curves(
        {**curves, **limit, **{f"{n} elsewhere": v for n, v in unseen.items()}}, len(layer_ids), "layers"
    )
    drawn = {name: numbers(values) for name, values in curves.items()}
    floor = None if bound is None else numbers(bound)

    def lines(axes: Axes, found: Mapping[str, NDArray[np.float64]], theme: Theme) -> None:
        looks = theme.lines({**drawn, **found})
        for name, values in found.items():
            look = looks[name]
            if len(layer_ids) > _MOST_MARKERS:
                look["marker"] = ""
            axes.plot(layer_ids, values, label=shorten(name), markersize=3, linewidth=1.2, **look)
        axes.set_xlabel("decoder layer")

    def with_bound(axes: Axes, theme: Theme) -> None:
        lines(axes, drawn, theme)
        if floor is not None:
            axes.plot(layer_ids, floor, label="lower bound", linewidth=1, **theme.line("bound"))

    def draw(canvas: Canvas, theme: Theme) -> None:
        from matplotlib.ticker import MaxNLocator

        whole, *others = canvas.subplots(1, 1 + (floor is not None) + bool(unseen), squeeze=False)[0]
        with_bound(whole, theme)
        if others:
            whole.set_title("load the plan was fitted to")
        whole.set_ylabel("largest / mean rank load")
        if floor is not None:
            near = others[0]
            with_bound(near, theme)
            near.set_title("the same, near the bound")
            near.set_ylim(_window(drawn, floor))
        if unseen:
            lines(others[-1], {name: numbers(values) for name, values in unseen.items()}, theme)
            others[-1].set_title("other load, not seen")
        for axes in (whole, *others):
            axes.ticklabel_format(axis="y", useOffset=False)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, names = whole.get_legend_handles_labels()
        canvas.legend(handles, names, loc="outside lower center", ncols=columns(names), fontsize="small")

    means = ", ".join(
        f"{np.nanmean(v):.3f} with {name}" if len(drawn) > 1 else f"{np.nanmean(v):.3f}"
        for name, v in drawn.items()
        if not np.isnan(v).all()
    )
    by = ", by placement" if len(drawn) > 1 or floor is not None else ""
    below = " No placement with these slots lies below the dashed bound." if floor is not None else ""
    average = f" On average {means}." if means else ""
    title = "Balance of ranks, layer by layer"
    return Figure(
        name="imbalance_by_layer",
        title=title,
        caption=f"Largest over mean rank load (1 = even) of each MoE layer{by}.{below}{average}",
        metric="largest over mean rank load",
        unit="ratio",
        n=count(len(layer_ids), "MoE layer"),
        seed=seed,
        data={
            "layer_id": list(layer_ids),
            **{name: list(values) for name, values in curves.items()},
            **{name: list(values) for name, values in limit.items()},
            **{f"{name} elsewhere": list(values) for name, values in unseen.items()},
        },
        draw=draw,
        alt=f"{title}: largest over mean rank load.{average}",
    )


def _window(curves: Mapping[str, NDArray[np.float64]], limit: NDArray[np.float64]) -> tuple[float, float]:
    """Heights that show the bound and the placements near it: all but the highest curve."""
    tops = {name: float(np.nanmean(v)) for name, v in curves.items() if not np.isnan(v).all()}
    highest = max(tops, key=lambda name: tops[name], default="") if len(tops) > 1 else ""
    shown = np.concatenate([limit, *(curves[name] for name in tops if name != highest)])
    shown = shown[~np.isnan(shown)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (1.0, 1.0)
    room = max(high - low, 1e-4)
    return low - 0.1 * room, high + 0.1 * room
