"""What a GPU does at most: start kernels, move its own memory, and exchange blocks with the host."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.calibrate.reference.cuda_set import Sizes
from moesim.calibrate.rows import Array
from moesim.reference.cuda.backend import Backend, Buffer, Launch, Stream
from moesim.reference.cuda.compile import Program
from moesim.reference.cuda.graph import time

PROGRAM = Program(("ceilings.cuh",))
THREADS, BLOCKS_PER_CORE = 512, 8
#: Part of the free memory that blocks may take.
SHARE = 1 / 4
#: Times that something is timed.
REPEATS = 5
WAYS = ("h2d", "d2h")

#: Told what is being done.
Told = Callable[[str], None]


def silent(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Line:
    """Time against size, ``latency_s + bytes / bandwidth``, fitted to the logarithm of time.

    Parameters
    ----------
    latency_s, bandwidth_bytes_per_s
        Of the line.
    points
        Bytes and seconds.
    """

    latency_s: float
    bandwidth_bytes_per_s: float
    points: tuple[tuple[float, float], ...]

    @classmethod
    def through(cls, size: Array, seconds: Array) -> Line:
        """The line with least relative error.

        >>> line = Line.through(np.array([1e3, 1e6, 1e9]), 1e-5 + np.array([1e3, 1e6, 1e9]) / 5e10)
        >>> round(line.latency_s * 1e6, 3), round(line.bandwidth_bytes_per_s / 1e9, 3)
        (10.0, 50.0)
        """
        from scipy.optimize import nnls

        design = np.stack([1 / seconds, size / seconds], axis=1)
        scale = design.max(axis=0)
        (latency, per_byte), _ = nnls(design / scale, np.ones(len(size)))
        found = per_byte / scale[1]
        return cls(
            float(latency / scale[0]),
            float(1 / found) if found > 0 else float(size[-1] / seconds[-1]),
            tuple((float(a), float(b)) for a, b in zip(size, seconds, strict=True)),
        )

    @property
    def residual(self) -> float:
        """Median distance of the points from the line, as a fraction."""
        size, seconds = np.array(self.points).T
        modelled = self.latency_s + size / self.bandwidth_bytes_per_s
        return float(np.median(np.abs(modelled / seconds - 1.0)))

    def to_dict(self) -> dict[str, Any]:
        """For files."""
        return {
            "latency_s": self.latency_s,
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "residual": self.residual,
            "points": [list(point) for point in self.points],
        }


@dataclass(frozen=True, slots=True)
class Ceilings:
    """All of them.

    Parameters
    ----------
    launch_s
        Seconds of an empty kernel: ``stream`` (one call each), ``graph`` (replayed), ``sync`` (waited for).
    memory
        Bytes moved and bytes per second, by ``read``, ``write`` and ``copy``, out of a cold cache.
    cached
        The same for copies that stay in the second-level cache.
    host
        Copies by ``h2d_pinned``, ``d2h_pinned``, ``h2d_pageable`` and ``d2h_pageable``.
    two_streams
        Seconds of two copies in one stream over those in two, by ``same`` (both to the device) and
        ``opposite``.
    """

    launch_s: Mapping[str, float]
    memory: Mapping[str, tuple[tuple[float, float], ...]]
    cached: tuple[tuple[float, float], ...]
    host: Mapping[str, Line]
    two_streams: Mapping[str, float]

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Best of reading, writing and copying."""
        return max(rate for points in self.memory.values() for _, rate in points)

    def to_dict(self) -> dict[str, Any]:
        """For files."""
        return {
            "launch_s": dict(self.launch_s),
            "memory_bytes_per_s": {name: [list(p) for p in points] for name, points in self.memory.items()},
            "cached_bytes_per_s": [list(p) for p in self.cached],
            "host": {name: line.to_dict() for name, line in self.host.items()},
            "two_streams": dict(self.two_streams),
        }


