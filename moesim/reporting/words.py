"""The answer in words: what was gained, what limits it, what is proven, what is doubtful."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moesim.reporting.documents import (
    PRICED,
    HardwareSources,
    Imbalance,
    PlacementDocument,
    PredictionDocument,
)

#: How a number of a hardware description is known, where it is not from a source that was read.
UNSURE = ("assumed", "recalled")

_RESOURCES = {
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


@dataclass(frozen=True, slots=True)
class Answer:
    """The first screen.

    Parameters
    ----------
    lead
        The answer in a sentence or two.
    points
        ``(heading, sentences)``.
    """

    lead: str
    points: tuple[tuple[str, tuple[str, ...]], ...]


def of_placement(document: PlacementDocument) -> Answer:
    """What a plan gains, what limits it, what is proven about it."""
    plan = document.load_imbalance["plan"].fitted
    name = f"{document.model}, {document.ranks} ranks" if document.model else f"{document.ranks} ranks"
    gained = _balance(document) + _throughput(document)
    if document.verdict:
        lead = f"{name}. {document.verdict[0]}"
        gained += document.verdict[1:]
    else:
        lead = f"{name}. The plan brings the busiest rank to {_ratio(plan.mean)} times the mean load."
        if not document.predicted:
            lead += " No hardware was named, so nothing is priced."
    after = (document.details.predicted if document.details else {}).get("after")
    return Answer(
        lead,
        _filled(
            ("Gained", gained),
            ("What limits it", _limit_after(document)),
            ("Proven", _proof(document)),
            ("Uncertain", [*_span(after), *_bases([after])] if after is not None else []),
        ),
    )


def of_predictions(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> Answer:
    """What predictions say, side by side where there are several."""
    best = max(range(len(answers)), key=lambda i: answers[i].output_throughput)
    fast = min(range(len(answers)), key=lambda i: answers[i].tpot_s)
    first = answers[best]
    if len(answers) == 1:
        lead = (
            f"{first.model} on {first.num_devices} devices of {first.hardware} ({first.layout_text}) gives "
            f"{first.output_throughput:,.0f} output tokens/s to {first.traffic_text}"
            f": TTFT {_ms(first.ttft_s)}, TPOT {_ms(first.tpot_s)}."
        )
    else:
        whose = "" if fast == best else f"{labels[fast]} "
        lead = (
            f"Of {len(answers)} predictions, {labels[best]} has the highest output throughput "
            f"({first.output_throughput:,.0f} tokens/s) and {whose}the lowest TPOT "
            f"({_ms(answers[fast].tpot_s)})."
        )

    def each(sentence: str, label: str) -> str:
        return sentence if len(answers) == 1 else f"{label}: {sentence[:1].lower()}{sentence[1:]}"

    pairs = list(zip(answers, labels, strict=True))
    limits = [each(_limit(a), label) for a, label in pairs if a.bottleneck]
    proofs = [
        each(
            f"No schedule on this hardware has a TPOT below {_ms(low)}; the prediction is "
            f"{a.tpot_s / low:.3g} times that.",
            label,
        )
        for a, label in pairs
        if (low := a.bounds.get("tpot_s"))
    ]
    doubts = [each(sentence, label) for a, label in pairs for sentence in _span(a)]
    doubts += _bases(answers)
    waiting = [
        each(
            f"Only {a.running:,.5g} of {a.concurrency:,.5g} requests run at once; the rest wait for memory.",
            label,
        )
        for a, label in pairs
        if a.running < a.concurrency * (1 - 1e-9)
    ]
    return Answer(
        lead, _filled(("What limits it", limits + waiting), ("Proven", proofs), ("Uncertain", doubts))
    )


def of_hardware(machines: Iterable[HardwareSources]) -> list[str]:
    """How much of the machines' descriptions was not read from a source."""
    return [
        f"{len(unsure)} of the {len(machine.sources)} numbers that describe {machine.name} are "
        f"{' or '.join(UNSURE)}; they are listed below."
        for machine in machines
        if (unsure := [s for s in machine.sources.values() if status(s) in UNSURE])
    ]


def status(source: str) -> str:
    """How a number is known, from ``citation [status]; note``.

    >>> status("impala-blog (1 us) [assumed]; a note")
    'assumed'
    """
    _, bracket, rest = source.rpartition(" [")
    return rest.partition("]")[0] if bracket else ""


def _balance(document: PlacementDocument) -> list[str]:
    plan = document.load_imbalance["plan"]
    before = document.load_imbalance.get("contiguous")

    def change(old: Imbalance, new: Imbalance) -> str:
        return (
            f"from {_ratio(old.mean)} to {_ratio(new.mean)} times the mean over layers, and in the worst "
            f"layer from {_ratio(old.worst)} to {_ratio(new.worst)}"
        )

    if before is None:
        return []
    found = [f"The busiest rank's load goes {change(before.fitted, plan.fitted)}."]
    if before.evaluated is not None and plan.evaluated is not None:
        found.append(
            f"On the other load, which the plan has not seen, it goes "
            f"{change(before.evaluated, plan.evaluated)}."
        )
    return found


def _throughput(document: PlacementDocument) -> list[str]:
    before, after = (document.predicted.get(name) for name in ("before", "after"))
    if before is None or after is None:
        return []
    return [
        f"Predicted output throughput goes from {before.output_throughput:,.0f} to "
        f"{after.output_throughput:,.0f} tokens/s."
    ]


def _proof(document: PlacementDocument) -> list[str]:
    gap = document.gap
    if gap.worst is None or gap.mean is None:
        return []
    terms, rule = document.objective.terms, document.dispatch
    better = "be more even" if terms in ("max-load", "expected-max") else f"be better ({terms})"
    under = "" if rule == "even" else f", under {rule} dispatch"
    return [
        f"No placement of {document.slots} slots ({document.redundant} redundant) on {document.ranks} ranks "
        f"can {better} by more than {gap.worst:.3%} in any layer, {gap.mean:.3%} on average, on the "
        f"load it was fitted to{under}. The lower bound is computed for each layer without regard to the "
        f"plan."
    ]


def _limit_after(document: PlacementDocument) -> list[str]:
    details = document.details.predicted if document.details else {}
    found = []
    for name in ("before", "after"):
        answer = details.get(name)
        if answer is not None and answer.bottleneck:
            found.append(f"{PRICED[name].capitalize()}: {_limit(answer, lower=True)}")
    return found


def _limit(answer: PredictionDocument, lower: bool = False) -> str:
    parts = [f"{_RESOURCES.get(b.resource, b.resource)} {b.share:.0%}" for b in answer.bottleneck[:3]]
    text = f"An output token's time goes to {', '.join(parts)}."
    return text[0].lower() + text[1:] if lower else text


def _bases(answers: Sequence[PredictionDocument]) -> list[str]:
    found = dict.fromkeys(a.interval.basis for a in answers if a.interval is not None and a.interval.basis)
    return [f"Basis of the interval: {basis}." for basis in found]


def _span(answer: PredictionDocument) -> list[str]:
    if answer.interval is None:
        return []
    span = answer.interval
    return [
        f"A measured TPOT is expected between {_ms(span.tpot_s[0])} and {_ms(span.tpot_s[1])}, and TTFT "
        f"between {_ms(span.ttft_s[0])} and {_ms(span.ttft_s[1])}, at a level of {span.level:.0%}."
    ]


def _filled(*points: tuple[str, list[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((heading, tuple(sentences)) for heading, sentences in points if sentences)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.4g} ms" if seconds < 10 else f"{seconds:,.4g} s"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if value < 1.01 else f"{value:.3f}"
