"""The same simulation with other draws, on many processes, and how sure that makes its answers."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.requests import (
    Arrivals,
    Lengths,
    RequestTrace,
    generate_requests,
    resample_sessions,
    shifted,
)
from moesim.serving.admit import without_long
from moesim.serving.intervals import LEVEL, over_replications
from moesim.serving.simulate import Ready
from moesim.serving.statistics import Summary, summarise
from moesim.serving.warmup import AUTO


@dataclass(frozen=True, slots=True)
class Made:
    """Requests made up anew for every replication.

    Parameters
    ----------
    requests, arrivals, input_tokens, output_tokens
        As for `moesim.requests.generate_requests`.
    concurrency
        The most that the client has in flight, where arrivals do not say.
    most_tokens
        Requests of more tokens in and out are left out.
    """

    requests: int
    arrivals: Arrivals
    input_tokens: Lengths
    output_tokens: Lengths
    concurrency: int | None = None
    most_tokens: int | None = None

    def draw(self, seed: int) -> RequestTrace:
        """Those of a seed."""
        made = generate_requests(
            self.requests, self.arrivals, self.input_tokens, self.output_tokens, seed=seed
        )
        if self.concurrency is not None:
            made = replace(made, concurrency=self.concurrency)
        return without_long(made, self.most_tokens)[0]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Requests of a trace: as they are in the first replication, drawn anew by session in the others.

    Parameters
    ----------
    trace
        What was recorded.
    first
        Seed of the replication that takes the trace as it is.
    how
        ``sessions`` draws as many requests, by session and with replacement, and lets each session begin at a
        time drawn from the trace's own beginnings; ``shift`` lets the trace begin at a later request, and
        what was before follow at its end.
    """

    trace: RequestTrace
    first: int = 0
    how: str = "sessions"

    def draw(self, seed: int) -> RequestTrace:
        """Those of a seed."""
        if seed == self.first:
            return self.trace
        if self.how == "shift":
            return shifted(self.trace, seed=seed)
        return resample_sessions(self.trace, len(self.trace), seed=seed)


if TYPE_CHECKING:
    from moesim.serving.pools import ReadyPools

#: What gives the requests of a seed.
Traffic = Made | Recorded


@dataclass(frozen=True, slots=True)
class Looking:
    """How every replication is summed up: as for `moesim.serving.statistics.summarise`."""

    goodput: Mapping[str, float] | None = None
    warmup: str | float = AUTO
    cooldown: str | float = AUTO
    price: float | None = None


def replicate(
    ready: Ready | ReadyPools,
    traffic: Traffic,
    replications: int,
    *,
    seed: int = 0,
    processes: int = 1,
    looking: Looking | None = None,
    level: float = LEVEL,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Run a simulation with several seeds.

    Parameters
    ----------
    ready
        The fleet; its step times are the same in all replications.
    traffic
        What gives the requests of a seed. None may be longer than the fleet was made for.
    replications
        How many; seeds are `seed`, `seed` + 1, ...
    processes
        How many at once. The answer is the same for any number.
    looking
        How each is summed up.
    level
        Coverage of the intervals.
    progress
        Called with the number of replications that are done.

    Returns
    -------
    Summary
        Means over replications with Student's intervals; ``replications`` has every one's own means.

    Raises
    ------
    ConfigError
        If there are to be none.
    """
    faults = [
        Fault("is out of range", f"--{name}", value, f"1 to {most}")
        for name, value, most in (("replications", replications, 10_000), ("processes", processes, 1_024))
        if not 1 <= value <= most
    ]
    if faults:
        raise ConfigError(faults)
    seeds = range(seed, seed + replications)
    task = _Task(ready, traffic, looking or Looking())
    found = []
    for summary in _run(task, seeds, min(processes, replications)):
        found.append(summary)
        if progress is not None:
            progress(len(found))
    return merged(found, seeds, level)


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What a process needs once."""

    ready: Ready | ReadyPools
    traffic: Traffic
    looking: Looking

    def run(self, seed: int) -> Summary:
        """One replication."""
        how = self.looking
        outcome = self.ready.serve(self.traffic.draw(seed), seed)
        return summarise(
            outcome,
            goodput=how.goodput,
            warmup=how.warmup,
            cooldown=how.cooldown,
            price=how.price,
            interval=False,
        )


_TASK: _Task | None = None


def _begin(task: _Task) -> None:
    global _TASK
    _TASK = task


def _one(seed: int) -> Summary:
    assert _TASK is not None
    return _TASK.run(seed)


def _run(task: _Task, seeds: range, processes: int) -> Iterator[Summary]:
    if processes == 1:
        yield from map(task.run, seeds)
        return
    # Fresh processes: those that are copies of this one would hold locks of threads that they do not have.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _begin, (task,)) as pool:
        yield from pool.map(_one, seeds)


def merged(found: list[Summary], seeds: range, level: float = LEVEL) -> Summary:
    """Means of several summaries, and intervals of those means."""
    tables = [dict(_flat(summary.values)) for summary in found]
    names = [name for name in tables[0] if not isinstance(tables[0][name], str | dict)]
    interval = {}
    values: dict[str, Any] = {}
    for name, first in tables[0].items():
        column = [table.get(name) for table in tables]
        if isinstance(first, str | bool) or not _numbers(column):
            _put(values, name, first if all(c == first for c in column) else None)
            continue
        _put(values, name, _mean(column))
    for name in names:
        column = [tables[i].get(name) for i in range(len(tables))]
        known = over_replications(column, level) if _numbers(column) else None
        if known is not None and _stated(name):
            interval[_short(name)] = known
    values["replications"] = {
        "n": len(found),
        "seeds": list(seeds),
        "rows": [{_short(k): v for k, v in table.items() if _stated(k)} for table in tables],
    }
    notes = list(dict.fromkeys(note for summary in found for note in summary.notes))
    method = f"Student's t over {len(found)} independent replications" if interval else ""
    if len(found) == 1:
        notes.append("one replication has no interval")
    return Summary(values, interval, method, level, tuple(notes))


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _put(values: dict[str, Any], name: str, value: Any) -> None:  # noqa: ANN401 - plain values
    *path, last = name.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[last] = value


def _numbers(column: list[Any]) -> bool:
    return all(isinstance(c, int | float | list) or c is None for c in column) and any(
        c is not None and not isinstance(c, list) for c in column
    )


def _mean(column: list[Any]) -> float | None:
    known = [c for c in column if isinstance(c, int | float) and math.isfinite(c)]
    return float(np.mean(known)) if known else None


#: What has an interval: latencies, rates, shares, queues; not counts of what was asked.
_RATES = (
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "output_throughput_per_device",
    "request_goodput",
    "attainment",
    "waiting",
    "running",
    "utilisation",
    "kv_cache.mean",
    "kv_cache.max",
    "prefix_hit_ratio",
    "preemptions",
    "energy.busy_joules_per_output_token",
    "energy.joules_per_output_token",
    "cost.usd_per_million_output_tokens",
    "cost.usd_per_million_tokens",
)


def _stated(name: str) -> bool:
    parts = name.split(".")
    if parts[0] == "latency":
        return parts[2] not in ("std", "min", "max")
    return name in _RATES


def _short(name: str) -> str:
    """``latency.ttft_s.mean`` is ``ttft_s``, and ``latency.ttft_s.p99`` is ``ttft_s.p99``."""
    return name.removeprefix("latency.").removesuffix(".mean") if name.startswith("latency.") else name
