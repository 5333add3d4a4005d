"""Systems that keep experts elsewhere, replayed with time."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.reporting import figures
from moesim.reporting.documents import SystemRow, SystemsDocument
from moesim.reporting.figures import Figure
from moesim.reporting.figures.given import percent
from moesim.reporting.sections.compare import Contender, standing
from moesim.reporting.sections.parts import (
    Answer,
    Section,
    Table,
    brief,
    duration,
    filled,
    in_ms,
    short,
    unique,
)
from moesim.reporting.tiles import Number, Tile

_TIMES = {"tpot_s": ("TPOT", "per output token"), "ttft_s": ("TTFT", "to the first token")}
_WAITS = {
    "to_device": "copies to the device",
    "storage": "storage",
    "cpu": "the CPU",
    "near": "the memory that computes",
}


def sections_of(found: Sequence[SystemsDocument], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of timed replays: each by itself, its systems side by side."""
    made = []
    for nth, (one, label) in enumerate(zip(found, labels, strict=True)):
        metric, timed = _timed(one)
        made.append(
            Section(
                f"systems{nth + 1}",
                label if several or len(found) > 1 else "",
                answer(one),
                tuple(_figures(one, metric, timed)),
                tuple(filter(None, (systems(one), assumed(one)))),
                () if timed else ("Times: no system was replayed.",),
                unique(one.warnings),
                _tiles(metric, timed),
            )
        )
    return made


def answer(document: SystemsDocument) -> Answer:
    """Which system is fastest, and what its stalls are."""
    metric, timed = _timed(document)
    title, what = _TIMES[metric]
    where = (
        f"{document.model} on {document.hardware}, {document.slots:,} experts held, {document.tokens:,} "
        f"tokens of {document.trace or 'the trace'}"
    )
    if not timed:
        return Answer(f"{where}: no system could be replayed.", filled(("Not replayed", _refused(document))))
    fast = [Contender(row.name, _of(row, metric), _swept(row, metric)) for row in timed]
    said = standing(fast, title, duration, less=True).replace(
        "neither has an interval", "neither rests on an assumption that was swept"
    )
    if not said:
        one = timed[0]
        said = f"{one.name} takes {duration(_of(one, metric))} {what}"
        said += (
            f" and finds {percent(one.hit_ratio)} of the experts on the device."
            if one.hit_ratio is not None
            else "."
        )
    limits = [text for row in timed for text in _limits(row)]
    proven = [
        f"{row.name}: without any stall it would take {duration(low)} {what}; the replay is "
        f"{brief(_of(row, metric) / low)} times that."
        for row in timed
        if (low := row.bounds.get(metric))
    ]
    doubts = [f"{row.name} assumes {a.name} = {a.value:g}: {a.why}." for row in timed for a in row.assumed]
    doubts += [f"{row.name}: the trace lacks {text}." for row in timed for text in row.lacks]
    doubts += [
        f"{text[:1].upper()}{text[1:]}." for text in unique(t for row in timed for t in row.assumptions)
    ]
    if document.learnt_tokens:
        source = document.learnt_from if document.learnt_from else "other requests of the trace"
        doubts.append(f"What systems learn is from {document.learnt_tokens:,} tokens of {source}.")
    return Answer(
        f"{where}. {said}",
        filled(
            ("What limits it", limits),
            ("Proven", proven),
            ("Not replayed", _refused(document)),
            ("Uncertain", doubts),
        ),
    )


def _timed(document: SystemsDocument) -> tuple[str, list[SystemRow]]:
    """The time that systems are judged by, and those that have it; a trace of prompts alone has no TPOT."""
    metric = "tpot_s" if any(row.tpot_s is not None for row in document.rows) else "ttft_s"
    return metric, [row for row in document.rows if getattr(row, metric) is not None]


def _of(row: SystemRow, metric: str) -> float:
    return float(getattr(row, metric))


def _refused(document: SystemsDocument) -> list[str]:
    return [f"{row.name}: {row.refused}." for row in document.rows if row.refused]


