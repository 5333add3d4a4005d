"""Lay the chunks of a MoE layer on streams.

Each template is a list of tasks for `moesim.engine.timeline`. Streams work in the order of the list, so that
a template fixes the order too. Per stream, a ``lag`` says after how many chunks on their way out the first
one comes back: ``lag = r`` sends everything out first, ``lag = 1`` brings each back before the next goes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from moesim.engine.routing import Array
from moesim.engine.timeline import Task, finish_times
from moesim.overlap.layer import CHUNKED, STREAMS, LayerSeconds

#: Half of the chain goes out, half comes back; the experts are on the way out.
_BACK = CHUNKED[3:]


def _order(names: tuple[str, ...], degree: int, lag: int) -> list[tuple[str, int]]:
    """What one stream does, in turn."""
    out = [n for n in names if n not in _BACK]
    back = [n for n in names if n in _BACK]
    steps = [(out, i) for i in range(min(lag, degree))]
    for i in range(degree):
        steps.append((back, i))
        if i + lag < degree:
            steps.append((out, i + lag))
    return [(name, i) for side, i in steps for name in side]


def chunk_tasks(
    layer: LayerSeconds,
    degree: int,
    streams: Mapping[str, str] = STREAMS,
    lags: Mapping[str, int] | None = None,
) -> Iterator[Task]:
    """Tasks of the chunked part of a layer.

    Parameters
    ----------
    layer
        What there is to do.
    degree
        Chunks.
    streams
        What each operation occupies. Operations on one stream take turns.
    lags
        By stream, chunks on their way out before the first comes back; missing ones are `degree`.

    Raises
    ------
    ValueError
        Where two streams wait for each other: links inside a node cannot lag more than those that feed them.
    """
    lags = lags or {}
    names = {s: tuple(n for n in CHUNKED if streams[n] == s) for s in dict.fromkeys(streams.values())}
    waiting = {s: _order(own, degree, lags.get(s, degree)) for s, own in names.items()}
    given: set[tuple[str, int]] = set()
    chunk = {name: layer.chunk(name, degree) for name in CHUNKED}
    while any(waiting.values()):
        ready = False
        for stream, queue in waiting.items():
            while queue:
                name, i = queue[0]
                place = CHUNKED.index(name)
                needed = (CHUNKED[place - 1], i)
                if place and needed not in given:
                    break
                given.add((name, i))
                yield Task(f"{name}{i}", stream, chunk[name], (f"{needed[0]}{i}",) if place else ())
                queue.pop(0)
                ready = True
        if not ready:
            raise ValueError("streams wait for each other")


def chunked_seconds(
    layer: LayerSeconds,
    degree: int,
    streams: Mapping[str, str] = STREAMS,
    lags: Mapping[str, int] | None = None,
) -> Array:
    """Seconds from the first chunk's dispatch to the last one's combine, ``[layers]``.

    >>> layer = LayerSeconds(dispatch=2.0, experts=4.0, combine=2.0)
    >>> float(chunked_seconds(layer, 1)), float(chunked_seconds(layer, 2))
    (8.0, 6.0)
    """
    done = finish_times(chunk_tasks(layer, degree, streams, lags))
    # Whatever a chunk does ends in its way back, and ways back take turns.
    return done[f"{CHUNKED[-1]}{degree - 1}"]


def filled_seconds(span: Array, used: Array, extra: Array) -> Array:
    """Seconds of a span in whose gaps on one stream more work goes, in pieces as small as needed.

    Parameters
    ----------
    span
        Seconds without it.
    used
        Of these, seconds in which the stream is busy.
    extra
        Work to add, which nothing waits for. What does not fit comes at the end.

    >>> filled_seconds(np.array([10.0, 10.0]), np.array([6.0, 6.0]), np.array([3.0, 7.0])).tolist()
    [10.0, 13.0]
    """
    return np.asarray(np.maximum(span, used + extra))
