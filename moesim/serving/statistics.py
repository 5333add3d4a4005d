"""A run in numbers: latencies with percentiles, rates, goodput, queues, cache, energy and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.serving.bill import cost_of, energy_of
from moesim.serving.intervals import BATCHES, BEYOND, LEVEL, half_width, over_batches
from moesim.serving.outcome import Outcome
from moesim.serving.state import (
    BINS_PER_E,
    BLOCKS_S,
    BUSY_S,
    GAP_LOW_S,
    LOG_BLOCKS,
    STEPS,
)
from moesim.serving.warmup import AUTO, Window, window_of

F8 = npt.NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)
LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2el_s", "queue_s")


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """A run, or the mean of several.

    Parameters
    ----------
    values
        Plain numbers by name, as `document` has them; None where unknown.
    interval
        By name, lowest and highest mean or percentile to be expected of other runs; how sure the simulation
        is of its own answer, not how good its model is.
    method
        Where the interval is from; empty without one.
    level
        Its coverage.
    notes
        What to keep in mind.
    """

    values: Mapping[str, Any]
    interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    method: str = ""
    level: float = LEVEL
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Plain values, with the interval among them."""
        found = dict(self.values)
        found["interval"] = (
            {"level": self.level, "method": self.method, **{k: list(v) for k, v in self.interval.items()}}
            if self.interval
            else None
        )
        return found


def meets(outcome: Outcome, limits: Mapping[str, float]) -> npt.NDArray[np.bool_]:
    """Requests that were answered within every limit, bool ``[requests]``.

    A request of one token has no time between tokens, and meets any limit on it, as in vLLM.
    """
    good = outcome.done.copy()
    for name, limit in limits.items():
        value = getattr(outcome, name)
        good &= ~(value > limit)
    return good


def summarise(
    outcome: Outcome,
    *,
    goodput: Mapping[str, float] | None = None,
    warmup: str | float = AUTO,
    cooldown: str | float = AUTO,
    price: float | None = None,
    level: float = LEVEL,
    interval: bool = True,
) -> Summary:
    """A run in numbers.

    Parameters
    ----------
    outcome
        What happened.
    goodput
        Limits in seconds by `ttft_s`, `tpot_s`, `e2el_s` that a good request meets.
    warmup, cooldown
        See `moesim.serving.warmup.window_of`.
    price
        USD per device and hour; the hardware's dated price by default.
    level, interval
        Coverage of intervals, and whether to look for them in batches of the run.

    Raises
    ------
    ConfigError
        If the window is empty, or the price is none.
    """
    window = window_of(outcome, warmup, cooldown)
    notes = list(window.notes)
    values = _counts(outcome, window)
    values |= _latencies(outcome, window)
    values |= _rates(outcome, window, goodput)
    values |= _queues(outcome, window)
    values |= _engines(outcome)
    values |= _mishaps(outcome)
    begin, end = outcome.span_s
    energy, why = energy_of(outcome, end - begin, float(outcome.state.progress.generated.sum()))
    notes += why
    values["energy"] = energy
    tokens = (values["output_throughput"] or 0.0) * window.seconds
    both = (values["total_token_throughput"] or 0.0) * window.seconds
    values["cost"] = cost_of(outcome, window.seconds, (tokens, both), price)
    found: dict[str, tuple[float, float]] = {}
    if interval:
        found, more = _intervals(outcome, window, goodput, level)
        notes += more
    return Summary(
        values,
        found,
        f"batch means: {BATCHES} consecutive parts of one run" if found else "",
        level,
        tuple(notes),
    )


def _counts(outcome: Outcome, window: Window) -> dict[str, Any]:
    done, lost = outcome.done, outcome.lost
    begin, end = outcome.span_s
    return {
        "requests": len(outcome.requests),
        "completed": int(done.sum()),
        "lost": int(lost.sum()),
        "unfinished": int((~done & ~lost).sum()),
        "duration_s": end - begin,
        "window": {
            "from_s": window.from_s,
            "to_s": window.to_s,
            "requests": int(window.chosen.sum()),
            "cut_at_start": window.cut[0],
            "cut_at_end": window.cut[1],
        },
    }


def _latencies(outcome: Outcome, window: Window) -> dict[str, Any]:
    """Means by name, and ``latency`` with percentiles; of requests that were answered."""
    chosen = window.chosen & outcome.done
    spreads: dict[str, dict[str, float | None]] = {}
    for name in LATENCIES:
        if name == "itl_s":
            spreads[name] = gaps_of(outcome)
            continue
        sample = getattr(outcome, name)[chosen]
        spreads[name] = spread_of(sample[np.isfinite(sample)])
    return {name: spreads[name]["mean"] for name in LATENCIES} | {"latency": spreads}


