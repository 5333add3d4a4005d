"""A replay with time as a timeline for Perfetto; see `moesim.chrome`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from moesim.chrome import Event, flow, name_process, name_track, nanoseconds, span, write_events
from moesim.errors import ConfigError, Fault
from moesim.offload.clocks import GPU, RESOURCES, TO_DEVICE
from moesim.offload.given import DENSE, TAIL
from moesim.offload.timed import Timed

_BOX, _STEPS = 1, len(RESOURCES)
_NAMES = {DENSE: "attention and gate", TAIL: "head"}


def write_timeline(timed: Timed, path: str | os.PathLike[str]) -> int:
    """Write what every resource of the box did; compressed if the name ends in ``.gz``.

    Parameters
    ----------
    timed
        Of a run with ``spans``.
    path
        The file to write.

    Returns
    -------
    int
        Tasks that are in it.

    Raises
    ------
    ConfigError
        If nothing was kept, or the path cannot be written.
    """
    if not len(timed.spans):
        raise ConfigError(Fault("kept nothing to draw", "spans", 0, "a run with spans=100_000, for one"))
    about = {"tasks": len(timed.spans), "steps": len(timed.ends), "seconds": timed.seconds}
    write_events(path, _events(timed), about)
    return len(timed.spans)


def _events(timed: Timed) -> Iterator[Event]:
    layers = len(next(iter(timed.counts.values())))
    experts = timed.experts_per_layer
    yield from name_process(_BOX, "box")
    yield from name_track((_BOX, _STEPS), "steps")
    last, start = float(timed.spans[:, 2].max()), 0
    for step, end_s in enumerate(timed.ends.tolist()):
        end = int(nanoseconds(end_s))
        yield span((_BOX, _STEPS), f"step {step}", start, end, "step")
        start = end
        if end_s >= last:
            break
    numbers, copied = iter(range(1, 2 * len(timed.spans) + 1)), dict[int, int]()
    for resource, name in enumerate(RESOURCES):
        mine = timed.spans[timed.spans[:, 0] == resource]
        if len(mine):
            yield from name_track((_BOX, resource), name)
    free = [0] * len(RESOURCES)
    starts, ends = nanoseconds(timed.spans[:, 1]).tolist(), nanoseconds(timed.spans[:, 2]).tolist()
    for row, begin, end in zip(timed.spans, starts, ends, strict=True):
        resource, cell, x = int(row[0]), int(row[3]), int(row[4])
        # Differences of sums may be off by a nanosecond.
        begin = max(begin, free[resource])
        end = free[resource] = max(end, begin)
        facts = {"step": cell // layers, "layer": x // experts if x >= 0 else cell % layers}
        name = _NAMES.get(x) or f"expert {x % experts}"
        yield span((_BOX, resource), name, begin, end, RESOURCES[resource], facts)
        if resource == TO_DEVICE:
            copied[x] = end
        elif resource == GPU and x in copied:
            arrived = copied.pop(x)
            if arrived <= begin:
                yield from flow(next(numbers), "loaded", ((_BOX, TO_DEVICE), arrived), ((_BOX, GPU), begin))
