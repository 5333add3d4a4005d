"""The map of expert load: layers by experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.errors import ConfigError, Fault
from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.labels import check_lengths, check_loads, count

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: The colour scale of the heat map reaches from 1 / this to this times the mean.
_REACH = 8.0
#: Cells of a heat map, beyond which neighbours share one: more cannot be told apart, and would fill the page.
_MOST_ROWS, _MOST_COLUMNS = 256, 1024


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
        Without any load, with one that is negative or no number, or with another number of layers.

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
    check_loads(loads=table)
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
