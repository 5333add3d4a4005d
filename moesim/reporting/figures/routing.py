"""Figures of routing: which experts follow which, and how soon a token's experts come again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.given import F8, Checks, listed, percent, shares, thin
from moesim.reporting.figures.labels import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

#: The colour scale of the affinity map reaches from 1 / this to this times independence.
_REACH = 8.0
#: Experts of a layer that each get their id.
_NAMED = 32


def expert_affinity(
    matrix: npt.ArrayLike,
    layers: tuple[int, int],
    *,
    experts: tuple[Sequence[int], Sequence[int]] | None = None,
    by_id: bool = False,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """How much likelier an expert of a later layer is, given one of an earlier layer.

    Parameters
    ----------
    matrix
        ``[experts, experts]``: of the tokens at expert ``i`` of layer ``l``, the share that goes to ``j`` of
        layer ``m``, over that share of all tokens. 1 is independence; NaN where there are too few tokens to
        tell.
    layers
        Decoder indices ``l`` and ``m``.
    experts
        Ids of the rows and of the columns, where not all experts are in the matrix, as
        `moesim.analysis.affinity.Affinity` has them.
    by_id
        Keep experts in order of their ids. By default those that go together are put side by side, so that
        what belongs together lies about the diagonal.
    n
        What was counted, in words.
    seed
        Of the routing, where it was drawn.

    Raises
    ------
    ConfigError
        If the matrix is empty, holds what is no ratio, or has other than one row and column per expert.

    Examples
    --------
    >>> figure = expert_affinity([[1.5, 0.5], [0.5, 1.5]], (3, 4))
    >>> figure.data["over_independence"], figure.facts
    ([1.5, 0.5, 0.5, 1.5], 'pairs of experts over independence [ratio]; n = 2 x 2 experts; no randomness')
    """
    checks = Checks()
    table = checks.numbers("matrix", matrix, shape=(None, None), low=0.0, gaps=True)
    size = len(table)
    if experts is None and table.shape[1] != size:
        checks.numbers("matrix, square", table, shape=(size, size), gaps=True)
    given = experts or [range(side) for side in table.shape]
    both = [
        checks.numbers(f"experts[{axis}]", given[axis], shape=(side,), low=0, empty=True)
        for axis, side in enumerate(table.shape)
    ]
    checks.done()
    ids = [some.astype(np.int64) for some in both]
    rows, columns = (np.arange(side) for side in table.shape) if by_id else _together(table)
    i, j = (part.ravel() for part in np.meshgrid(*ids, indexing="ij"))
    known = table[np.isfinite(table)]
    first, second = layers

    def draw(canvas: Canvas, theme: Theme) -> None:
        from matplotlib.colors import LogNorm
        from matplotlib.ticker import NullFormatter

        axes = canvas.add_subplot()
        shown = np.ma.masked_invalid(np.clip(table[np.ix_(rows, columns)], 1 / _REACH, _REACH))
        image = axes.imshow(
            shown, cmap=theme.diverging, norm=LogNorm(1 / _REACH, _REACH), interpolation="none", aspect="auto"
        )
        axes.grid(False)
        # Out of order, some of many ids say nothing.
        most = _NAMED if max(table.shape) <= _NAMED else 9 if by_id else 0
        down, across = thin(len(rows), most), thin(len(columns), most)
        axes.set_yticks(down, [str(ids[0][rows[at]]) for at in down], fontsize="x-small")
        axes.set_xticks(across, [str(ids[1][columns[at]]) for at in across], fontsize="x-small", rotation=90)
        axes.set_ylabel(f"expert of layer {first}")
        axes.set_xlabel(f"expert of layer {second}")
        bar = canvas.colorbar(image, ax=axes, extend="both", label="over independence")
        ticks = [0.125, 0.25, 0.5, 1, 2, 4, 8]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        bar.outline.set_edgecolor(theme.ink)

    filled = np.nan_to_num(table, nan=-1.0)
    top = np.argsort(-filled, axis=None, kind="stable")[: min(3, len(known))]
    strongest = ", ".join(f"{i[at]} and {j[at]} ({table.flat[at]:.2g} times)" for at in top)
    twice = float((known >= 2).mean())
    gaps = table.size - len(known)
    side = "" if by_id else " Experts that go together are side by side."
    left = f" Grey: {gaps:,} pairs with too few tokens to tell." if gaps else ""
    return Figure(
        "expert_affinity",
        f"Which experts of layer {second} follow those of layer {first}",
        "How often two experts serve the same token, over how often they would if layers did not depend on "
        f"each other; 1 is independence, colours end at {_REACH:g} and its inverse. {percent(twice)} of "
        f"pairs come at least twice as often.{side}{left}",
        "pairs of experts over independence",
        "ratio",
        n or f"{table.shape[0]:,} x {table.shape[1]:,} experts",
        seed,
        {
            f"expert_layer_{first}": i.tolist(),
            f"expert_layer_{second}": j.tolist(),
            "over_independence": listed(table.ravel()),
        },
        draw,
        7.0,
        5.6,
        f"Map of {table.shape[0]} by {table.shape[1]} experts of layers {first} and {second}. Most above "
        f"independence: {strongest}. {percent(twice)} of pairs come at least twice as often as by chance.",
    )


def _together(table: F8) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Orders of rows and columns in which what is above independence lies about the diagonal.

    Rows lie around a circle, by the two directions in which they differ most; a column lies where the rows
    are that it goes with.
    """
    if min(table.shape) < 2:
        return np.arange(table.shape[0]), np.arange(table.shape[1])
    strength = np.nan_to_num(np.log2(np.clip(table, 1 / _REACH, _REACH)))
    strength = strength - strength.mean(axis=0) - strength.mean(axis=1)[:, None] + strength.mean()
    first, second = np.linalg.svd(strength, full_matrices=False)[0].T[:2]
    # Signs of directions are nobody's choice.
    first, second = (side * (np.sign(side[np.abs(side).argmax()]) or 1.0) for side in (first, second))
    around = np.arctan2(second, first)
    with_rows = np.angle(np.maximum(strength, 0.0).T @ np.exp(1j * around))
    # The circle is cut where there is most room between rows.
    places = np.sort(around)
    gaps = np.diff(places, append=places[0] + 2 * np.pi)
    start = places[gaps.argmax()] + gaps.max() / 2
    rows, columns = (
        np.argsort((angle - start) % (2 * np.pi), kind="stable") for angle in (around, with_rows)
    )
    return rows, columns


