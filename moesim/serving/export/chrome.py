"""A run as a timeline for Perfetto and chrome://tracing; see `moesim.chrome`.

A track per engine holds its steps, counters beside it say who runs and waits and how full the cache is. A
track per request holds its time in the system, and in it queue, prefill, hand-over and decode. Links between
pools have as many tracks as there are transfers at once, replicas that failed have one that says when.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from moesim.chrome import Event, counter, flow, name_process, name_track, nanoseconds, span, write_events
from moesim.errors import ConfigError, Fault
from moesim.layout.parallelism import Parallelism
from moesim.serving.export.hand_overs import hand_over_of, transfers
from moesim.serving.export.happenings import happenings, moved_experts, outages_of
from moesim.serving.outcome import Outcome
from moesim.serving.pools import PoolsOutcome
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

I8 = npt.NDArray[np.int64]

MOST_REQUESTS = 200
_ENGINES, _DECODERS, _LINKS, _NODES, _REQUESTS = range(1, 6)


def write_timeline(
    outcome: Outcome,
    path: str | os.PathLike[str],
    requests: int = MOST_REQUESTS,
    window_s: tuple[float, float] = (0.0, np.inf),
) -> tuple[int, int]:
    """Write the timeline; compressed if the name ends in ``.gz``.

    Parameters
    ----------
    outcome
        What happened.
    path
        The file to write.
    requests
        How many requests have a track, the first ones in the window.
    window_s
        From when to when; what lies partly in it is drawn whole.

    Returns
    -------
    tuple of int
        Steps and requests that are in it.

    Raises
    ------
    ConfigError
        If the path cannot be written, or the window is none.
    """
    if not 0.0 <= window_s[0] < window_s[1]:
        raise ConfigError(Fault("ends before it begins", "--timeline-window", window_s, "FROM:TO in seconds"))
    drawn = _Drawn.of(outcome, requests, window_s)
    about = {
        "model": outcome.about.model if outcome.about is not None else "",
        "requests": len(outcome.requests),
        "requests_drawn": len(drawn.shown),
        "steps": int(outcome.state.tally.logged[0]),
        "steps_drawn": len(drawn.steps),
    }
    write_events(path, drawn.events(), about)
    return len(drawn.steps), len(drawn.shown)


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """What is in the picture.

    Parameters
    ----------
    outcome
        What happened.
    steps
        Rows of the log, and when they begin and end, ``[steps]``.
    shown
        Requests with a track.
    """

    outcome: Outcome
    steps: I8
    starts: I8
    ends: I8
    shown: I8

    @classmethod
    def of(cls, outcome: Outcome, requests: int, window_s: tuple[float, float]) -> _Drawn:
        """Choose steps and requests."""
        tally, p = outcome.state.tally, outcome.state.progress
        log = tally.log[: min(int(tally.logged[0]), len(tally.log))]
        starts = nanoseconds(log[:, LOG_START])
        ends = nanoseconds(log[:, LOG_START] + log[:, LOG_SECONDS])
        for engine in np.unique(log[:, LOG_REPLICA]):
            # A step that a failure cut short ends there, and at the latest where the next one begins.
            mine = np.flatnonzero(log[:, LOG_REPLICA] == engine)
            ends[mine[:-1]] = np.minimum(ends[mine[:-1]], starts[mine[1:]])
            for outage in outages_of(outcome, int(engine)):
                cut = int(nanoseconds(outage.from_s))
                ends[mine] = np.where(starts[mine] <= cut, np.minimum(ends[mine], cut), ends[mine])
        first, last = window_s[0], window_s[1]
        inside = (log[:, LOG_START] < last) & (ends >= first * 1e9)
        over = np.where(np.isfinite(p.last_s), p.last_s, p.scheduled_s)
        here = np.isfinite(p.scheduled_s) & (p.sent_s < last) & (over >= first)
        return cls(outcome, np.flatnonzero(inside), starts, ends, np.flatnonzero(here)[:requests])

    def events(self) -> Iterator[Event]:
        """Everything, names first."""
        outcome, numbers = self.outcome, count(1)
        pools = isinstance(outcome, PoolsOutcome)
        yield from name_process(_ENGINES, "prefill workers" if pools else "engines")
        if pools:
            yield from name_process(_DECODERS, "decode workers")
        for engine in np.unique(outcome.state.tally.log[self.steps, LOG_REPLICA]).astype(int).tolist():
            yield from name_track(self._track(engine), self._engine(engine))
        yield from self._steps()
        if isinstance(outcome, PoolsOutcome):
            yield from transfers(outcome, self.shown, _LINKS)
        yield from happenings(outcome, _NODES)
        if len(self.shown):
            yield from name_process(_REQUESTS, "requests")
        begun = self._begun()
        for r in self.shown.tolist():
            yield from name_track((_REQUESTS, r), f"request {r}")
            yield from self._request(r, begun, numbers)

    def _track(self, engine: int) -> tuple[int, int]:
        pools = self.outcome.pools if isinstance(self.outcome, PoolsOutcome) else None
        if pools is not None and engine >= pools[0].engines:
            return _DECODERS, engine - pools[0].engines
        return _ENGINES, engine

    def _engine(self, engine: int) -> str:
        about = self.outcome.about
        layout = about.layout if about is not None else None
        if isinstance(self.outcome, PoolsOutcome):
            return f"worker {self._track(engine)[1]}"
        stages = layout.pp if isinstance(layout, Parallelism) else 1
        if stages == 1:
            return f"replica {engine}"
        return f"replica {engine // stages}, microbatch {engine % stages}"

    def _steps(self) -> Iterator[Event]:
        outcome = self.outcome
        log, moved = outcome.state.tally.log, moved_experts(outcome)
        lanes = outcome.state.lanes.capacity
        per_engine = float(lanes.sum()) / len(outcome.state.replicas.end_s)
        for i in self.steps.tolist():
            row, start, end = log[i], int(self.starts[i]), int(self.ends[i])
            engine = int(row[LOG_REPLICA])
            track = self._track(engine)
            read, decoded = int(row[LOG_PREFILL]), int(row[LOG_DECODE])
            name = "mixed" if read and decoded else "prefill" if read else "decode"
            yield span(track, name, start, end, "step", {"prefill_tokens": read, "decode_tokens": decoded})
            if (stall := moved.get(i, 0.0)) > 0:
                yield span(track, "experts move", start, min(start + int(nanoseconds(stall)), end), "stall")
            counts = {"running": int(row[LOG_RUNNING]), "waiting": int(row[LOG_WAITING])}
            yield counter(track[0], f"requests of {self._engine(engine)}", start, counts)
            if per_engine:
                share = {"share": round(float(row[LOG_BLOCKS]) / per_engine, 6)}
                yield counter(track[0], f"KV cache of {self._engine(engine)}", start, share)

    def _begun(self) -> dict[tuple[int, int], int]:
        """The step that an engine began at a nanosecond."""
        log = self.outcome.state.tally.log
        return {(int(log[i, LOG_REPLICA]), int(self.starts[i])): i for i in self.steps.tolist()}

    def _request(self, r: int, begun: dict[tuple[int, int], int], numbers: Iterator[int]) -> Iterator[Event]:
        p, outcome = self.outcome.state.progress, self.outcome
        sent, scheduled, first, last = (
            int(nanoseconds(t[r])) if np.isfinite(t[r]) else None
            for t in (p.sent_s, p.scheduled_s, p.first_s, p.last_s)
        )
        assert sent is not None
        assert scheduled is not None
        pools = outcome.pools if isinstance(outcome, PoolsOutcome) else None
        lane = int(p.lane[r] if pools is None else pools[0].state.progress.lane[r])
        engine = lane // (outcome.rules if pools is None else pools[0].rules).lanes
        facts = {
            "input_tokens": int(outcome.requests.input_tokens[r]),
            "output_tokens": int(p.generated[r]),
            "cached_tokens": int(p.cached[r]),
            "preempted": int(p.preempted[r]),
            "replica": engine,
        }
        track, end = (_REQUESTS, r), last if last is not None else scheduled
        yield span(track, f"request {r}", sent, end, "request", facts)
        yield span(track, "queue", sent, scheduled, "request")
        step = begun.get((engine, scheduled))
        if step is not None:
            yield from flow(next(numbers), "scheduled", (track, scheduled), (self._track(engine), scheduled))
        if first is None or last is None:
            return
        crossed = hand_over_of(outcome, r) if isinstance(outcome, PoolsOutcome) else None
        read, placed, there = crossed if crossed is not None else (first, first, first)
        yield span(track, "prefill", scheduled, read, "request")
        if crossed is not None:
            yield span(track, "hand-over", read, there, "request")
            if placed > read:
                yield span(track, "waits for blocks", read, placed, "request")
        yield span(track, "decode", there, last, "request")