def ceilings(backend: Backend, sizes: Sizes, told: Told = silent) -> Ceilings:
    """Measure them all.

    Parameters
    ----------
    backend
        The device.
    sizes
        How large.
    told
        Called before each part.
    """
    told("launches")
    launch_s = _launches(backend, sizes.launches)
    told("memory")
    free, _ = backend.memory()
    fitting = [n for n in sizes.memory_bytes if 2 * n <= SHARE * free] or [min(sizes.memory_bytes)]
    memory = {name: tuple(_memory(backend, name, n) for n in fitting) for name in ("read", "write", "copy")}
    inside = [n for n in fitting if 2 * n <= backend.l2_bytes / 2] or fitting[:1]
    cached = tuple(_memory(backend, "copy", n, flush=False) for n in inside)
    told("copies from and to the host")
    host = {
        f"{way}_{kind}": _host(backend, way, kind, sizes.transfer_bytes)
        for way in WAYS
        for kind in ("pinned", "pageable")
    }
    return Ceilings(launch_s, memory, cached, host, _two_streams(backend, sizes.transfer_bytes[-1]))


def _launches(backend: Backend, number: int) -> dict[str, float]:
    sink = backend.empty((4,), np.uint32)
    empty = Launch(PROGRAM, "empty_kernel", backend.multiprocessors, 128, (sink,))
    found = {
        name: _median(time(backend, [empty], REPEATS, flush=False, graph=name == "graph", inner=number))
        for name in ("stream", "graph")
    }
    waits = []
    for _ in range(number):
        start = clock.perf_counter()
        backend.launch(empty)
        backend.synchronize()
        waits.append(clock.perf_counter() - start)
    backend.free(sink)
    return found | {"sync": float(np.median(waits))}