def _limits(row: SystemRow) -> list[str]:
    waits = {name: seconds for name, seconds in row.stalls.items() if seconds > 0}
    if not waits:
        return [f"{row.name} never waits for an expert."]
    order = sorted(waits.items(), key=lambda wait: (-wait[1], wait[0]))
    parts = ", ".join(f"{duration(seconds)} for {_WAITS.get(name, name)}" for name, seconds in order)
    return [f"{row.name} waits {parts} in all."]


def _swept(row: SystemRow, metric: str) -> tuple[float, float] | None:
    """TPOT over the plausible values of what is assumed."""
    ends = [v for a in row.assumed if a.tpot_s is not None for v in a.tpot_s if v is not None]
    if not ends or metric != "tpot_s":
        return None
    return min(*ends, _of(row, metric)), max(*ends, _of(row, metric))


def _figures(document: SystemsDocument, metric: str, timed: Sequence[SystemRow]) -> list[Figure]:
    if not timed:
        return []
    spans = [_swept(row, metric) for row in timed]
    return [
        figures.bounds_and_intervals(
            [
                {
                    name: value
                    for name in ("ttft_s", "tpot_s", "output_throughput")
                    if (value := getattr(row, name)) is not None
                }
                for row in timed
            ],
            [row.name for row in timed],
            bounds=[{n: low for n in ("ttft_s", "tpot_s") if (low := row.bounds.get(n))} for row in timed],
            intervals=[None if span is None else {"tpot_s": span} for span in spans],
            n=f"{document.tokens:,} tokens",
            seed=document.provenance.seed,
        )
    ]


def systems(document: SystemsDocument) -> Table:
    """Every system."""
    rows = tuple(
        (
            row.name,
            in_ms(row.tpot_s),
            in_ms(row.tpot_p99_s),
            in_ms(row.bounds.get("tpot_s")),
            "-" if row.ttft_s is None else f"{row.ttft_s:,.4g}",
            short(row.output_throughput),
            "-" if row.hit_ratio is None else f"{100 * row.hit_ratio:.1f}",
            short(None if not row.bytes_moved else sum(row.bytes_moved.values()) / 1e9),
            "-" if row.on_cpu is None else f"{row.on_cpu:,}",
            row.refused or row.slots,
        )
        for row in document.rows
    )
    columns = ("system", "TPOT, ms", "p99, ms", "without stalls, ms", "TTFT, s", "output tokens/s",
               "found, %", "moved, GB", "on the CPU", "what it does")  # fmt: skip
    return Table("Systems", columns, rows)


def assumed(document: SystemsDocument) -> Table | None:
    """What sources leave open."""
    rows = tuple(
        (
            row.name,
            a.name,
            f"{a.value:g}",
            " to ".join("-" if end is None else f"{end:g}" for end in a.range),
            "-" if a.tpot_s is None else " to ".join(in_ms(end) for end in a.tpot_s),
            a.why,
        )
        for row in document.rows
        for a in row.assumed
    )
    if not rows:
        return None
    return Table("Assumed", ("system", "number", "value", "plausible", "TPOT then, ms", "why"), rows)


def _tiles(metric: str, timed: Sequence[SystemRow]) -> tuple[Tile, ...]:
    shown = sorted(timed, key=lambda row: _of(row, metric))[:8]
    if not shown:
        return ()
    names = tuple(row.name for row in shown) if len(shown) > 1 else ()

    def time(row: SystemRow) -> Number:
        bound = row.bounds.get(metric)
        low = "" if bound is None else f"never below {brief(bound * 1e3)}"
        return Number(brief(_of(row, metric) * 1e3), _of(row, metric), low)

    found = tuple(
        Number("-" if row.hit_ratio is None else f"{100 * row.hit_ratio:.1f}", row.hit_ratio) for row in shown
    )
    title = "Time per output token" if metric == "tpot_s" else "Time to first token"
    return (
        Tile(title, "ms", tuple(map(time, shown)), names, "less"),
        Tile("Found on the device", "%", found, names, "more"),
    )