def spread_of(sample: F8) -> dict[str, float | None]:
    """Mean, deviation, extremes and percentiles, linear between ranks as serving benchmarks have them."""
    names = ("mean", "std", "min", *(f"p{p}" for p in PERCENTILES), "max")
    if not len(sample):
        return dict.fromkeys(names)
    marks = np.percentile(sample, (0, *PERCENTILES, 100)).tolist()
    return dict(zip(names, (float(sample.mean()), float(sample.std()), *marks), strict=True))


def gaps_of(outcome: Outcome) -> dict[str, float | None]:
    """Times between tokens of the whole run.

    The mean is exact; percentiles are middles of logarithmic bins, 0.25 % off at most, and 0 where tokens of
    one step come together.
    """
    gaps, p = outcome.state.tally.gaps, outcome.state.progress
    counts = np.cumsum(gaps)
    many = int(counts[-1]) if len(counts) else 0
    if not many:
        return dict.fromkeys(("mean", *(f"p{q}" for q in PERCENTILES)))
    whole = np.nansum(np.where(p.generated > 1, p.last_s - p.first_s, 0.0))
    later = np.maximum(p.generated.astype(np.int64) - 1, 0).sum()
    found: dict[str, float | None] = {"mean": float(whole / later) if later else None}
    for q in PERCENTILES:
        place = int(np.searchsorted(counts, q / 100.0 * many))
        found[f"p{q}"] = GAP_LOW_S * math.exp((place + 0.5) / BINS_PER_E) if place else 0.0
    return found


def _rates(outcome: Outcome, window: Window, goodput: Mapping[str, float] | None) -> dict[str, Any]:
    p, requests, seconds = outcome.state.progress, outcome.requests, window.seconds
    if seconds <= 0:
        names = ("request_throughput", "output_throughput", "total_token_throughput")
        return dict.fromkeys((*names, "output_throughput_per_device", "request_goodput", "attainment"))
    ended = outcome.done & _within(p.last_s, window)
    written = float(tokens_within(outcome, window.from_s, window.to_s).sum())
    read = float(requests.input_tokens[_within(p.first_s, window)].sum(dtype=np.int64))
    found: dict[str, Any] = {
        "request_throughput": float(ended.sum()) / seconds,
        "output_throughput": written / seconds,
        "total_token_throughput": (written + read) / seconds,
        "output_throughput_per_device": written / seconds / outcome.about.devices if outcome.about else None,
        "goodput": dict(goodput) if goodput else None,
        "request_goodput": None,
        "attainment": None,
    }
    if goodput:
        good = meets(outcome, goodput)
        found["request_goodput"] = float((good & ended).sum()) / seconds
        found["attainment"] = float(good[window.chosen].mean()) if window.chosen.any() else None
    return found


def _within(times: F8, window: Window) -> npt.NDArray[np.bool_]:
    return np.asarray((times >= window.from_s) & (times <= window.to_s))


def tokens_within(outcome: Outcome, from_s: float, to_s: float) -> F8:
    """Output tokens of each request in a span of time, those after its first evenly over its time."""
    p = outcome.state.progress
    given = p.generated > 0
    first, last = np.where(given, p.first_s, np.inf), np.where(given, p.last_s, np.inf)
    whole = last - first
    inside = np.clip(np.minimum(last, to_s) - np.maximum(first, from_s), 0.0, None)
    with np.errstate(invalid="ignore"):
        share = np.where(whole > 0, inside / whole, (first >= from_s) & (first <= to_s))
    one = ((first >= from_s) & (first <= to_s)).astype(np.float64)
    return np.where(given, one + np.maximum(p.generated - 1, 0) * np.nan_to_num(share), 0.0)


def _queues(outcome: Outcome, window: Window) -> dict[str, Any]:
    """Means over time of requests that wait and that run: of their own times, cut to the window."""
    p = outcome.state.progress
    if window.seconds <= 0:
        return {"waiting": None, "running": None}
    sent = np.where(np.isfinite(p.sent_s), p.sent_s, window.to_s)
    # Those that were not served wait to the end of the window.
    scheduled, last = (np.where(np.isfinite(t), t, window.to_s) for t in (p.scheduled_s, p.last_s))
    last = np.where(outcome.done, last, window.to_s)

    def mean(a: F8, b: F8) -> float:
        inside = np.minimum(b, window.to_s) - np.maximum(a, window.from_s)
        return float(np.clip(inside, 0.0, None).sum()) / window.seconds

    return {"waiting": mean(sent, scheduled), "running": mean(scheduled, last)}


