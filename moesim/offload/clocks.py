"""Clocks of the resources of a box, and what moves them: copies, experts, waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.offload.pools import Expert, Experts

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
I1 = npt.NDArray[np.int8]

#: Resources; a clock says when each is free, and `busy` how long it has worked.
RESOURCES = ("gpu", "cpu", "near", "to_device", "from_device", "storage")
GPU, CPU, NEAR, TO_DEVICE, FROM_DEVICE, STORAGE = range(6)
#: What the GPU waits for.
WAITS = ("to_device", "storage", "cpu", "near")
#: What bytes cross.
PATHS = ("to_device", "from_device", "storage")


class Clock(Protocol):
    """When resources are free, how long they were busy, what the GPU waited for, and bytes moved.

    `flight` is the expert that was fetched ahead last, or -1; `events` counts what rules order by, `logged`
    and `noted` the rows of the logs of loads and of spans.
    """

    gpu: float
    cpu: float
    near: float
    to_device: float
    from_device: float
    storage: float
    busy_gpu: float
    busy_cpu: float
    busy_near: float
    busy_to_device: float
    busy_from_device: float
    busy_storage: float
    wait_to_device: float
    wait_storage: float
    wait_cpu: float
    wait_near: float
    bytes_to_device: float
    bytes_from_device: float
    bytes_storage: float
    flight: int
    events: int
    logged: int
    noted: int


CLOCK = np.dtype(
    [
        *((name, np.float64) for name in RESOURCES),
        *((f"busy_{name}", np.float64) for name in RESOURCES),
        *((f"wait_{name}", np.float64) for name in WAITS),
        *((f"bytes_{name}", np.float64) for name in PATHS),
        ("flight", np.int64),
        ("events", np.int64),
        ("logged", np.int64),
        ("noted", np.int64),
    ],
    align=True,
)


def new_clock() -> Sequence[Clock]:
    """Everything free at 0; one record."""
    clock = np.zeros(1, CLOCK)
    clock["flight"] = -1
    return cast("Sequence[Clock]", clock)


@compiled
def note(clock: Clock, spans: F8, resource: int, start: float, end: float, cell: int, x: int) -> None:
    """Write down what a resource did, where there is room for it."""
    if clock.noted < len(spans):
        row = spans[clock.noted]
        row[0], row[1], row[2], row[3], row[4] = resource, start, end, cell, x
        clock.noted += 1


@compiled
def copy_in(
    clock: Clock,
    channel: F8,
    latency_s: float,
    link_s: float,
    store_s: float,
    size: float,
    expert: Expert,
    earliest: float,
) -> None:
    """Copy an expert to the device, not before `earliest`: from storage to the host first if it lies there.

    Parameters
    ----------
    channel
        When each channel of the link is free. A channel is taken from the start of a copy to its end; copies
        follow each other over the link in the order in which they are asked for.
    latency_s, link_s, store_s, size
        Start of a copy, its seconds on link and storage, its bytes.
    """
    expert.stored = 0.0
    if expert.stock:
        earliest = max(earliest, clock.storage) + store_s
        clock.storage = earliest
        clock.busy_storage += store_s
        clock.bytes_storage += size
        expert.stored = earliest
    lane = 0
    for other in range(1, len(channel)):
        if channel[other] < channel[lane]:
            lane = other
    end = max(max(earliest, channel[lane]) + latency_s, clock.to_device) + link_s
    channel[lane] = end
    clock.to_device = end
    clock.busy_to_device += link_s
    clock.bytes_to_device += size
    expert.ready = end


@compiled
def take_slot(
    clock: Clock,
    spare: F8,
    experts: Experts,
    out_s: F8,
    sizes: F8,
    gone: I8,
    gone_level: I1,
    first: int,
    last: int,
    write_back: bool,
    taken: float,
    spans: F8,
    cell: int,
) -> float:
    """When a copy may begin to write, with victims ``gone[first:last]``.

    It fills the spare slot that is free first; the slots of the victims are spare when they have run and,
    with `write_back`, are copied back, which begins when the link has `taken` the copy up. Without
    victims there is an empty slot.
    """
    if last <= first:
        return 0.0
    free = 0.0
    for g in range(first, last):
        victim = experts[gone[g]]
        # A victim that was never used is free once it is there.
        until = max(victim.busy, victim.ready)
        if write_back:
            level = gone_level[g]
            until = max(until, clock.from_device, taken) + out_s[level]
            clock.from_device = until
            note(clock, spans, FROM_DEVICE, until - out_s[level], until, cell, gone[g])
            clock.busy_from_device += out_s[level]
            clock.bytes_from_device += sizes[level]
        free = max(free, until)
    lane = soonest(spare)
    begin = spare[lane]
    spare[lane] = free
    return float(begin)


@compiled
def soonest(free: F8) -> int:
    """Which of several clocks is free first."""
    lane = 0
    for other in range(1, len(free)):
        if free[other] < free[lane]:
            lane = other
    return lane


@compiled
def run_on_gpu(clock: Clock, expert: Expert, seconds: float) -> None:
    """Run an expert as soon as the GPU and its weights are there."""
    now = clock.gpu
    start = max(now, expert.ready)
    if start > now:
        stored = min(max(expert.stored - now, 0.0), start - now)
        clock.wait_storage += stored
        clock.wait_to_device += start - now - stored
    clock.gpu = start + seconds
    clock.busy_gpu += seconds
    expert.busy = start + seconds


@compiled
def break_off(
    clock: Clock, channel: F8, link_s: float, size: float, ready: float, now: float, spans: F8
) -> None:
    """Stop the one copy that is under way; what it has moved is lost."""
    for i in range(clock.noted - 1, -1, -1):
        if spans[i, 0] == TO_DEVICE:
            spans[i, 1], spans[i, 2] = min(spans[i, 1], now), min(spans[i, 2], now)
            break
    rest = min(ready - now, link_s)
    clock.busy_to_device -= rest
    clock.bytes_to_device -= size * rest / link_s
    clock.to_device = now
    channel[0] = now
    clock.flight = -1
