"""Simulations: what requests saw, what was promised, how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from moesim.reporting import figures
from moesim.reporting.documents import SimulationDocument
from moesim.reporting.figures import Figure
from moesim.reporting.figures.given import percent
from moesim.reporting.sections.compare import Contender, standing
from moesim.reporting.sections.parts import (
    Answer,
    Section,
    Table,
    array,
    brief,
    duration,
    each,
    filled,
    in_ms,
    seed_of,
    short,
    unique,
)
from moesim.reporting.tiles import Number, Tile

#: Latencies with their names, the most asked for first.
LATENCIES = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "between tokens",
    "e2el_s": "end to end",
    "queue_s": "in the queue",
}
_PERCENTILES = ("p50", "p90", "p95", "p99")
#: Runs whose time is drawn, each by itself.
_OVER_TIME = 4


def sections_of(runs: Sequence[SimulationDocument], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of simulations: all of them side by side."""
    tables = [compared(runs, labels)]
    tables += [
        latencies(run, label if len(runs) > 1 else "") for run, label in zip(runs, labels, strict=True)
    ]
    return [
        Section(
            "simulations",
            "Simulations" if several else "",
            answer(runs, labels),
            tuple(_figures(runs, labels)),
            tuple(tables),
            tuple(_missing(runs)),
            unique(warning for run in runs for warning in run.warnings),
            _tiles(runs, labels),
        )
    ]


def answer(runs: Sequence[SimulationDocument], labels: Sequence[str]) -> Answer:
    """What simulations say."""
    names = labels if len(runs) > 1 else [""]
    pairs = list(zip(runs, names, strict=True))
    kept = [each(text, name) for run, name in pairs for text in _promise(run)]
    limits = [each(text, name) for run, name in pairs for text in _limits(run)]
    costs = [each(text, name) for run, name in pairs for text in _costs(run)]
    doubts = [each(text, name) for run, name in pairs for text in _doubts(run)]
    doubts.append("All of it is simulated, not measured: intervals say how sure the simulation is of itself.")
    return Answer(
        _alone(runs[0]) if len(runs) == 1 else _lead(runs, labels),
        filled(("Promised", kept), ("What limits it", limits), ("Costs", costs), ("Uncertain", doubts)),
    )


def _alone(run: SimulationDocument) -> str:
    what = f"{run.model} on {run.devices:,} devices of {run.hardware}, {run.replicas} x ({run.layout})" if (
        run.devices and run.replicas
    ) else f"The table {run.table or 'of requests'}, which does not say what served"  # fmt: skip
    text = (
        f"{what}: {run.completed:,.0f} of {run.requests:,.0f} requests answered in {duration(run.duration_s)}"
    )
    if run.output_throughput is not None:
        text += f", {run.output_throughput:,.0f} output tokens/s"
    seen = [
        f"{title} {duration(spread.p99)}"
        for name, title in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"))
        if (spread := run.latency.get(name)) is not None and spread.p99 is not None
    ]
    return f"{text}. 99 % of them saw {' and '.join(seen)} or better." if seen else f"{text}."


def _lead(runs: Sequence[SimulationDocument], labels: Sequence[str]) -> str:
    good = all(run.attainment is not None for run in runs) and len({_limits_of(run) for run in runs}) == 1
    pairs = list(zip(runs, labels, strict=True))
    found = [f"{len(runs)} simulations side by side."]
    if good:
        rates = [Contender(n, r.request_goodput, r.span("request_goodput")) for r, n in pairs]
        found.append(standing(rates, "goodput", "{:,.4g} good requests/s".format, less=False))
    rates = [Contender(n, r.output_throughput, r.span("output_throughput")) for r, n in pairs]
    found.append(standing(rates, "output throughput", "{:,.0f} tokens/s".format, less=False))
    slow = [Contender(n, _p99(r, "ttft_s"), r.span("ttft_s.p99")) for r, n in pairs]
    found.append(standing(slow, "p99 of TTFT", duration, less=True))
    return " ".join(filter(None, found))


def _p99(run: SimulationDocument, name: str) -> float | None:
    spread = run.latency.get(name)
    return None if spread is None else spread.p99


def _limits_of(run: SimulationDocument) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((run.goodput or {}).items()))


def _promise(run: SimulationDocument) -> list[str]:
    if not run.goodput:
        return []
    said = ", ".join(f"{LATENCIES.get(n, n)} within {duration(s)}" for n, s in run.goodput.items())
    if run.attainment is None:
        return [f"Asked for: {said}."]
    span = run.span("attainment")
    ends = (
        f" (interval {percent(max(span[0], 0.0))} to {percent(min(span[1], 1.0))})"
        if span and span[0] < span[1]
        else ""
    )
    found = [f"{percent(run.attainment)} of requests have {said}{ends}."]
    worst = min(run.met, key=lambda name: run.met[name], default="")
    if worst and run.met[worst] < 1:
        found.append(f"{LATENCIES.get(worst, worst)} is missed most: {percent(run.met[worst])} keep it.")
    return found


