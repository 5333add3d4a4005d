"""Figures of caches of experts: what hits at which size, beside what no rule can beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import F8, Checks, legend_below, legend_in, listed, percent, shares, thin
from moesim.reporting.figures.labels import count, shorten
from moesim.reporting.figures.theme import LINES, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: The rule that no other beats.
BOUND = "belady"
_BEST = "belady (knows what comes)"
_POINTS = 300


def hit_ratio_curves(
    capacities: Sequence[float],
    curves: Mapping[str, Sequence[float | None]],
    *,
    objects: int | None = None,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Share of accesses that find their expert, by what the cache holds.

    Parameters
    ----------
    capacities
        Slots of a pool, ascending ``[capacities]``.
    curves
        Hit ratios by rule, ``[capacities]`` each; None where a rule was not replayed. ``belady`` is drawn as
        the bound, with what lies beyond it shaded.
    objects
        Experts that share a pool; gives the axis as a share as well.
    n
        What was replayed, in words.
    seed
        Of the replay, where something was random.

    Raises
    ------
    ConfigError
        If capacities do not ascend, nothing is drawn, or ratios are none.

    Examples
    --------
    >>> hit_ratio_curves([0, 1, 2], {"lru": [0, 0.4, 1], "belady": [0, 0.7, 1]}, objects=2).alt
    'Curves of lru, belady over 0 to 2 slots. lru stays up to 30.0 points below the bound
    (at 1 slots: 40 % against 70 %)'
    """
    checks = Checks()
    sizes = checks.numbers("capacities", capacities, low=0.0)
    if (np.diff(sizes) <= 0).any():
        checks.numbers("capacities, ascending", np.diff(sizes), low=1e-12)
    checks.some("curves", curves)
    rows = {
        name: checks.numbers(
            f"curves.{shorten(name)}", values, shape=(len(sizes),), low=0.0, high=1.0 + 1e-9, gaps=True
        )
        for name, values in curves.items()
    }
    if objects is not None:
        checks.numbers("objects", [objects], low=1)
    checks.done()
    rest = {name: values for name, values in rows.items() if name != BOUND}
    best = rows.get(BOUND)

    whole = float(objects or 1)

    def share_of(slots: npt.ArrayLike) -> F8:
        return np.asarray(slots, dtype=np.float64) / whole

    def slots_of(share: npt.ArrayLike) -> F8:
        return np.asarray(share, dtype=np.float64) * whole

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        some = thin(len(sizes), _POINTS)
        if best is not None:
            at = some[np.isfinite(best[some])]
            axes.fill_between(
                sizes[at], best[at], 1.0, color=theme.grid, linewidth=0, label="no rule gets here"
            )
            axes.plot(
                sizes[at],
                best[at],
                color=theme.role["bound"],
                linewidth=1.8,
                label=_BEST,
            )
        for i, (name, values) in enumerate(rest.items()):
            at = some[np.isfinite(values[some])]
            axes.plot(
                sizes[at],
                values[at],
                color=theme.series[i % len(theme.series)],
                linestyle=LINES[i % len(LINES)],
                marker=MARKERS[i % len(MARKERS)],
                markersize=4,
                markevery=max(1, len(at) // 8),
                label=shorten(name),
            )
        axes.set_ylim(0, 1)
        axes.set_xlim(float(sizes[0]), float(sizes[-1]) if len(sizes) > 1 else None)
        shares(axes.yaxis)
        axes.set_ylabel("hits of all accesses")
        axes.set_xlabel("slots of a pool" + ("" if objects is None else f" of {objects:,} experts"))
        if objects is not None:
            top = axes.secondary_xaxis("top", functions=(share_of, slots_of))
            shares(top.xaxis)
        axes.legend(loc="lower right")

    said = []
    if best is not None:
        for name, values in rest.items():
            both = np.isfinite(values) & np.isfinite(best)
            if both.any():
                gap = np.where(both, best - values, -np.inf)
                at = int(gap.argmax())
                said.append(
                    f"{shorten(name)} stays up to {100 * max(gap[at], 0.0):.1f} points below the bound "
                    f"(at {sizes[at]:g} slots: {percent(values[at])} against {percent(best[at])})"
                )
    gaps = "; ".join(said)
    bound = " No rule beats belady, which knows what comes." if best is not None else ""
    return Figure(
        "hit_ratio_curves",
        "What a cache of experts hits, by its size",
        f"Share of accesses that find their expert in the pool.{bound}" + (f" {gaps}." if gaps else ""),
        "hit ratio",
        "share",
        n or f"{count(len(rows), 'rule')} at {len(sizes):,} capacities",
        seed,
        {
            "slots": sizes.tolist(),
            **({} if objects is None else {"share_of_experts": (sizes / objects).tolist()}),
            **{name: listed(values) for name, values in rows.items()},
        },
        draw,
        7.5,
        4.0,
        f"Curves of {', '.join(map(shorten, rows))} over {sizes[0]:g} to {sizes[-1]:g} slots. {gaps}".strip(),
    )


def hits_by_layer(
    ratios: Mapping[str, Sequence[float | None]],
    layer_ids: Sequence[int],
    *,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Share of accesses of each layer that find their expert.

    Parameters
    ----------
    ratios
        Hit ratios by rule, ``[layers]`` each; None where a layer has no access. ``belady`` is the bound.
    layer_ids
        Decoder indices, ascending ``[layers]``.
    n
        What was replayed, in words.
    seed
        Of the replay, where something was random.

    Raises
    ------
    ConfigError
        If layers do not ascend, nothing is drawn, or ratios are none.

    Examples
    --------
    >>> hits_by_layer({"lru": [0.4, 0.6], "belady": [0.7, 0.8]}, [3, 4]).alt
    'lru: from 40 % (layer 3) to 60 % (layer 4); belady: from 70 % (layer 3) to 80 % (layer 4).'
    """
    checks = Checks()
    layers = checks.numbers("layer_ids", layer_ids, low=0)
    if (np.diff(layers) <= 0).any():
        checks.numbers("layer_ids, ascending", np.diff(layers), low=1)
    checks.some("ratios", ratios)
    rows = {
        name: checks.numbers(
            f"ratios.{shorten(name)}", values, shape=(len(layers),), low=0.0, high=1.0 + 1e-9, gaps=True
        )
        for name, values in ratios.items()
    }
    checks.done()
    rest = [name for name in rows if name != BOUND]

    def draw(canvas: Canvas, theme: Theme) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.add_subplot()
        if BOUND in rows:
            axes.plot(layers, rows[BOUND], color=theme.role["bound"], linewidth=1.8, label=_BEST)
        for i, name in enumerate(rest):
            axes.plot(
                layers,
                rows[name],
                color=theme.series[i % len(theme.series)],
                linestyle=LINES[i % len(LINES)],
                marker=MARKERS[i % len(MARKERS)],
                markersize=4,
                label=shorten(name),
            )
        axes.set_ylim(0, 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        shares(axes.yaxis)
        axes.set_xlabel("decoder layer")
        axes.set_ylabel("hits of all accesses")
        legend_below(canvas, 7.5, *axes.get_legend_handles_labels())

    said = []
    for name, values in rows.items():
        low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
        said.append(
            f"{shorten(name)}: from {percent(values[low])} (layer {layers[low]:g}) to "
            f"{percent(values[high])} (layer {layers[high]:g})"
        )
    bound = " No rule beats belady, which knows what comes." if BOUND in rows else ""
    return Figure(
        "hits_by_layer",
        "What a cache of experts hits in each layer",
        f"Share of a layer's accesses that find their expert.{bound} {'; '.join(said)}.",
        "hit ratio",
        "share",
        n or f"{count(len(rows), 'rule')} in {count(len(layers), 'layer')}",
        seed,
        {"layer_id": layers.astype(int).tolist(), **{name: listed(values) for name, values in rows.items()}},
        draw,
        7.5,
        2.9 + legend_in(list(rows), 7.5),
        f"{'; '.join(said)}.",
    )
