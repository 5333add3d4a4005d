"""The queue of a lane: requests in the order in which they will be taken in."""

from __future__ import annotations

from moesim.compiled import compiled
from moesim.serving.state import WAITING, State


@compiled
def enqueue(state: State, lane: int, r: int) -> None:
    """Put a request at the end."""
    lanes, progress = state.lanes, state.progress
    progress.stage[r], progress.lane[r], progress.following[r] = WAITING, lane, -1
    if lanes.waiting[lane]:
        progress.following[lanes.tail[lane]] = r
    else:
        lanes.head[lane] = r
    lanes.tail[lane] = r
    lanes.waiting[lane] += 1
    lanes.tokens[lane] += progress.target[r] - progress.done[r]


@compiled
def put_back(state: State, lane: int, r: int) -> None:
    """Put a request that was thrown out at the front."""
    lanes, progress = state.lanes, state.progress
    progress.stage[r] = WAITING
    progress.following[r] = lanes.head[lane] if lanes.waiting[lane] else -1
    if not lanes.waiting[lane]:
        lanes.tail[lane] = r
    lanes.head[lane] = r
    lanes.waiting[lane] += 1


@compiled
def dequeue(state: State, lane: int) -> int:
    """Take the first request out."""
    lanes = state.lanes
    r = lanes.head[lane]
    lanes.head[lane] = state.progress.following[r]
    lanes.waiting[lane] -= 1
    return int(r)