def _limits(run: SimulationDocument) -> list[str]:
    found = []
    queue, first = (run.latency.get(name) for name in ("queue_s", "ttft_s"))
    if queue is not None and first is not None and queue.mean is not None and first.mean:
        found.append(
            f"Of a mean TTFT of {duration(first.mean)}, {duration(queue.mean)} "
            f"({percent(min(queue.mean / first.mean, 1.0))}) passes in the queue."
        )
    if run.running is not None and run.waiting is not None:
        found.append(f"{run.running:,.4g} requests run and {run.waiting:,.4g} wait at a time, on average.")
    if run.kv_cache.max is not None:
        found.append(f"At most {percent(min(run.kv_cache.max, 1.0))} of the KV cache is in use.")
    if run.preemptions:
        found.append(f"Requests are pre-empted {run.preemptions:,.4g} times.")
    if run.offload is not None and run.offload.hit_ratio is not None:
        found.append(f"{percent(run.offload.hit_ratio)} of the experts are found on the device.")
    if run.failures is not None and run.failures.nodes_lost:
        found.append(f"{run.failures.nodes_lost:,.4g} nodes fail.")
    return found


def _costs(run: SimulationDocument) -> list[str]:
    found = []
    if run.cost is not None and run.cost.usd_per_million_output_tokens is not None:
        found.append(
            f"{brief(run.cost.usd_per_million_output_tokens)} USD per million output tokens, at "
            f"{short(run.cost.usd_per_device_hour)} USD per device and hour ({run.cost.source})."
        )
    if run.energy is not None and run.energy.busy_joules_per_output_token is not None:
        found.append(
            f"{brief(run.energy.busy_joules_per_output_token)} J per output token, {run.energy.scope}."
        )
    return found


def _doubts(run: SimulationDocument) -> list[str]:
    found = []
    if run.method:
        level = f"{run.level:.0%} intervals" if run.level is not None else "Intervals"
        found.append(f"{level[:1].upper()}{level[1:]} are from {run.method}.")
    else:
        found.append("There is no interval: one run says how it went, not how another would go.")
    if run.window is not None and (run.window.cut_at_start or run.window.cut_at_end):
        found.append(
            f"Statistics leave out {run.window.cut_at_start:,.0f} requests at the beginning and "
            f"{run.window.cut_at_end:,.0f} at the end."
        )
    if run.table and not run.window:
        found.append("Statistics are of the whole table, warm-up included.")
    without = run.lost + run.unfinished
    if without:
        found.append(f"{without:,.0f} requests have no answer, and no latency: they are in no percentile.")
    if run.replications is not None and run.replications.n > 1 and run.distributions:
        found.append(f"Distributions are of the first of {run.replications.n} replications.")
    return found


def _figures(runs: Sequence[SimulationDocument], labels: Sequence[str]) -> list[Figure]:
    seed = seed_of(runs)
    limits = dict(_limits_of(runs[0])) if len({_limits_of(run) for run in runs}) == 1 else {}
    found = []
    for name in ("ttft_s", "tpot_s", "e2el_s"):
        samples = {
            label: figures.Quantiles(np.array(one.levels), np.array(one.values_s), one.n)
            for run, label in zip(runs, labels, strict=True)
            if (one := run.distributions.get(name)) is not None
        }
        if samples:
            limit = limits.get(name)
            counted = {label: r.met[name] for r, label in zip(runs, labels, strict=True) if name in r.met}
            found.append(
                figures.latency_cdf(
                    samples,
                    name,
                    limit_s=limit,
                    counted=counted if limit is not None and counted.keys() == samples.keys() else None,
                    intervals=_marks(runs, labels, name),
                    seed=seed,
                )
            )
    for run, label in zip(runs[:_OVER_TIME], labels, strict=False):
        if run.over_time is None:
            continue
        window = run.window
        figure = figures.serving_over_time(
            run.over_time.edges_s,
            run.over_time.running,
            run.over_time.waiting,
            kv_share=_cache(run.over_time.kv_share),
            window_s=(window.from_s, window.to_s) if window and not run.replications else None,
            n=f"{run.requests:,.0f} requests",
            seed=run.provenance.seed,
        )
        found.append(replace(figure, title=f"{figure.title}: {label}") if len(runs) > 1 else figure)
    return found


def _marks(
    runs: Sequence[SimulationDocument], labels: Sequence[str], name: str
) -> dict[str, dict[float, tuple[float, float]]] | None:
    """Intervals of percentiles, where distributions are of what the intervals are of."""
    found = {
        label: {
            int(p[1:]) / 100: (max(span[0], 0.0), span[1])
            for p in _PERCENTILES
            if (span := run.span(f"{name}.{p}"))
        }
        for run, label in zip(runs, labels, strict=True)
        if name in run.distributions
    }
    return {label: marks for label, marks in found.items() if marks} or None


def _cache(values: list[float | None] | None) -> npt.NDArray[np.float64] | None:
    """Shares of the cache in use; None where nothing is known at all."""
    return array(values) if values is not None and any(v is not None for v in values) else None


def _missing(runs: Sequence[SimulationDocument]) -> list[str]:
    if any(not run.distributions for run in runs):
        return ["Distributions and what was over time: the data holds none; the table of requests does."]
    return []


