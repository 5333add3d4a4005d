"""Seconds of MoE layers under a schedule, each with its best number of chunks: all of them are tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moesim.engine.routing import Array
from moesim.overlap.layer import CHUNKED, STREAMS, LayerSeconds
from moesim.overlap.shortcut import exposed_seconds
from moesim.overlap.templates import chunked_seconds, filled_seconds

#: ``none`` does everything in a row. ``tutel`` cuts into chunks; all communication takes turns, and gradients
#: come after. ``lina`` is that with gradients in the gaps. ``fsmoe`` lets inter-node and intra-node
#: communication go on together too. ``scmoe`` hides the all-to-all behind what a shortcut spans.
SCHEDULES = ("none", "tutel", "lina", "fsmoe", "scmoe")
#: Numbers of chunks that Tutel and FSMoE choose from.
DEGREES = (1, 2, 4, 8)
#: All communication on one stream, as libraries without a second communicator have it.
ONE_NETWORK = {name: "compute" if stream == "compute" else "network" for name, stream in STREAMS.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Layers under a schedule.

    Parameters
    ----------
    seconds
        ``[layers]``.
    degree
        Chunks of each, ``[layers]``.
    """

    seconds: Array
    degree: Array


def _lags(streams: Mapping[str, str], degree: int) -> list[dict[str, int]]:
    """Orders to try: on each network all out first, in turns, or each back before the next."""
    choices = sorted({1, min(2, degree), degree})
    if streams["gather"] == streams["dispatch"]:
        return [{streams["dispatch"]: lag} for lag in choices]
    return [
        {streams["dispatch"]: outer, streams["gather"]: inner}
        for outer in choices
        for inner in choices
        if inner <= outer
    ]


def schedule_seconds(layer: LayerSeconds, schedule: str, degree: int) -> Array:
    """Seconds of layers with so many chunks, ``[layers]``.

    Of the orders in which chunks go out and come back, those of `_lags` are tried, and the fastest counts.

    >>> layer = LayerSeconds(dispatch=2.0, experts=4.0, combine=2.0, gradients=3.0)
    >>> [float(schedule_seconds(layer, name, 2)) for name in ("none", "tutel", "fsmoe")]
    [11.0, 9.0, 7.0]
    """
    around = layer.whole("before") + layer.whole("shared") + layer.whole("after")
    gradients = layer.whole("gradients")
    if schedule == "none":
        return np.asarray(around + sum(layer.whole(name) for name in CHUNKED) + gradients)
    if schedule == "scmoe":
        window = [layer.whole("before"), layer.whole("shared"), layer.whole("after")]
        there = layer.whole("dispatch") + layer.whole("gather")
        back = layer.whole("scatter") + layer.whole("combine")
        return np.asarray(layer.compute() + exposed_seconds(window, there, back) + gradients)
    streams = STREAMS if schedule == "fsmoe" else ONE_NETWORK
    span = np.min([chunked_seconds(layer, degree, streams, lags) for lags in _lags(streams, degree)], axis=0)
    if schedule == "tutel":
        return np.asarray(around + span + gradients)
    if schedule not in SCHEDULES:
        raise ValueError(f"{schedule!r} is none of {', '.join(SCHEDULES)}")
    network = [name for name in CHUNKED if streams[name] == streams["gradients"]]
    used = degree * np.sum([layer.chunk(name, degree) for name in network], axis=0)
    # Attention and the rest of the layer leave the network idle as well.
    return filled_seconds(around + span, used, gradients)


def layer_seconds(layer: LayerSeconds, schedule: str, degrees: Sequence[int] = DEGREES) -> Chosen:
    """The best number of chunks for each layer, and the seconds it takes.

    Parameters
    ----------
    layer
        Seconds of the operations.
    schedule
        One of `SCHEDULES`.
    degrees
        Numbers of chunks to try; the smallest of equally fast ones counts.

    Examples
    --------
    >>> both_ways = np.array([4.0, 1.0])
    >>> layers = LayerSeconds(
    ...     dispatch=both_ways,
    ...     experts=4.0,
    ...     combine=both_ways,
    ...     dispatch_startup=1.0,
    ...     experts_startup=0.5,
    ...     combine_startup=1.0,
    ... )
    >>> chosen = layer_seconds(layers, "tutel")
    >>> chosen.degree.tolist(), chosen.seconds.round(2).tolist()
    ([2, 1], [10.0, 6.0])
    """
    if schedule in ("none", "scmoe"):
        degrees = (1,)
    every = np.stack([schedule_seconds(layer, schedule, degree) for degree in degrees])
    best = np.argmin(every, axis=0)
    return Chosen(every.min(axis=0), np.asarray(degrees)[best])
