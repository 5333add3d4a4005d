"""Streams and events without a device: work waits in queues and is run in any order that they allow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from moesim.errors import MoesimError


@dataclass(slots=True, eq=False)
class HostEvent:
    """Happens when all that is before it on a stream is done.

    Parameters
    ----------
    recorded, happened
        How often each was the case.
    at
        When it last happened, by the clock.
    """

    recorded: int = 0
    happened: int = 0
    at: float = 0.0


@dataclass(slots=True, eq=False)
class HostStream:
    """Work in order, each with the event and the count of it that it waits for."""

    work: deque[tuple[Callable[[], None], HostEvent | None, int]] = field(default_factory=deque)


class Queues:
    """Streams whose work is run when someone waits for it.

    Parameters
    ----------
    seed
        Of the order between streams; None for the order in which work came.

    Notes
    -----
    A device runs streams side by side: work of one comes before or after that of another, unless an event is
    waited for. With a seed every wait for the device draws one such order: a missing wait shows as a wrong
    result.

    >>> queues, done = Queues(), []
    >>> copies, event = HostStream(), HostEvent()
    >>> queues.wait(event, None), queues.add(lambda: done.append("waits"), None)  # not recorded: no wait
    (None, None)
    >>> queues.record(event, copies, lambda: 0.0); queues.run(); done
    ['waits']
    """

    def __init__(self, seed: int | None = None) -> None:
        self.own = HostStream()
        self._streams = [self.own]
        self._random = None if seed is None else np.random.default_rng(seed)

    def stream(self) -> HostStream:
        """A further stream."""
        self._streams.append(HostStream())
        return self._streams[-1]

    def add(self, action: Callable[[], None], stream: HostStream | None) -> None:
        """Put work on a stream."""
        self._put(action, stream, None, 0)

    def record(self, event: HostEvent, stream: HostStream | None, clock: Callable[[], float]) -> None:
        """Let an event happen after what is on the stream."""
        event.recorded += 1
        now = event.recorded

        def happen() -> None:
            event.happened, event.at = max(event.happened, now), clock()

        self._put(happen, stream, None, 0)

    def wait(self, event: HostEvent, stream: HostStream | None) -> None:
        """Let what comes next on the stream wait for an event as it was last recorded."""
        self._put(lambda: None, stream, event, event.recorded)

    def run(self, until: HostEvent | None = None) -> None:
        """Run all work, or what is drawn until an event has happened."""
        while waiting := [stream for stream in self._streams if stream.work]:
            if until is not None and until.happened >= until.recorded:
                return
            ready = [s for s in waiting if (e := s.work[0][1]) is None or e.happened >= s.work[0][2]]
            if not ready:
                raise MoesimError("streams wait for each other")
            chosen = ready[0] if self._random is None else ready[self._random.integers(len(ready))]
            action, _, _ = chosen.work.popleft()
            action()

    def _put(
        self, action: Callable[[], None], stream: HostStream | None, event: HostEvent | None, count: int
    ) -> None:
        target = self.own if stream is None else stream
        if target not in self._streams:
            self._streams.append(target)
        target.work.append((action, event, count))
        if self._random is None:
            self.run()