def _memory(backend: Backend, name: str, size: int, *, flush: bool = True) -> tuple[float, float]:
    """Bytes moved, and bytes per second."""
    words = size // 16
    one, two = backend.empty((size,), np.uint8), backend.empty((size if name == "copy" else 16,), np.uint8)
    backend.fill(one, 1)
    backend.fill(two, 1)
    arguments: dict[str, tuple[Any, ...]] = {
        "read": (one, two, np.int64(words)),
        "write": (one, np.int32(7), np.int64(words)),
        "copy": (one, two, np.int64(words)),
    }
    grid = max(min(BLOCKS_PER_CORE * backend.multiprocessors, -(-words // THREADS)), 1)
    launch = Launch(PROGRAM, f"{name}_bytes", grid, THREADS, arguments[name])
    try:
        seconds = _median(time(backend, [launch], REPEATS, flush=flush))
    finally:
        backend.free(one)
        backend.free(two)
    moved = size * (2 if name == "copy" else 1)
    return float(moved), moved / seconds


def _host(backend: Backend, way: str, kind: str, sizes: tuple[int, ...]) -> Line:
    largest = sizes[-1]
    array = backend.pinned((largest,), np.uint8) if kind == "pinned" else np.empty(largest, np.uint8)
    array[:] = 1
    buffer = backend.empty((largest,), np.uint8)

    def seconds(size: int) -> float:
        part = buffer.rows(0, size)
        to, source = (part, array[:size]) if way == "h2d" else (array[:size], part)
        if kind == "pinned":
            return _median(
                time(backend, lambda stream: backend.copy(to, source, stream), REPEATS, flush=False)
            )
        # The driver copies pageable memory through buffers of its own while the host waits: its time counts.
        waits = []
        for _ in range(REPEATS):
            backend.synchronize()
            start = clock.perf_counter()
            backend.copy(to, source)
            backend.synchronize()
            waits.append(clock.perf_counter() - start)
        return _median(np.array(waits))

    try:
        return Line.through(np.array(sizes, float), np.array([seconds(n) for n in sizes]))
    finally:
        backend.synchronize()
        backend.free(buffer)
        if kind == "pinned":
            backend.release(array)


def _two_streams(backend: Backend, size: int) -> dict[str, float]:
    """Seconds of two copies in one stream over those in two."""
    arrays = [backend.pinned((size,), np.uint8) for _ in range(2)]
    buffers = [backend.empty((size,), np.uint8) for _ in range(2)]
    for array in arrays:
        array[:] = 1
    other = backend.stream()

    def pair(opposite: bool) -> list[tuple[Any, Any]]:
        first, second = ((b, a) for b, a in zip(buffers, arrays, strict=True))
        return [first, (second[1], second[0]) if opposite else second]

    found = {}
    for name in ("same", "opposite"):
        copies = pair(name == "opposite")

        def one_stream(stream: Stream, copies: list[tuple[Any, Any]] = copies) -> None:
            for to, source in copies:
                backend.copy(to, source, stream)

        def both(copies: list[tuple[Any, Any]] = copies) -> None:
            backend.copy(*copies[0])
            backend.copy(*copies[1], other)

        found[name] = _median(time(backend, one_stream, REPEATS, flush=False)) / together(
            backend, both, other
        )
    backend.synchronize()
    for buffer, array in zip(buffers, arrays, strict=True):
        backend.free(buffer)
        backend.release(array)
    return found


def together(backend: Backend, work: Callable[[], None], other: Stream) -> float:
    """Median seconds of work on the own stream and another, from before either to after both."""
    start, ready, done, end = (backend.event() for _ in range(4))
    found = []
    for _ in range(REPEATS):
        backend.record(start)
        backend.record(ready)
        backend.wait(ready, other)
        work()
        backend.record(done, other)
        backend.wait(done)
        backend.record(end)
        backend.synchronize()
        found.append(backend.elapsed_s(start, end))
    return _median(np.array(found))


def reading(backend: Backend, buffer: Buffer, sink: Buffer) -> Launch:
    """A kernel that reads a buffer."""
    words = buffer.nbytes // 16
    grid = max(min(BLOCKS_PER_CORE * backend.multiprocessors, -(-words // THREADS)), 1)
    return Launch(PROGRAM, "read_bytes", grid, THREADS, (buffer, sink, np.int64(words)))


def contention(backend: Backend, kernel: Launch, size: int) -> dict[str, float]:
    """How much a kernel and copies from the host slow each other down: seconds together over seconds alone.

    Parameters
    ----------
    backend
        The device.
    kernel
        What runs beside the copies; it is started as often as the copy takes.
    size
        Bytes of the copy.

    Returns
    -------
    dict
        ``kernel`` and ``copy``: factors of at least about 1.
    """
    array, buffer = backend.pinned((size,), np.uint8), backend.empty((size,), np.uint8)
    array[:] = 1
    other = backend.stream()
    copy_s = _median(time(backend, lambda stream: backend.copy(buffer, array, stream), REPEATS, flush=False))
    kernel_s = _median(time(backend, [kernel], REPEATS, flush=False, inner=4))
    times = max(round(copy_s / kernel_s), 1)
    alone_s = _median(time(backend, [kernel], REPEATS, flush=False, inner=times)) * times
    found = _beside(backend, kernel, times, (buffer, array), other)
    backend.synchronize()
    backend.free(buffer)
    backend.release(array)
    return {"kernel": found[0] / alone_s, "copy": found[1] / copy_s}


def _beside(
    backend: Backend, kernel: Launch, times: int, copy: tuple[Buffer, Any], other: Stream
) -> tuple[float, float]:
    """Median seconds of the kernels, and of the copy, both begun at once."""
    start, kernels_end, copy_end = (backend.event() for _ in range(3))
    kernels, copies = [], []
    for _ in range(REPEATS):
        backend.record(start)
        backend.wait(start, other)
        backend.copy(*copy, other)
        backend.record(copy_end, other)
        for _ in range(times):
            backend.launch(kernel)
        backend.record(kernels_end)
        backend.synchronize()
        kernels.append(backend.elapsed_s(start, kernels_end))
        copies.append(backend.elapsed_s(start, copy_end))
    return _median(np.array(kernels)), _median(np.array(copies))


def _median(values: Array) -> float:
    return float(np.median(values))
