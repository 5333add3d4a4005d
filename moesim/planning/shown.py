"""A plan for a notebook: what to rent, how sure that is, what else there was, why the rest fails."""

from __future__ import annotations

from moesim.planning.describe import describe
from moesim.planning.types import Assessment, PlanResult
from moesim.shown import Cell, block, span, table

#: Rows of a table at most.
_MOST = 8
_METRICS = (
    ("TTFT, ms", "ttft_s", 1e3),
    ("TTFT p99, ms", "ttft_p99_s", 1e3),
    ("TPOT, ms", "tpot_s", 1e3),
    ("TPOT p99, ms", "tpot_p99_s", 1e3),
    ("end to end, s", "e2el_s", 1.0),
    ("requests within all limits", "attainment", 1.0),
    ("output tokens/s", "output_throughput", 1.0),
    ("requests/s a replica carries", "request_rate_per_replica", 1.0),
)
_WORDS = {"confirmed": "the simulator confirms it", "ranked": "in steady state, not simulated"}


def html_of(result: PlanResult) -> str:
    """The plan as HTML; see `moesim.shown`."""
    best = result.best
    rows: list[tuple[Cell, ...]] = [
        (
            words,
            best.metrics[name] * scale,
            span(best.interval.get(name) or best.interval.get(f"model_{name}"), scale),
        )
        for words, name, scale in _METRICS
        if name in best.metrics
    ]
    others = [_row(one) for one in result.pareto[:_MOST]]
    failed = [
        (
            refusal.what.replace("_", " "),
            refusal.count,
            refusal.nearest.reason or describe(refusal.nearest.candidate),
        )
        for refusal in result.refused[:_MOST]
    ]
    parts = [
        table(["metric", _WORDS.get(best.status, best.status), "interval"], rows),
        "<p>None better in everything:</p>",
        table(["hardware", "layout", "status", "devices", "USD/h", "TTFT, ms", "TPOT, ms"], others, words=3),
    ]
    if failed:
        head = ["others fail by", "candidates", "the nearest"]
        parts += [table(head, failed)]
    return block(f"{best.candidate.model.name}: rent {_rent(best)}", *parts, notes=result.notes)


def _rent(one: Assessment) -> str:
    cost = f", {one.usd_per_hour:,.2f} USD/h" if one.usd_per_hour is not None else ""
    return (
        f"{one.candidate.devices} devices of {one.candidate.hardware.name}, {describe(one.candidate)}{cost}"
    )


def _row(one: Assessment) -> tuple[Cell, ...]:
    ttft, tpot = (one.metrics.get(name) for name in ("ttft_s", "tpot_s"))
    return (
        one.candidate.hardware.name,
        describe(one.candidate),
        one.status,
        one.candidate.devices,
        one.usd_per_hour,
        None if ttft is None else 1e3 * ttft,
        None if tpot is None else 1e3 * tpot,
    )