def token_reuse(
    lags: Sequence[int],
    overlap: npt.ArrayLike,
    *,
    random: float | None = None,
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """What share of a token's experts is that of the token so many before it.

    Parameters
    ----------
    lags
        Tokens between the two, ascending ``[lags]``.
    overlap
        Share of experts in common, ``[lags]``, or of each layer, ``[layers, lags]``; NaN where no request is
        long enough.
    random
        The same of two tokens at random.
    n
        What was counted, in words.
    seed
        Of the routing, where it was drawn.

    Raises
    ------
    ConfigError
        If lags do not ascend or shares are none.

    Examples
    --------
    >>> token_reuse([1, 4], [[0.5, 0.3], [0.3, 0.3]], random=0.2).alt
    'Experts in common fall from 40 % at a distance of 1 to 30 % at 4, against 20 % of two tokens at random.'
    """
    checks = Checks()
    steps = checks.numbers("lags", lags, low=1)
    rows = np.ndim(overlap)
    shape = (len(steps),) if rows < 2 else (None, len(steps))
    table = np.atleast_2d(checks.numbers("overlap", overlap, shape=shape, low=0.0, high=1.0, gaps=True))
    level = None if random is None else float(checks.numbers("random", [random], low=0.0, high=1.0)[0])
    if (np.diff(steps) <= 0).any():
        checks.numbers("lags, ascending", np.diff(steps), low=1)
    checks.done()
    seen = np.isfinite(table).any(axis=0)
    steps, table = steps[seen], table[:, seen]
    missing = int((~seen).sum())
    mean, low, high = np.nanmean(table, 0), np.nanmin(table, 0), np.nanmax(table, 0)
    several = len(table) > 1

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        if several:
            axes.fill_between(
                steps, low, high, color=theme.role["after"], alpha=0.2, linewidth=0, label="over layers"
            )
        axes.plot(
            steps,
            mean,
            marker="o",
            color=theme.role["after"],
            label="mean of layers" if several else "tokens",
        )
        if level is not None:
            axes.axhline(
                level, color=theme.role["bound"], linestyle=(0, (5, 2)), label="two tokens at random"
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [f"{step:g}" for step in steps])
        axes.minorticks_off()
        axes.set_ylim(0, max(float(high.max()), level or 0.0) * 1.12 or 1.0)
        shares(axes.yaxis)
        axes.set_xlabel("tokens between the two, of one request")
        axes.set_ylabel("experts in common")
        axes.legend()

    against = "" if level is None else f", against {percent(level)} of two tokens at random"
    short = f" Left out: {count(missing, 'lag')} that no request is long enough for." if missing else ""
    return Figure(
        "token_reuse",
        "How many of its experts a token shares with an earlier one",
        f"The share of a token's experts that the token so many before it chose as well{against}."
        f"{' Band: from the least to the most of all layers.' if several else ''}{short}",
        "experts in common with an earlier token",
        "share",
        n or (count(len(table), "layer") if several else count(len(steps), "lag")),
        seed,
        {
            "lag_tokens": steps.tolist(),
            "mean": mean.tolist(),
            **({"least": low.tolist(), "most": high.tolist()} if several else {}),
            **({} if level is None else {"random": [level] * len(steps)}),
        },
        draw,
        7.0,
        3.1,
        f"Experts in common fall from {percent(float(mean[0]))} at a distance of {steps[0]:g} to "
        f"{percent(float(mean[-1]))} at {steps[-1]:g}{against}."
        if mean[-1] < mean[0]
        else f"Experts in common: {percent(float(mean[0]))} at a distance of {steps[0]:g}, "
        f"{percent(float(mean[-1]))} at {steps[-1]:g}{against}.",
    )