def _engines(outcome: Outcome) -> dict[str, Any]:
    """Of the whole run: steps, utilisation, cache."""
    tally, p, lanes = outcome.state.tally, outcome.state.progress, outcome.state.lanes
    begin, end = outcome.span_s
    duration = end - begin
    blocks = float(lanes.capacity.sum())
    scheduled = np.isfinite(p.scheduled_s)
    read = int(outcome.requests.input_tokens[scheduled].sum(dtype=np.int64))
    busy = tally.sums[:, BUSY_S]
    logged = min(int(tally.logged[0]), len(tally.log))
    most = float(tally.log[:logged, LOG_BLOCKS].max()) if logged else None
    per_engine = blocks / len(busy)
    return {
        "steps": int(tally.sums[:, STEPS].sum()),
        "utilisation": float(busy.mean()) / duration if duration > 0 else None,
        "utilisation_per_engine": (busy / duration).tolist() if duration > 0 else None,
        "kv_cache": {
            "blocks": int(blocks),
            "block_tokens": outcome.rules.block,
            "mean": float(tally.sums[:, BLOCKS_S].sum()) / duration / blocks
            if duration > 0 and blocks
            else None,
            "max": most / per_engine if most is not None and per_engine else None,
            "max_is_of_all_steps": int(tally.logged[0]) <= len(tally.log),
        },
        "prefix_hit_ratio": float(p.cached.sum(dtype=np.int64)) / read if read else None,
        "preemptions": int(p.preempted.sum(dtype=np.int64)),
    }


def _mishaps(outcome: Outcome) -> dict[str, Any]:
    """What failures did, and what hand-overs took: null without any."""
    found: dict[str, Any] = {"failures": None, "hand_over": None}
    down, handed = outcome.down, getattr(outcome, "handed_s", None)
    if down is not None and int(down.failures.sum()):
        found["failures"] = {
            "nodes_lost": int(down.failures.sum()),
            "availability": down.availability,
            "sent_again": int(down.sent_again.sum()),
        }
    if handed is not None:
        known = handed[np.isfinite(handed)]
        found["hand_over"] = {
            "handed_s": spread_of(known),
            "bytes": float(np.nansum(getattr(outcome, "crossed_bytes", 0.0))),
            "link_utilisation": float(np.max(getattr(outcome, "link_utilisation", 0.0))),
        }
    return found


def _intervals(
    outcome: Outcome, window: Window, goodput: Mapping[str, float] | None, level: float
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Intervals from parts of one run."""
    chosen = np.flatnonzero(window.chosen & outcome.done)
    chosen = chosen[np.argsort(outcome.state.progress.sent_s[chosen], kind="stable")]
    found: dict[str, tuple[float, float]] = {}
    if len(chosen) < 2 * BATCHES:
        return {}, [f"{len(chosen)} requests are too few for intervals from one run: see --replications"]
    related, unseen = [], set()
    for name in LATENCIES:
        if name == "itl_s":
            continue
        sample = getattr(outcome, name)[chosen]
        sample = sample[np.isfinite(sample)]
        answer = over_batches(sample, lambda x: float(x.mean()), level)
        if answer is None:
            continue
        found[name] = answer[:2]
        if answer[2] > 2.0 / math.sqrt(BATCHES):
            related.append(name)
        for q in PERCENTILES:
            if len(sample) // BATCHES * (1.0 - q / 100.0) < BEYOND:
                unseen.add(f"p{q}")
                continue
            answer = over_batches(sample, lambda x, q=q: float(np.percentile(x, q)), level)  # type: ignore[misc]
            if answer is not None:
                found[f"{name}.p{q}"] = answer[:2]
    found |= _rate_intervals(outcome, window, goodput, level)
    notes = []
    if related:
        notes.append(
            f"{', '.join(related)}: parts of the run depend on each other, so that intervals are too narrow; "
            "see --replications"
        )
    if unseen:
        names = ", ".join(f"p{q}" for q in PERCENTILES if f"p{q}" in unseen)
        notes.append(f"{len(chosen)} requests are too few for an interval of {names} from one run")
    return found, notes


def _rate_intervals(
    outcome: Outcome, window: Window, goodput: Mapping[str, float] | None, level: float
) -> dict[str, tuple[float, float]]:
    """Of what is counted per second, from equal spans of time; of shares, from parts of requests."""
    if window.seconds <= 0:
        return {}
    last = outcome.state.progress.last_s
    edges = np.linspace(window.from_s, window.to_s, BATCHES + 1)
    span = window.seconds / BATCHES
    counted = {"request_throughput": outcome.done}
    found = {}
    if goodput:
        good = meets(outcome, goodput)
        counted["request_goodput"] = good
        answer = over_batches(good[window.chosen].astype(np.float64), lambda x: float(x.mean()), level)
        if answer is not None:
            found["attainment"] = (max(answer[0], 0.0), min(answer[1], 1.0))
    for name, those in counted.items():
        counts = np.histogram(last[those], edges)[0] / span
        middle, half = float(counts.mean()), half_width(counts, level)
        found[name] = (middle - half, middle + half)
    return found
