"""Let the simulator judge a candidate, and find the fewest replicas with which it agrees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import t as student

from moesim.engine.traits import Traits
from moesim.errors import InfeasibleError
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.expert_map import ExpertMap
from moesim.planning.streams import Stream
from moesim.planning.types import Candidate, Slo
from moesim.serving.outcome import Outcome
from moesim.serving.pools import ReadyPools, prepare_pools
from moesim.serving.settings import Fleet
from moesim.serving.simulate import Ready, prepare
from moesim.trace.types import Routing

#: Of the intervals of means over replications.
LEVEL = 0.95
#: Replicas of a fleet, at most.
MOST_REPLICAS = 1024
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What the simulator says.

    Parameters
    ----------
    holds
        Whether the mean share of requests that meet all limits is as promised.
    metrics
        Means over replications.
    interval
        In which the expected value lies, by Student's t over the replications; empty with one.
    """

    holds: bool
    metrics: dict[str, float]
    interval: dict[str, tuple[float, float]]


@dataclass(slots=True, eq=False)
class Judge:
    """Simulates candidates; what it said once it knows.

    Tables of step times are made once for all replicas of a layout, and once for all numbers of the workers
    of two pools. Caches cross between pools as `moesim.serving.handover.HandOver` has it by default.

    Parameters
    ----------
    streams
        What is replayed.
    slo
        What is promised.
    trace, placement_of
        Routing; and where experts lie.
    traits_of
        What an engine adds to its kernels.
    """

    streams: tuple[Stream, ...]
    slo: Slo
    trace: Routing | None
    placement_of: Callable[[Candidate], ExpertMap | None]
    traits_of: Callable[[str], Traits]
    seed: int = 0
    runs: int = 0
    _known: dict[tuple[object, ...], Verdict] = field(default_factory=dict)
    _ready: dict[tuple[object, ...], Ready | ReadyPools | None] = field(default_factory=dict)

    def verdict(self, candidate: Candidate) -> Verdict:
        """Serve every stretch with a candidate."""
        key = (*_apart(candidate), candidate.layout, candidate.replicas)
        if key not in self._known:
            self._known[key] = self._judged(candidate)
        return self._known[key]

    def fewest(self, at: Callable[[int], Candidate], guess: int, least: int, most: int) -> int | None:
        """Fewest replicas that hold, from `least` to `most`; None where none does.

        More replicas serve a stretch no worse: doubled steps away from the guess find two numbers of which
        one holds, halving finds the fewest between them.
        """
        if most < least:
            return None
        guess, step = min(max(guess, least), most), 1
        low, high = least - 1, guess
        if self.verdict(at(guess)).holds:
            while high > least:
                lower = max(high - step, least)
                if not self.verdict(at(lower)).holds:
                    low = lower
                    break
                high, step = lower, 2 * step
        else:
            # What the most do not lift, no number between does: one run says so.
            if not self.verdict(at(most)).holds:
                return None
            while not self.verdict(at(high)).holds:
                if high == most:
                    return None
                low, high, step = high, min(high + step, most), 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            if self.verdict(at(middle)).holds:
                high = middle
            else:
                low = middle
        return high

    def divided(self, divisions: Sequence[Candidate], first: int) -> Candidate:
        """Of two pools on the same nodes, the division that holds; where none does, the best that was tried.

        Times to first token are those of the prefill workers, times per token those of the others: where one
        of them is late, its pool has too few, and halving finds a division with which neither is.

        Parameters
        ----------
        divisions
            In order of prefill workers.
        first
            Of them, the one to begin with.
        """
        low, high, at = 0, len(divisions) - 1, first
        tried: list[tuple[float, Candidate]] = []
        while low <= high:
            verdict = self.verdict(divisions[at])
            tried.append((verdict.metrics["attainment"], divisions[at]))
            late = {
                name
                for name in self.slo.limits
                if verdict.metrics.get(f"{name}_met", 0.0) < self.slo.attainment
            }
            if verdict.holds or late not in ({"ttft_s"}, {"tpot_s"}):
                break
            low, high = (at + 1, high) if "ttft_s" in late else (low, at - 1)
            at = (low + high) // 2
        return max(tried, key=lambda pair: pair[0])[1]

    def _judged(self, candidate: Candidate) -> Verdict:
        rows = [self._served(candidate, stream) for stream in self.streams]
        self.runs += len(rows)
        table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        metrics = {name: float(values.mean()) for name, values in table.items()}
        interval = {}
        if len(rows) > 1:
            factor = float(student.ppf(0.5 + LEVEL / 2.0, len(rows) - 1)) / len(rows) ** 0.5
            for name, values in table.items():
                half = factor * float(values.std(ddof=1))
                interval[name] = (metrics[name] - half, metrics[name] + half)
        for name, (low, high) in interval.items():
            if name == "attainment" or name.endswith("_met"):
                interval[name] = max(low, 0.0), min(high, 1.0)
        return Verdict(metrics["attainment"] >= self.slo.attainment, metrics, interval)

    def _served(self, candidate: Candidate, stream: Stream) -> dict[str, float]:
        key = _apart(candidate)
        if key not in self._ready:
            self._ready[key] = self._prepared(candidate)
        ready = self._ready[key]
        if ready is None:
            return {"attainment": 0.0}
        # Replicas share the tables of step times.
        if isinstance(ready, ReadyPools):
            assert isinstance(candidate.layout, Disaggregated)
            pools = ready.sized(candidate.layout, candidate.hardware, Fleet(candidate.replicas))
            return measured(pools.serve(stream.requests), stream, self.slo)
        engines = ready.about.engines * candidate.replicas
        about = replace(ready.about, fleet=Fleet(candidate.replicas), engines=engines)
        return measured(replace(ready, about=about).serve(stream.requests), stream, self.slo)

    def _prepared(self, candidate: Candidate) -> Ready | ReadyPools | None:
        """One replica; None where a request does not fit."""
        layout, first = candidate.layout, self.streams[0].requests
        settings: dict[str, Any] = {
            "longest": max(_longest(stream) for stream in self.streams),
            "engine": candidate.engine,
            "fleet": Fleet(1),
            "trace": self.trace,
            "plan": self.placement_of(candidate),
            "traits": self.traits_of(candidate.engine.backend),
            "seed": self.seed,
        }
        try:
            if isinstance(layout, Disaggregated):
                return prepare_pools(candidate.model, candidate.hardware, layout, first, **settings)
            return prepare(candidate.model, candidate.hardware, layout, first, **settings)
        except InfeasibleError:
            return None


