"""Timelines as Chrome-trace JSON, which Perfetto and chrome://tracing open.

A picture has processes, a process has tracks, a track has slices. Times are whole nanoseconds, so that what
follows on one track never overlaps by rounding; the file has microseconds, as the format wants. Whoever makes
events yields the names of a track before its slices.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault
from moesim.files import atomic_write, check_writable

Event = dict[str, Any]
#: A process and one of its tracks.
Track = tuple[int, int]
SUFFIXES = (".json", ".gz")


def path_faults(path: Path, option: str = "--timeline") -> list[Fault]:
    """Faults that would keep a timeline from being written, found before any work is done."""
    found = check_writable(path, option)
    if path.suffix.lower() not in SUFFIXES:
        found.append(Fault("has a suffix of no timeline", option, str(path), ".json, .json.gz"))
    return found


def name_process(process: int, name: str) -> Iterator[Event]:
    """What a process is called; processes are shown in the order of their numbers."""
    yield _about("process_name", (process, 0), name=name)
    yield _about("process_sort_index", (process, 0), sort_index=process)


def name_track(track: Track, name: str) -> Iterator[Event]:
    """What a track is called; tracks are shown in the order of their numbers."""
    yield _about("thread_name", track, name=name)
    yield _about("thread_sort_index", track, sort_index=track[1])


def span(
    track: Track, name: str, start_ns: int, end_ns: int, kind: str, facts: Mapping[str, Any] | None = None
) -> Event:
    """A slice: something that takes time.

    Parameters
    ----------
    track
        Where; slices of a track follow each other or lie within each other.
    name
        What is shown on it.
    start_ns, end_ns
        From when to when.
    kind
        What it can be filtered by.
    facts
        What is shown beside it when it is chosen; finite numbers and text.

    Examples
    --------
    >>> span((1, 2), "norm", 1_500, 4_000, "compute")
    {'name': 'norm', 'cat': 'compute', 'ph': 'X', 'pid': 1, 'tid': 2, 'ts': 1.5, 'dur': 2.5, 'args': {}}
    """
    return {
        "name": name,
        "cat": kind,
        "ph": "X",
        "pid": track[0],
        "tid": track[1],
        "ts": start_ns / 1000,
        "dur": (end_ns - start_ns) / 1000,
        "args": dict(facts or {}),
    }


def instant(track: Track, name: str, at_ns: int, kind: str, facts: Mapping[str, Any] | None = None) -> Event:
    """Something that takes no time."""
    return {
        "name": name,
        "cat": kind,
        "ph": "i",
        "s": "t",
        "pid": track[0],
        "tid": track[1],
        "ts": at_ns / 1000,
        "args": dict(facts or {}),
    }


def counter(process: int, name: str, at_ns: int, values: Mapping[str, float]) -> Event:
    """Values from now on, drawn as a stack."""
    return {"name": name, "ph": "C", "pid": process, "ts": at_ns / 1000, "args": dict(values)}


def flow(number: int, name: str, source: tuple[Track, int], target: tuple[Track, int]) -> Iterator[Event]:
    """An arrow from the slice of one track to that of another.

    Parameters
    ----------
    number
        Its own.
    source, target
        A track, and a nanosecond within the slice meant.
    """
    for phase, (track, at_ns), more in (("s", source, {}), ("f", target, {"bp": "e"})):
        yield {
            "name": name,
            "cat": "flow",
            "ph": phase,
            "id": number,
            "pid": track[0],
            "tid": track[1],
            "ts": at_ns / 1000,
            **more,
        }


def nanoseconds(seconds: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Whole nanoseconds.

    >>> int(nanoseconds(1.5e-6))
    1500
    """
    return np.rint(np.asarray(seconds, dtype=np.float64) * 1e9).astype(np.int64)


def write_events(
    path: str | os.PathLike[str], events: Iterable[Event], about: Mapping[str, Any] | None = None
) -> int:
    """Write a timeline; compressed if the name ends in ``.gz``. The same events make the same bytes.

    Parameters
    ----------
    path
        The file to write, whole or not at all.
    events
        Written one by one as they come.
    about
        What the picture is of, kept beside the events.

    Returns
    -------
    int
        Events written.

    Raises
    ------
    ConfigError
        If the path cannot be written.
    """
    with atomic_write(path, "wb") as raw:
        binary = cast("IO[bytes]", raw)
        if Path(path).suffix.lower() != ".gz":
            return _write(binary, events, about or {})
        # No name and no time of its own.
        with gzip.GzipFile("", "wb", 6, binary, mtime=0) as packed:
            return _write(cast("IO[bytes]", packed), events, about or {})


def _write(binary: IO[bytes], events: Iterable[Event], about: Mapping[str, Any]) -> int:
    count, text = 0, io.TextIOWrapper(binary, "utf-8")
    try:
        header = json.dumps(dict(about), allow_nan=False)
        text.write(f'{{"displayTimeUnit": "ms", "otherData": {header}, "traceEvents": [\n')
        for event in events:
            text.write((",\n" if count else "") + json.dumps(event, allow_nan=False))
            count += 1
        text.write("\n]}\n")
    finally:
        # Whoever opened the stream closes it.
        text.detach()
    return count


def _about(kind: str, track: Track, **values: str | int) -> Event:
    return {"name": kind, "ph": "M", "pid": track[0], "tid": track[1], "args": values}
