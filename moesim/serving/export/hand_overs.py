"""Caches on their way from workers that prefill to workers that decode, for a timeline."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from moesim.chrome import Event, name_process, name_track, nanoseconds, span
from moesim.serving.pools import PoolsOutcome


def hand_over_of(outcome: PoolsOutcome, r: int) -> tuple[int, int, int] | None:
    """When a request had been read, had blocks to go to, and was there, in nanoseconds; None if never."""
    arrived = outcome.arrived_s[r]
    if not np.isfinite(arrived):
        return None
    read = arrived - outcome.handed_s[r]
    found: list[int] = nanoseconds([read, read + outcome.waited_s[r], arrived]).tolist()
    return found[0], found[1], found[2]


def transfers(outcome: PoolsOutcome, shown: npt.NDArray[np.int64], process: int) -> Iterator[Event]:
    """Tracks of the links that caches crossed, each with as many as there were transfers at once.

    Parameters
    ----------
    outcome
        What happened; of a request that was sent several times, the last hand-over.
    shown
        Requests that are drawn.
    process
        Number of the process.
    """
    wires, (prefill, decode) = outcome.links, outcome.pools
    on: dict[int, list[tuple[int, int, int]]] = {}
    for r in shown.tolist():
        times = hand_over_of(outcome, r)
        if times is None:
            continue
        path = wires.path(int(prefill.state.progress.lane[r]), int(decode.state.progress.lane[r]))
        for link in path:
            on.setdefault(link, []).append((times[1], times[2], r))
    if on:
        yield from name_process(process, "links between the pools")
    track = 0
    for link in sorted(on):
        crossing = sorted(on[link])
        rows = side_by_side([(start, end) for start, end, _ in crossing])
        for row in range(max(rows) + 1):
            yield from name_track(
                (process, track + row), wires.names[link] + (f" ({row + 1})" if row else "")
            )
        for (start, end, r), row in zip(crossing, rows, strict=True):
            size = float(outcome.crossed_bytes[r])
            facts = {"request": r, "bytes": size}
            yield span((process, track + row), f"cache of request {r}", start, end, "hand-over", facts)
        track += max(rows) + 1


def side_by_side(spans: Sequence[tuple[int, int]]) -> list[int]:
    """The first row in which each span overlaps no other, for spans in order of their beginning.

    >>> side_by_side([(0, 4), (1, 2), (2, 3), (3, 9), (4, 5)])
    [0, 1, 1, 1, 0]
    """
    found, free, open_ = [], list[int](), list[tuple[int, int]]()
    rows = 0
    for start, end in spans:
        while open_ and open_[0][0] <= start:
            heapq.heappush(free, heapq.heappop(open_)[1])
        if free:
            row = heapq.heappop(free)
        else:
            row, rows = rows, rows + 1
        heapq.heappush(open_, (end, row))
        found.append(row)
    return found
