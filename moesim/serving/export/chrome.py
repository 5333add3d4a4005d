"""A timeline for Perfetto and chrome://tracing: steps of engines, and what requests went through.

A track per engine holds its steps, counters beside it say who runs and waits and how full the cache is. A
track per request holds its time in the system, and in it queue, prefill and decode. Times are whole
nanoseconds, so that slices of one track never overlap.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from moesim.files import atomic_write
from moesim.layout.parallelism import Parallelism
from moesim.serving.outcome import Outcome
from moesim.serving.state import (
    LOG_BLOCKS,
    LOG_DECODE,
    LOG_PREFILL,
    LOG_REPLICA,
    LOG_RUNNING,
    LOG_SECONDS,
    LOG_START,
    LOG_WAITING,
)

MOST_REQUESTS = 200
_ENGINES, _REQUESTS = 1, 2


def write_timeline(
    outcome: Outcome, path: str | os.PathLike[str], requests: int = MOST_REQUESTS
) -> tuple[int, int]:
    """Write the timeline; compressed if the name ends in ``.gz``.

    Parameters
    ----------
    outcome
        What happened.
    path
        The file to write.
    requests
        How many requests have a track, the first ones.

    Returns
    -------
    tuple of int
        Steps and requests that are in it.

    Raises
    ------
    ConfigError
        If the path cannot be written.
    """
    tally = outcome.state.tally
    steps = min(int(tally.logged[0]), len(tally.log))
    shown = np.flatnonzero(np.isfinite(outcome.state.progress.scheduled_s))[:requests]
    with atomic_write(path, "wb") as raw:
        binary = cast("IO[bytes]", raw)
        if Path(path).suffix == ".gz":
            # No name and no time of its own: the same run makes the same file.
            with gzip.GzipFile("", "wb", 6, binary, mtime=0) as packed:
                _write(outcome, steps, shown, cast("IO[bytes]", packed))
        else:
            _write(outcome, steps, shown, binary)
    return steps, len(shown)


def _write(outcome: Outcome, steps: int, shown: Any, binary: IO[bytes]) -> None:  # noqa: ANN401 - integers
    text = io.TextIOWrapper(binary, "utf-8", write_through=False)
    text.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
    separator = ""
    for event in _events(outcome, steps, shown):
        text.write(separator + json.dumps(event, allow_nan=False))
        separator = ",\n"
    text.write("\n]}\n")
    text.flush()
    text.detach()


def _events(outcome: Outcome, steps: int, shown: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - integers
    engines = len(outcome.state.replicas.end_s)
    yield _name("process_name", _ENGINES, 0, "engines")
    yield _name("process_name", _REQUESTS, 0, "requests")
    for engine in range(engines):
        yield _name("thread_name", _ENGINES, engine, _engine_name(outcome, engine))
    for r in shown.tolist():
        yield _name("thread_name", _REQUESTS, r, f"request {r}")
    yield from _steps(outcome, steps)
    for r in shown.tolist():
        yield from _request(outcome, r)


def _engine_name(outcome: Outcome, engine: int) -> str:
    layout = outcome.about.layout if outcome.about is not None else None
    stages = layout.pp if isinstance(layout, Parallelism) else 1
    if stages == 1:
        return f"replica {engine}"
    return f"replica {engine // stages}, microbatch {engine % stages}"


def _steps(outcome: Outcome, steps: int) -> Iterator[dict[str, Any]]:
    log = outcome.state.tally.log[:steps]
    per_engine = float(outcome.state.lanes.capacity.sum()) / len(outcome.state.replicas.end_s)
    starts = _ns(log[:, LOG_START])
    ends = _ns(log[:, LOG_START] + log[:, LOG_SECONDS])
    for engine in np.unique(log[:, LOG_REPLICA]):
        # A step that a failure cut short ends where the next one begins.
        mine = np.flatnonzero(log[:, LOG_REPLICA] == engine)
        ends[mine[:-1]] = np.minimum(ends[mine[:-1]], starts[mine[1:]])
    for row, start, end in zip(log, starts.tolist(), ends.tolist(), strict=True):
        engine = int(row[LOG_REPLICA])
        read, decoded = int(row[LOG_PREFILL]), int(row[LOG_DECODE])
        name = "mixed" if read and decoded else "prefill" if read else "decode"
        tokens = {"prefill_tokens": read, "decode_tokens": decoded}
        yield _slice(name, "step", _ENGINES, engine, start, end, tokens)
        counts = {"running": int(row[LOG_RUNNING]), "waiting": int(row[LOG_WAITING])}
        yield _counter(f"requests of engine {engine}", start, counts)
        if per_engine:
            share = {"share": round(float(row[LOG_BLOCKS]) / per_engine, 6)}
            yield _counter(f"KV cache of engine {engine}", start, share)


def _request(outcome: Outcome, r: int) -> Iterator[dict[str, Any]]:
    p = outcome.state.progress
    sent, scheduled, first, last = (
        int(_ns(np.array([t[r]]))[0]) if np.isfinite(t[r]) else None
        for t in (p.sent_s, p.scheduled_s, p.first_s, p.last_s)
    )
    assert sent is not None
    assert scheduled is not None
    facts = {
        "input_tokens": int(outcome.requests.input_tokens[r]),
        "output_tokens": int(p.generated[r]),
        "cached_tokens": int(p.cached[r]),
        "preempted": int(p.preempted[r]),
        "replica": int(p.lane[r]) // outcome.rules.lanes,
    }
    end = last if last is not None else scheduled
    yield _slice(f"request {r}", "request", _REQUESTS, r, sent, end, facts)
    yield _slice("queue", "request", _REQUESTS, r, sent, scheduled, {})
    if first is not None and last is not None:
        yield _slice("prefill", "request", _REQUESTS, r, scheduled, first, {})
        yield _slice("decode", "request", _REQUESTS, r, first, last, {})


def _ns(seconds: Any) -> Any:  # noqa: ANN401 - arrays
    return np.rint(seconds * 1e9).astype(np.int64)


def _us(ns: int) -> float:
    return ns / 1000


def _slice(
    name: str, category: str, pid: int, tid: int, start: int, end: int, facts: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "ts": _us(start),
        "dur": _us(end - start),
        "args": facts,
    }


def _counter(name: str, at: int, values: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "C", "pid": _ENGINES, "ts": _us(at), "args": values}


def _name(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
