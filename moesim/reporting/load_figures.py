"""Figures of load: over experts, over layers, over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.reporting.documents import PLACEMENTS, Judged, LowerBound, RankLoads
from moesim.reporting.svg import COLOURS, Figure, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

#: The colour scale of the heat map reaches from 1 / this to this times the mean.
_REACH = 8.0


def expert_load_map(key: str, loads: list[list[float]], layer_ids: list[int], ranks: int) -> Figure:
    """Load of every expert of every layer, relative to its layer's mean, on a logarithmic colour scale.

    Parameters
    ----------
    loads
        ``[layers][experts]``, in selections.
    layer_ids
        Decoder index of each row.
    ranks
        Where experts in order are cut into ranks, if they divide.
    """
    table = np.asarray(loads, dtype=np.float64)
    layers, experts = table.shape
    mean = table.mean(axis=1, keepdims=True)
    share = np.divide(table, mean, out=np.full_like(table, np.nan), where=mean > 0)
    with np.errstate(divide="ignore"):
        octaves = np.clip(np.log2(share), -np.log2(_REACH), np.log2(_REACH))

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        image = axes.imshow(
            octaves,
            cmap="RdBu_r",
            vmin=-np.log2(_REACH),
            vmax=np.log2(_REACH),
            aspect="auto",
            interpolation="none",
        )
        axes.grid(False)
        axes.set_xlabel("expert" + (f" (ticks: {ranks} ranks, experts in order)" if cut else ""))
        axes.set_ylabel("decoder layer")
        rows = np.unique(np.linspace(0, layers - 1, min(layers, 8)).astype(int))
        axes.set_yticks(rows, [str(layer_ids[row]) for row in rows])
        if cut:
            axes.set_xticks(np.arange(0, experts, experts // ranks) - 0.5, minor=True)
            axes.tick_params(axis="x", which="minor", top=True, bottom=False, length=4, color="#444444")
        ticks = np.arange(-3, 4)
        bar = canvas.colorbar(image, ax=axes, ticks=ticks, pad=0.01, fraction=0.05)
        bar.ax.set_yticklabels(["≤ 1/8", "1/4", "1/2", "1", "2", "4", "≥ 8"])
        bar.set_label("load / mean of the layer")

    cut = experts % ranks == 0 and 1 < ranks < experts
    busy = share[~np.isnan(share).all(axis=1)]
    largest = f"The busiest expert takes {np.nanmax(share):.1f} times its layer's mean." if busy.size else ""
    title = "Expert load"
    caption = (
        f"Token-expert selections of each expert over the mean of its layer (1 = even), logarithmic colours. "
        f"n = {table.sum():,.0f} selections, {layers} MoE layers x {experts} experts. {largest}"
    )
    height = float(np.clip(1.2 + 0.045 * layers, 2.0, 5.5))
    return Figure(key, title, caption, render(key, draw, 9.0, height, f"{title}. {caption}"))


def imbalance_by_layer(
    key: str, judged: dict[str, Judged], bound: LowerBound, layer_ids: list[int], seed: int | None
) -> Figure:
    """Largest over mean rank load of each layer, by placement, with the bound; once whole, once near it."""
    other = any(found.evaluated is not None for found in judged.values())
    limit = _numbers(bound.per_layer)

    def lines(axes: Axes, load: str) -> None:
        for name in PLACEMENTS:
            found = getattr(judged[name], load) if name in judged else None
            if found is not None:
                colour, marker = COLOURS[name], _MARKERS[name]
                values = _numbers(found.per_layer)
                axes.plot(
                    layer_ids, values, label=name, color=colour, marker=marker, markersize=3, linewidth=1.2
                )
        if load == "fitted":
            axes.plot(layer_ids, limit, "--", color=COLOURS["bound"], linewidth=1, label="lower bound")
        axes.set_xlabel("decoder layer")

    def draw(canvas: Canvas) -> None:
        whole, near, *unseen = canvas.subplots(1, 2 + other)
        lines(whole, "fitted")
        whole.set_title("load the plan was fitted to")
        whole.set_ylabel("largest / mean rank load")
        lines(near, "fitted")
        near.set_title("the same, near the bound")
        near.ticklabel_format(axis="y", useOffset=False)
        near.set_ylim(_window(judged, limit))
        for axes in unseen:
            lines(axes, "evaluated")
            axes.set_title("other load, not seen by the plan")
        handles, names = whole.get_legend_handles_labels()
        canvas.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)

    title = "Balance of ranks, layer by layer"
    caption = (
        f"Largest over mean rank load (1 = even) of each of the {len(layer_ids)} MoE layers, by placement"
        f"{_seeded(seed)}. No placement with these slots lies below the dashed bound."
    )
    return Figure(key, title, caption, render(key, draw, 9.0, 3.1, f"{title}. {caption}"))


def _window(judged: dict[str, Judged], limit: list[float]) -> tuple[float, float]:
    """Heights that show the plan, its bound, and the greedy plan."""
    shown = [limit, *(_numbers(judged[n].fitted.per_layer) for n in ("plan", "greedy") if n in judged)]
    values = np.concatenate([np.asarray(part) for part in shown])
    values = values[~np.isnan(values)]
    low, high = (values.min(), values.max()) if values.size else (1.0, 1.0)
    room = max(high - low, 1e-4)
    return float(low - 0.1 * room), float(high + 0.1 * room)


def rank_loads(key: str, loads: RankLoads) -> Figure:
    """Load of every rank in the worst layer, sorted, before and after."""
    before, after = (np.sort(np.asarray(v))[::-1] for v in (loads.contiguous, loads.plan))
    mean = float(before.mean())

    def draw(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        place = np.arange(len(before))
        axes.bar(place - 0.2, before / mean, 0.4, color=COLOURS["contiguous"], label="contiguous")
        axes.bar(place + 0.2, after / mean, 0.4, color=COLOURS["plan"], label="plan")
        axes.axhline(1, color=COLOURS["bound"], linestyle="--", linewidth=1, label="mean")
        axes.grid(False, axis="x")
        axes.set_xlim(-0.7, len(before) - 0.3)
        axes.set_xlabel("rank, the busiest first")
        axes.set_ylabel("load / mean")
        axes.legend(ncols=3, loc="upper right")

    title = f"Ranks of the worst layer (decoder layer {loads.layer_id})"
    caption = (
        f"Load of each of the {len(before)} ranks over the mean of {mean:,.0f} selections, sorted for each "
        f"placement by itself: everyone waits for the leftmost bar."
    )
    return Figure(key, title, caption, render(key, draw, 9.0, 2.6, f"{title}. {caption}"))


_MARKERS = {"contiguous": "o", "greedy": "s", "plan": "D"}


def _numbers(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _seeded(seed: int | None) -> str:
    return "" if seed is None else f" (seed {seed})"