def compared(runs: Sequence[SimulationDocument], labels: Sequence[str]) -> Table:
    """Simulations side by side, one column each."""
    lines: list[tuple[str, list[str]]] = [
        ("model", [r.model or "-" for r in runs]),
        ("hardware", [f"{r.devices} devices of {r.hardware}" if r.devices else "-" for r in runs]),
        ("layout", [f"{r.replicas} x ({r.layout})" if r.layout else "-" for r in runs]),
        ("traffic", [r.traffic.source or "-" for r in runs]),
        ("at most at once", [short(r.traffic.concurrency) for r in runs]),
        (
            "tokens in / out, mean",
            [f"{short(r.traffic.input_tokens)} / {short(r.traffic.output_tokens)}" for r in runs],
        ),
        ("requests", [f"{r.requests:,.0f}" for r in runs]),
        ("replications", [str(r.replications.n) if r.replications else "-" for r in runs]),
        *((f"{title}, p99, ms", [in_ms(_p99(r, name)) for r in runs]) for name, title in LATENCIES.items()),
        ("requests/s", [short(r.request_throughput) for r in runs]),
        ("output tokens/s", ["-" if (v := r.output_throughput) is None else f"{v:,.0f}" for r in runs]),
        ("good requests/s", [short(r.request_goodput) for r in runs]),
        ("share of good requests", ["-" if r.attainment is None else percent(r.attainment) for r in runs]),
        ("requests running, mean", [short(r.running) for r in runs]),
        ("requests waiting, mean", [short(r.waiting) for r in runs]),
        ("time in steps", ["-" if (v := r.utilisation) is None else percent(min(v, 1.0)) for r in runs]),
        (
            "cache in use, most",
            ["-" if (v := r.kv_cache.max) is None else percent(min(v, 1.0)) for r in runs],
        ),
        (
            "prompt tokens found in the cache",
            ["-" if (v := r.prefix_hit_ratio) is None else percent(v) for r in runs],
        ),
        ("preemptions", [short(r.preemptions) for r in runs]),
        (
            "USD per million output tokens",
            [short(r.cost.usd_per_million_output_tokens if r.cost else None) for r in runs],
        ),
    ]
    rows = tuple((name, *cells) for name, cells in lines if set(cells) - {"-", "- / -"})
    return Table("Simulations", ("", *labels), rows, compares=len(runs) > 1)


def latencies(run: SimulationDocument, label: str = "") -> Table:
    """Latencies of one run, with intervals of their means."""
    sure = any(run.span(name) for name in LATENCIES)
    rows = []
    for name, title in LATENCIES.items():
        spread = run.latency.get(name)
        if spread is None or spread.mean is None:
            continue
        span = run.span(name)
        ends = [f"{in_ms(span[0])} to {in_ms(span[1])}" if span else "-"] if sure else []
        rows.append(
            (
                title,
                in_ms(spread.mean),
                *ends,
                *(in_ms(getattr(spread, p)) for p in _PERCENTILES),
                in_ms(spread.max),
            )
        )
    heading = (
        [f"{run.level:.0%} interval of the mean" if run.level else "interval of the mean"] if sure else []
    )
    title = f"Latency, ms: {label}" if label else "Latency, ms"
    return Table(title, ("latency", "mean", *heading, *_PERCENTILES, "most"), tuple(rows))


def _tiles(runs: Sequence[SimulationDocument], labels: Sequence[str]) -> tuple[Tile, ...]:
    names = tuple(labels) if len(runs) > 1 else ()

    def latency(run: SimulationDocument, name: str) -> Number:
        value, span = _p99(run, name), run.span(f"{name}.p99")
        limit = (run.goodput or {}).get(name)
        return Number(
            "-" if value is None else brief(value * 1e3),
            value,
            "" if limit is None else f"promised {brief(limit * 1e3)}",
            _interval(run, span, 1e3, ",.3g"),
        )

    def rate(run: SimulationDocument) -> Number:
        value = run.output_throughput
        return Number(
            "-" if value is None else f"{value:,.0f}",
            value,
            interval=_interval(run, run.span("output_throughput"), 1.0, ",.0f"),
        )

    found = [
        Tile("Output throughput", "tokens/s", tuple(map(rate, runs)), names, "more"),
        Tile("Time to first token, p99", "ms", tuple(latency(r, "ttft_s") for r in runs), names, "less"),
        Tile("Time per output token, p99", "ms", tuple(latency(r, "tpot_s") for r in runs), names, "less"),
    ]
    if any(run.attainment is not None for run in runs):
        kept = tuple(
            Number("-" if r.attainment is None else f"{100 * r.attainment:.4g}", r.attainment) for r in runs
        )
        found.append(Tile("Requests within the promise", "%", kept, names, "more"))
    return tuple(found)


def _interval(run: SimulationDocument, span: tuple[float, float] | None, scale: float, form: str) -> str:
    if span is None:
        return ""
    level = f"{run.level:.0%}: " if run.level is not None else ""
    return f"{level}{span[0] * scale:{form}} to {span[1] * scale:{form}}"
