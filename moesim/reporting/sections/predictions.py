"""Predictions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moesim.reporting import figures, tiles
from moesim.reporting.documents import PredictionDocument
from moesim.reporting.figures import Figure
from moesim.reporting.sections.compare import Contender, standing
from moesim.reporting.sections.parts import (
    Answer,
    Section,
    Table,
    duration,
    each,
    filled,
    fixed,
    in_ms,
    seed_of,
    short,
    unique,
)

#: Answers with a roofline of their own.
_ROOFLINES = 3

#: Resources of a bottleneck, as a reader calls them.
RESOURCES = {
    "compute": "computing",
    "memory": "reading device memory",
    "near-compute": "computing beside the memory",
    "near-memory": "reading memory from beside it",
    "scale-up": "the link between devices",
    "scale-out": "the network between nodes",
    "launch": "fixed cost of launching operations",
    "imbalance": "waiting for the slowest rank",
    "prefill": "prefills of other requests",
    "draft": "drafting tokens",
    "host": "waiting for the host",
}


def sections_of(answers: Sequence[PredictionDocument], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of predictions: all of them side by side."""
    missing = []
    shown: list[Figure] = []
    if any(answer.breakdown for answer in answers):
        shown.append(breakdown(answers, labels))
    else:
        missing.append("The time breakdown: no document holds a 'breakdown'.")
    shown.append(against_bounds(answers, labels))
    shown += rooflines(answers, labels)
    if not any(answer.roofline for answer in answers):
        missing.append("The roofline of the operations: no document holds a 'roofline'.")
    found = [compared(answers, labels)]
    if any(answer.breakdown for answer in answers):
        found.append(broken_down(answers, labels))
    return [
        Section(
            "predictions",
            "Predictions" if several else "",
            answer(answers, labels),
            tuple(shown),
            tuple(found),
            tuple(missing),
            unique(warning for answer in answers for warning in answer.warnings),
            tiles.of_predictions(answers, labels),
        )
    ]