def _apart(candidate: Candidate) -> tuple[object, ...]:
    """What tells candidates apart, but for their number of replicas or of workers."""
    layout, hardware = candidate.layout, candidate.hardware
    settings = id(candidate.model), candidate.engine, candidate.redundant
    if isinstance(layout, Disaggregated):
        # A machine with other numbers of nodes is the same to its workers, and keeps its device.
        return (*settings, hardware.name, id(hardware.device), layout.prefill.layout, layout.decode.layout)
    return (*settings, id(hardware), layout)


def _longest(stream: Stream) -> int:
    requests = stream.requests
    return int((requests.input_tokens.astype(np.int64) + requests.output_tokens).max())


def meets(outcome: Outcome, slo: Slo) -> np.ndarray:
    """Which requests met every limit, bool ``[requests]``; one token has no time between tokens."""
    met = outcome.done.copy()
    for name in slo.limits:
        met &= _within(outcome, slo, name)
    return met


def _within(outcome: Outcome, slo: Slo, name: str) -> np.ndarray:
    """Which requests met one limit, bool ``[requests]``."""
    values = getattr(outcome, name)
    late = np.where(np.isnan(values), name != "tpot_s", values > slo.limits[name])
    return outcome.done & ~late


def measured(outcome: Outcome, stream: Stream, slo: Slo) -> dict[str, float]:
    """What the judged requests of a stretch saw."""
    judged = stream.judged
    met = meets(outcome, slo)[judged]
    arrivals = stream.requests.arrival_s[judged]
    span = max(float(arrivals[-1] - arrivals[0]), 1e-12)
    found = {"attainment": float(met.mean()), "goodput": float(met.sum()) / span}
    # What each limit alone would leave: says which of two pools is too small.
    found |= {f"{name}_met": float(_within(outcome, slo, name)[judged].mean()) for name in slo.limits}
    found["request_throughput"] = len(met) / span
    found["output_throughput"] = float(stream.requests.output_tokens[judged].sum()) / span
    for name in ("ttft_s", "tpot_s", "e2el_s"):
        values = getattr(outcome, name)[judged]
        # Whoever is not done has waited forever.
        values = np.where(outcome.done[judged], values, np.inf)
        values = values[~np.isnan(values)]
        if not len(values):
            continue
        found[name] = float(values.mean())
        at = np.percentile(values, _PERCENTILES, method="higher")
        stem = name.removesuffix("_s")
        found |= {f"{stem}_p{p}_s": float(v) for p, v in zip(_PERCENTILES, at, strict=True)}
    return found
