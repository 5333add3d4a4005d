"""What ran when: lanes of slices over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moesim.errors import ConfigError, Fault
from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.fitting import when_drawn
from moesim.reporting.figures.labels import columns, count, number, shorten, time_unit
from moesim.reporting.figures.theme import HATCHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure as Canvas

    from moesim.reporting.figures.theme import Theme

Array = NDArray[np.float64]

#: Slices that are drawn one by one, tracks that have a lane, slices that may have room for a name.
_MOST_SLICES, _MOST_TRACKS, _MOST_NAMES = 1000, 40, 300
#: Thin is what is shorter than this part of the whole.
_WIDEST_THIN = 100
#: Steps of all outlines together, where there are more slices; and stretches of time at least.
_MOST_STEPS, _FEWEST = 4000, 24
_OTHER = "other"


@dataclass(frozen=True, slots=True)
class Slice:
    """Something that ran for a while.

    Parameters
    ----------
    track
        The lane: a stream, a rank, a link, a request.
    name
        What ran.
    start_s, seconds
        When it began, and for how long.
    kind
        What gives it its colour; its name if empty.
    """

    track: str
    name: str
    start_s: float
    seconds: float
    kind: str = ""


class Ran(Protocol):
    """What has the fields of a `Slice`, as those of `moesim.prediction.step_timeline` have."""

    @property
    def track(self) -> str:
        """The lane."""

    @property
    def name(self) -> str:
        """What ran."""

    @property
    def start_s(self) -> float:
        """When it began."""

    @property
    def seconds(self) -> float:
        """For how long."""

    @property
    def kind(self) -> str:
        """What gives it its colour."""


def timeline(
    slices: Sequence[Ran],
    *,
    title: str = "What ran when",
    metric: str = "time",
    n: str | None = None,
    seed: int | None = None,
) -> Figure:
    """Lanes of slices over time, one lane for each track, in the order in which tracks first appear.

    More than a thousand slices are drawn as shares: equal stretches of time, in each of which the heights of
    the colours are the parts of it that they take.

    Raises
    ------
    ConfigError
        Where no slice takes any time.

    Examples
    --------
    >>> work = [Slice("stream 0", "attention", 0.0, 0.002), Slice("stream 1", "dispatch", 0.001, 0.003)]
    >>> timeline(work).facts
    'time [ms]; n = 2 slices on 2 tracks; no randomness'
    """
    timed = [s for s in slices if math.isfinite(s.start_s) and math.isfinite(s.seconds) and s.seconds > 0]
    if not timed:
        raise ConfigError(Fault("takes no time", "slices", allowed="one slice of some length at least"))
    tracks = list(dict.fromkeys(s.track for s in timed))
    lanes = {track: nth for nth, track in enumerate(tracks[:_MOST_TRACKS])}
    seen = [Slice(s.track, s.name, s.start_s, s.seconds, s.kind or s.name) for s in timed if s.track in lanes]
    seen, kinds = _grouped(seen)
    start, end = min(s.start_s for s in seen), max(s.start_s + s.seconds for s in seen)
    outlines = len({(s.track, s.kind) for s in seen})
    edges = np.linspace(start, end, 1 + max(_FEWEST, _MOST_STEPS // outlines))
    dense = len(seen) > _MOST_SLICES
    drawn = _shares(seen, edges) if dense else seen
    scale, unit = time_unit([end - start])
    wide = columns([shorten(kind, 24) for kind in kinds])
    lane_in = 0.5 if dense and len(lanes) <= 12 else 0.3

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.add_subplot()
        looks: dict[str, dict[str, Any]] = {
            kind: {"color": colour, "hatch": hatch, "edgecolor": theme.paper, "label": shorten(kind, 24)}
            for kind, colour, hatch in zip(kinds, (*theme.series, theme.dim), (*HATCHES, ""), strict=False)
        }
        if dense:
            _stacks(axes, drawn, lanes, edges, scale, looks)
        else:
            _bars(axes, drawn, lanes, scale, (end - start) / _WIDEST_THIN, looks)
            _names(axes, drawn, lanes, scale, looks)
        axes.set_yticks(list(lanes.values()), [shorten(track, 28) for track in lanes])
        axes.set_ylim(len(lanes) - 0.4, -0.6)
        axes.set_xlim(start * scale, end * scale)
        axes.set_xlabel(f"{metric}, {unit}")
        axes.grid(False, axis="y")
        named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        canvas.legend(
            list(named.values()), list(named), loc="outside lower center", ncols=wide, fontsize="small"
        )

    busy = dict.fromkeys(lanes, 0.0)
    for s in seen:
        busy[s.track] += s.seconds
    shares = ", ".join(
        f"{track} {seconds / (end - start):.0%}"
        for track, seconds in sorted(busy.items(), key=lambda item: -item[1])[:5]
    )
    notes = [f"One lane for each track. Busy: {shares}."]
    if dense:
        pitch = number((edges[1] - edges[0]) * scale)
        notes.append(f"Heights are shares of stretches of {pitch} {unit}: there are too many slices to draw.")
    if len(tracks) > _MOST_TRACKS:
        notes.append(f"The first {_MOST_TRACKS} of {count(len(tracks), 'track')}.")
    if len(timed) < len(slices):
        notes.append(f"Left out: {count(len(slices) - len(timed), 'slice')} without a length.")
    return Figure(
        name="timeline",
        title=title,
        caption=" ".join(notes),
        metric=metric,
        unit=unit,
        n=n or f"{count(len(seen), 'slice')} on {count(len(lanes), 'track')}",
        seed=seed,
        data={
            "track": [s.track for s in drawn],
            "name": [s.name for s in drawn],
            "kind": [s.kind for s in drawn],
            "start_s": [s.start_s for s in drawn],
            "seconds": [s.seconds for s in drawn],
        },
        draw=draw,
        height_in=1.1 + lane_in * len(lanes) + 0.18 * -(-len(kinds) // wide),
        alt=f"{title}: {number((end - start) * scale)} {unit}. Busy: {shares}.",
    )


def _grouped(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """Slices of few kinds, and these kinds: those that take least time are one."""
    spent: dict[str, float] = {}
    for s in slices:
        spent[s.kind] = spent.get(s.kind, 0.0) + s.seconds
    kinds = sorted(spent, key=lambda kind: (-spent[kind], kind))
    few = set(kinds[: len(HATCHES)])
    if len(few) == len(kinds):
        return slices, kinds
    grouped = [s if s.kind in few else replace(s, kind=_OTHER) for s in slices]
    return grouped, [*(kind for kind in kinds[: len(HATCHES)] if kind != _OTHER), _OTHER]


def _shares(slices: Sequence[Slice], edges: Array) -> list[Slice]:
    """Seconds of each kind on each track in each stretch between edges, those that are not zero."""
    of: dict[tuple[str, str], list[Slice]] = {}
    for s in slices:
        of.setdefault((s.track, s.kind), []).append(s)
    found = []
    for (track, kind), some in of.items():
        starts = np.array([s.start_s for s in some])
        ends = starts + np.array([s.seconds for s in some])
        # Seconds before an edge: what has begun by then less what has ended.
        before = _since(starts, edges) - _since(ends, edges)
        found += [
            Slice(track, kind, float(edge), float(seconds), kind)
            for edge, seconds in zip(edges, np.diff(before), strict=False)
            if seconds > 1e-12 * (edges[-1] - edges[0])
        ]
    return found


def _since(moments: Array, edges: Array) -> Array:
    """Seconds from each of the moments to an edge, of those before it, summed: ``[edges]``."""
    ordered = np.sort(moments)
    sums = np.concatenate([[0.0], np.cumsum(ordered - edges[0])])
    past = np.searchsorted(ordered, edges)
    return np.asarray(past * (edges - edges[0]) - sums[past])


def _bars(
    axes: Axes,
    slices: Sequence[Slice],
    lanes: Mapping[str, int],
    scale: float,
    thin_s: float,
    looks: Mapping[str, dict[str, Any]],
) -> None:
    """A bar for each slice; where it is thin, lines across it would hide its colour."""
    for kind, look in looks.items():
        of = [s for s in slices if s.kind == kind]
        for some, style in (
            ([s for s in of if s.seconds > thin_s], look | {"linewidth": 0.4}),
            ([s for s in of if s.seconds <= thin_s], look | {"linewidth": 0, "hatch": ""}),
        ):
            if some:
                widths, lefts = ([getattr(s, name) * scale for s in some] for name in ("seconds", "start_s"))
                axes.barh([lanes[s.track] for s in some], widths, 0.8, left=lefts, **style)


def _stacks(
    axes: Axes,
    stretches: Sequence[Slice],
    lanes: Mapping[str, int],
    edges: Array,
    scale: float,
    looks: Mapping[str, dict[str, Any]],
) -> None:
    """One outline for each kind on each track, on top of each other within the lane."""
    heights = {(track, kind): np.zeros(len(edges) - 1) for track in lanes for kind in looks}
    pitch, named = edges[1] - edges[0], set[str]()
    for s in stretches:
        heights[s.track, s.kind][round((s.start_s - edges[0]) / pitch)] += s.seconds / pitch
    for track, lane in lanes.items():
        total = np.sum([heights[track, kind] for kind in looks], axis=0)
        # Slices that overlap fill their lane, and no other.
        fit = 0.8 / max(1.0, float(total.max()))
        base = np.full(len(total), lane + 0.4)
        for kind, look in looks.items():
            if heights[track, kind].any():
                top = base - fit * heights[track, kind]
                look = look if kind not in named else {**look, "label": ""}
                named.add(kind)
                axes.stairs(top, edges * scale, baseline=base, fill=True, linewidth=0, **look)
                base = top


def _names(
    axes: Axes,
    slices: Sequence[Slice],
    lanes: Mapping[str, int],
    scale: float,
    looks: Mapping[str, dict[str, Any]],
) -> None:
    """Write names into the longest slices, those that have room for them."""
    longest = sorted(slices, key=lambda s: (-s.seconds, s.track, s.start_s))[:_MOST_NAMES]
    texts = []
    for s in longest:
        look = looks[s.kind]
        box = {"facecolor": look["color"], "edgecolor": "none", "pad": 1.5}
        middle = (s.start_s + s.seconds / 2) * scale
        text = axes.text(middle, lanes[s.track], shorten(s.name, 40), ha="center", va="center_baseline",
                         fontsize="x-small", color=look["edgecolor"], clip_on=True, bbox=box)  # fmt: skip
        text.set_in_layout(False)
        texts.append(text)

    def fit(renderer: RendererBase) -> None:
        for s, text in zip(longest, texts, strict=True):
            (left, _), (right, _) = axes.transData.transform([(0, 0), (s.seconds * scale, 0)])
            text.set_visible(True)
            text.set_visible(text.get_window_extent(renderer).width + 3 < right - left)

    when_drawn(axes, fit)
