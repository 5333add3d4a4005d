"""Figures of load: over experts, over layers, over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.errors import ConfigError, Fault
from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.labels import check_curves, check_lengths, columns, count, numbers, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: The colour scale of the heat map reaches from 1 / this to this times the mean.
_REACH = 8.0
#: Cells of a heat map, beyond which neighbours share one: more cannot be told apart, and would fill the page.
_MOST_ROWS, _MOST_COLUMNS = 256, 1024
#: Beyond, bars become outlines, and curves go without markers.
_MOST_BARS, _MOST_MARKERS = 64, 100


def expert_load_map(
    loads: ArrayLike, layer_ids: Sequence[int], *, ranks: int | None = None, seed: int | None = None
) -> Figure:
    """Load of every expert of every layer, relative to its layer's mean, on a logarithmic colour scale.

    Parameters
    ----------
    loads
        ``[layers, experts]``, in selections.
    layer_ids
        Decoder index of each row.
    ranks
        Where experts in order are cut into ranks, if they divide.

    Raises
    ------
    ConfigError
        Without any load, or with another number of layers.

    Examples
    --------
    >>> figure = expert_load_map([[1, 1, 2, 4], [5, 5, 5, 5]], [3, 4], ranks=2)
    >>> figure.n, figure.data["share"][:4]
    ('28 selections, 2 MoE layers x 4 experts', [0.5, 0.5, 1.0, 2.0])
    """
    table = np.asarray(loads, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ConfigError(
            Fault("has this shape", "loads", table.shape, "[layers, experts], none of them zero")
        )
    check_lengths(loads=table, layer_ids=layer_ids)
    layers, experts = table.shape
    mean = table.mean(axis=1, keepdims=True)
    share = np.divide(table, mean, out=np.full_like(table, np.nan), where=mean > 0)
    tall, wide = -(-layers // _MOST_ROWS), -(-experts // _MOST_COLUMNS)
    cells = _busiest(share, tall, wide)
    with np.errstate(divide="ignore"):
        octaves = np.clip(np.log2(cells), -np.log2(_REACH), np.log2(_REACH))
    cut = ranks if ranks and experts % ranks == 0 and 1 < ranks < experts else None
    first = [int(layer_ids[row]) for row in range(0, layers, tall)]

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        image = axes.imshow(
            np.ma.masked_invalid(octaves),
            cmap=theme.diverging,
            vmin=-np.log2(_REACH),
            vmax=np.log2(_REACH),
            aspect="auto",
            interpolation="none",
            extent=(-0.5, experts - 0.5, layers - 0.5, -0.5),
        )
        axes.grid(False)
        axes.spines[:].set_visible(True)
        axes.set_xlabel("expert" + (f" (ticks on top: {cut} ranks, experts in order)" if cut else ""))
        axes.set_ylabel("decoder layer")
        rows = np.unique(np.linspace(0, layers - 1, min(layers, 8)).astype(int))
        axes.set_yticks(rows, [str(layer_ids[row]) for row in rows])
        if cut and cut <= 512:
            axes.set_xticks(np.arange(0, experts, experts // cut) - 0.5, minor=True)
            axes.tick_params(axis="x", which="minor", top=True, bottom=False, length=4, color=theme.dim)
        bar = canvas.colorbar(image, ax=axes, ticks=np.arange(-3, 4), pad=0.01, fraction=0.05)
        bar.ax.set_yticklabels(["≤ 1/8", "1/4", "1/2", "1", "2", "4", "≥ 8"])
        bar.ax.grid(False)
        bar.set_label("load / mean of the layer")

    idle = int((mean <= 0).sum())
    notes = [f"Cells are the busiest of {tall} layers x {wide} experts."] if tall * wide > 1 else []
    notes += [f"Grey: {count(idle, 'layer')} without any load."] if idle else []
    if idle < layers:
        row, expert = divmod(int(np.nanargmax(share)), experts)
        notes.append(
            f"The busiest expert, {expert} of decoder layer {layer_ids[row]}, takes "
            f"{share[row, expert]:.1f} times its layer's mean."
        )
    caption = (
        "Token-expert selections of each expert over the mean of its layer (1 = even), logarithmic colours."
    )
    return Figure(
        name="expert_load_map",
        title="Expert load",
        caption=" ".join([caption, *notes]),
        metric="expert load over the mean of its layer",
        unit="ratio",
        n=f"{table.sum():,.0f} selections, {layers} MoE layers x {experts} experts",
        seed=seed,
        data={
            "layer_id": np.repeat(first, cells.shape[1]).tolist(),
            "expert": np.tile(np.arange(0, experts, wide), cells.shape[0]).tolist(),
            "share": [None if np.isnan(value) else value for value in cells.ravel().tolist()],
        },
        draw=draw,
        height_in=float(np.clip(1.2 + 0.045 * layers, 2.0, 5.5)),
        alt=" ".join([f"Expert load of {layers} layers x {experts} experts.", *notes]),
    )


def _busiest(share: NDArray[np.float64], tall: int, wide: int) -> NDArray[np.float64]:
    """The largest of each block of ``tall x wide`` cells; NaN where all are."""
    layers, experts = share.shape
    room = np.full((-(-layers // tall) * tall, -(-experts // wide) * wide), np.nan)
    room[:layers, :experts] = share
    blocks = room.reshape(room.shape[0] // tall, tall, room.shape[1] // wide, wide)
    found: NDArray[np.float64] = np.fmax.reduce(np.fmax.reduce(blocks, axis=3), axis=1)
    return found


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
        Without any rank, or with two numbers of them.

    Examples
    --------
    >>> rank_loads([1, 6, 3, 2], [3, 3, 2, 4], 9).data["contiguous"]
    [6.0, 3.0, 2.0, 1.0]
    """
    first, second = (np.sort(np.asarray(v, dtype=np.float64).ravel())[::-1] for v in (before, after))
    check_lengths(before=first, after=second)
    mean = float(first.mean()) or 1.0
    roles = ("before", "after")

    def draw(canvas: Canvas, theme: Theme) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.add_subplot()
        place = np.arange(len(first))
        for role, name, values, shift, hatch in zip(
            roles, names, (first, second), (-0.2, 0.2), ("////", ""), strict=True
        ):
            colour = theme.role[role]
            if len(first) <= _MOST_BARS:
                axes.bar(place + shift, values / mean, 0.4, color=colour, edgecolor=theme.paper, hatch=hatch,
                         linewidth=0, label=shorten(name))  # fmt: skip
            else:
                axes.stairs(values / mean, np.arange(len(first) + 1) - 0.5, color=colour, linewidth=1.6,
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
        data={"place": list(range(1, len(first) + 1)), names[0]: first.tolist(), names[1]: second.tolist()},
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