def breakdown(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Figure:
    """Where the time of an output token goes."""
    parts: list[dict[str, float]] = []
    for one in answers:
        parts.append({})
        for line in one.breakdown:
            parts[-1][line.op] = parts[-1].get(line.op, 0.0) + line.seconds
    return figures.time_breakdown(parts, labels, totals_s=[a.tpot_s for a in answers], seed=seed_of(answers))


def against_bounds(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Figure:
    """Predictions between what nothing beats and what a measured run is expected to be."""
    metrics = ("ttft_s", "tpot_s", "output_throughput")
    levels = {a.interval.level for a in answers if a.interval is not None}
    return figures.bounds_and_intervals(
        [{name: getattr(a, name) for name in metrics} for a in answers],
        labels,
        bounds=[{name: low for name in metrics if (low := a.bounds.get(name))} for a in answers],
        intervals=[
            None
            if a.interval is None
            else {n: ends for n in metrics if (ends := getattr(a.interval, n)) is not None}
            for a in answers
        ],
        level=levels.pop() if len(levels) == 1 else None,
        seed=seed_of(answers),
    )


def rooflines(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> list[Figure]:
    """Operations of a decode step under the roofs of the device, of the first few answers."""
    found = []
    for one, label in zip(answers[:_ROOFLINES], labels, strict=False):
        if one.roofline is None or not one.roofline.drawn:
            continue
        figure = figures.roofline(
            [
                figures.RooflinePoint(p.op, p.flops, p.bytes, p.seconds, p.roof, p.bound_by)
                for p in one.roofline.drawn
            ],
            [figures.Roof(r.name, r.flops_per_s, r.bytes_per_s) for r in one.roofline.roofs],
            seed=one.provenance.seed,
        )
        found.append(replace(figure, title=f"{figure.title}: {label}") if len(answers) > 1 else figure)
    return found


def answer(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Answer:
    """What predictions say, side by side where there are several."""
    if len(answers) == 1:
        one = answers[0]
        lead = (
            f"{one.model} on {one.num_devices} devices of {one.hardware} ({one.layout_text}) gives "
            f"{one.output_throughput:,.0f} output tokens/s to {one.traffic_text}"
            f": TTFT {duration(one.ttft_s)}, TPOT {duration(one.tpot_s)}."
        )
    else:
        lead = _standing(answers, labels)
    pairs = list(zip(answers, labels if len(answers) > 1 else [""], strict=True))
    limits = [each(limit(a), label) for a, label in pairs if a.bottleneck]
    proofs = [
        each(
            f"No schedule on this hardware has a TPOT below {duration(low)}; the prediction is "
            f"{a.tpot_s / low:.3g} times that.",
            label,
        )
        for a, label in pairs
        if (low := a.bounds.get("tpot_s"))
    ]
    doubts = [each(sentence, label) for a, label in pairs for sentence in span(a)]
    doubts += bases(answers)
    waiting = [
        each(
            f"Only {a.running:,.5g} of {a.concurrency:,.5g} requests run at once; the rest wait for memory.",
            label,
        )
        for a, label in pairs
        if a.running < a.concurrency * (1 - 1e-9)
    ]
    return Answer(
        lead, filled(("What limits it", limits + waiting), ("Proven", proofs), ("Uncertain", doubts))
    )


def _standing(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> str:
    """Which of several is best, and whether the intervals of measured runs let that stand."""
    spans = [answer.interval for answer in answers]
    rates = [
        Contender(label, one.output_throughput, span.output_throughput if span is not None else None)
        for one, label, span in zip(answers, labels, spans, strict=True)
    ]
    times = [
        Contender(label, one.tpot_s, span.tpot_s if span is not None else None)
        for one, label, span in zip(answers, labels, spans, strict=True)
    ]
    best = standing(rates, "output throughput", "{:,.0f} tokens/s".format, less=False)
    return f"Of {len(answers)} predictions, {best} {standing(times, 'TPOT', duration, less=True)}"


def limit(answer: PredictionDocument, lower: bool = False) -> str:
    """What an output token's time goes to."""
    parts = [f"{RESOURCES.get(b.resource, b.resource)} {b.share:.0%}" for b in answer.bottleneck[:3]]
    text = f"An output token's time goes to {', '.join(parts)}."
    return text[0].lower() + text[1:] if lower else text


def bases(answers: Sequence[PredictionDocument]) -> list[str]:
    """What the intervals rest on."""
    found = dict.fromkeys(a.interval.basis for a in answers if a.interval is not None and a.interval.basis)
    return [f"Basis of the interval: {basis}." for basis in found]


def span(answer: PredictionDocument) -> list[str]:
    """Where a measured run is expected."""
    if answer.interval is None:
        return []
    (low, high), (first, last) = answer.interval.tpot_s, answer.interval.ttft_s
    return [
        f"A measured TPOT is expected between {duration(low)} and {duration(high)}, and TTFT between "
        f"{duration(first)} and {duration(last)}, at a level of {answer.interval.level:.0%}."
    ]


def compared(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Table:
    """Predictions side by side, one column each."""
    lines: list[tuple[str, list[str]]] = [
        ("model", [a.model for a in answers]),
        ("hardware", [f"{a.num_devices} devices of {a.hardware}" for a in answers]),
        ("layout", [a.layout_text for a in answers]),
        ("tokens in / out", [f"{a.input_len:,.6g} / {a.output_len:,.6g}" for a in answers]),
        ("requests/s that arrive", [short(a.request_rate) for a in answers]),
        ("concurrent requests", [f"{a.concurrency:,.6g}" for a in answers]),
        ("running at once", [f"{a.running:,.6g}" for a in answers]),
        ("TTFT, ms", [in_ms(a.ttft_s) for a in answers]),
        ("TPOT, ms", [in_ms(a.tpot_s) for a in answers]),
        ("end to end, s", [f"{a.e2el_s:,.4g}" for a in answers]),
        ("requests/s", [f"{a.request_throughput:,.4g}" for a in answers]),
        ("output tokens/s", [f"{a.output_throughput:,.0f}" for a in answers]),
        ("output tokens/s per device", [f"{a.output_throughput_per_device:,.0f}" for a in answers]),
        ("all tokens/s", [f"{a.total_token_throughput:,.0f}" for a in answers]),
        (
            "memory per device, GB",
            [f"{a.memory_bytes / 1e9:.4g} of {a.memory_capacity_bytes / 1e9:.4g}" for a in answers],
        ),
        ("expert load, largest over mean rank", [fixed(a.load_imbalance, 3) for a in answers]),
        (
            "distinct experts per layer and step",
            [short(a.experts.get("distinct_experts")) for a in answers],
        ),
        ("expert slots hit per rank", [short(a.experts.get("hit_slots_per_rank")) for a in answers]),
        ("bound of TPOT, ms", [in_ms(a.bounds.get("tpot_s")) for a in answers]),
        ("interval of TTFT, ms", [_span(a, "ttft_s") for a in answers]),
        ("interval of TPOT, ms", [_span(a, "tpot_s") for a in answers]),
    ]
    rows = tuple((name, *cells) for name, cells in lines if set(cells) != {"-"})
    return Table("Predictions", ("", *labels), rows, compares=len(answers) > 1)


def broken_down(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Table:
    """Milliseconds per output token of every operation."""
    parts = [{line.op: line for line in answer.breakdown} for answer in answers]
    order = {op: max(abs(p[op].seconds) for p in parts if op in p) for part in parts for op in part}
    rows = tuple(
        (
            op,
            next(part[op].bound_by for part in reversed(parts) if op in part),
            *(f"{part[op].seconds * 1e3:.4f}" if op in part else "-" for part in parts),
        )
        for op in sorted(order, key=lambda op: (-order[op], op))
    )
    return Table("Time per output token, ms", ("operation", "bound by", *labels), rows, folded=len(rows) > 8)


def _span(answer: PredictionDocument, name: str) -> str:
    if answer.interval is None:
        return "-"
    low, high = getattr(answer.interval, name)
    return f"{in_ms(low)} to {in_ms(high)}"
