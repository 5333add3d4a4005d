"""Run a fixed sequence of kernels, timed: one call each, or all as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from moesim.reference.cuda.backend import Backend, Event, Graph, Launch, Stream
from moesim.reference.cuda.compile import Program

#: Kernels by the name of the part of the layer that they do, in order.
Parts: TypeAlias = Mapping[str, Sequence[Launch]]

_FLUSH = Program(("flush.cuh",))
#: What is read to empty the second cache, in its size.
_TIMES_CACHE = 3


class Flush:
    """Memory that is read between runs, so that the second-level cache holds nothing of use."""

    def __init__(self, backend: Backend) -> None:
        units = max(_TIMES_CACHE * backend.l2_bytes // 16, 1)
        self._backend = backend
        self._memory = backend.empty((units, 4), np.uint32)
        self._sink = backend.empty((1,), np.uint32)
        backend.fill(self._memory)
        backend.fill(self._sink)
        blocks = min(8 * backend.multiprocessors, -(-units // 256))
        self.launch = Launch(_FLUSH, "read_all", blocks, 256, (self._memory, np.int64(units), self._sink))

    def __call__(self, stream: Stream = None) -> None:
        """Put the reading on the stream."""
        self._backend.launch(self.launch, stream)

    def close(self) -> None:
        """Give the memory back."""
        self._backend.free(self._memory)
        self._backend.free(self._sink)


class Timed:
    """A sequence of kernels and the events that time it.

    Parameters
    ----------
    backend
        The device.
    parts
        The kernels.
    graph
        Whether they are captured once and replayed. They are run once before, as they must be loaded by then.

    Notes
    -----
    The whole and its parts are timed in runs of their own: an event between two kernels keeps the second from
    starting while the first drains, so the parts take a little longer together than the whole.
    """

    def __init__(self, backend: Backend, parts: Parts, *, graph: bool) -> None:
        self._backend, self.parts = backend, parts
        self._ends = backend.event(), backend.event()
        self._marks: list[Event] = [backend.event() for _ in range(len(parts) + 1)]
        self._whole: Graph | None = None
        self._split: Graph | None = None
        if graph:
            self._kernels(None)
            backend.synchronize()
            self._whole = backend.capture(self._kernels)
            self._split = backend.capture(lambda stream: self._marked(stream, external=True))

    @property
    def graph(self) -> bool:
        """Whether it is a graph that runs."""
        return self._whole is not None

    def run(self, before: Callable[[], None] | None = None) -> float:
        """Run it once; seconds on the device.

        Parameters
        ----------
        before
            Put on the stream first, and not timed.
        """
        if before is not None:
            before()
        start, end = self._ends
        self._backend.record(start)
        if self._whole is not None:
            self._whole.launch()
        else:
            self._kernels(None)
        self._backend.record(end)
        return self._backend.elapsed_s(start, end)

    def run_parts(self, before: Callable[[], None] | None = None) -> dict[str, float]:
        """Run it once; seconds of each part."""
        if before is not None:
            before()
        if self._split is not None:
            self._split.launch()
        else:
            self._marked(None, external=False)
        self._backend.synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return {name: self._backend.elapsed_s(*pair) for name, pair in zip(self.parts, pairs, strict=True)}

    def close(self) -> None:
        """Give graphs back."""
        for graph in (self._whole, self._split):
            if graph is not None:
                graph.close()
        self._whole = self._split = None

    def _kernels(self, stream: Stream) -> None:
        for launches in self.parts.values():
            for launch in launches:
                self._backend.launch(launch, stream)

    def _marked(self, stream: Stream, *, external: bool) -> None:
        self._backend.record(self._marks[0], stream, external=external)
        for mark, launches in zip(self._marks[1:], self.parts.values(), strict=True):
            for launch in launches:
                self._backend.launch(launch, stream)
            self._backend.record(mark, stream, external=external)


def time(
    backend: Backend,
    work: Sequence[Launch] | Callable[[Stream], None],
    repeats: int,
    *,
    flush: bool = True,
    graph: bool = False,
    inner: int = 1,
) -> npt.NDArray[np.float64]:
    """Seconds of some work by the device's events, for microbenchmarks.

    Parameters
    ----------
    backend
        The device.
    work
        Kernels, or what puts the work on a stream: kernels and copies.
    repeats
        How often it is timed, after one run that is not.
    flush
        Whether the second-level cache is emptied before each.
    graph
        Whether it is replayed as a graph.
    inner
        Times that the work is done between two events.

    Returns
    -------
    ndarray
        Seconds of one time of the work, ``[repeats]``.
    """

    def body(stream: Stream) -> None:
        for _ in range(inner):
            if callable(work):
                work(stream)
            else:
                for launch in work:
                    backend.launch(launch, stream)

    body(None)
    backend.synchronize()
    replay = backend.capture(body) if graph else None
    clean = Flush(backend) if flush else None
    events = [(backend.event(), backend.event()) for _ in range(repeats)]
    try:
        for start, end in events:
            if clean is not None:
                clean()
            backend.record(start)
            if replay is not None:
                replay.launch()
            else:
                body(None)
            backend.record(end)
        backend.synchronize()
        return np.array([backend.elapsed_s(*pair) for pair in events]) / inner
    finally:
        if clean is not None:
            clean.close()
        if replay is not None:
            replay.close()
