"""A placement: what it gains, what is proven about it, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moesim.reporting import figures, tiles
from moesim.reporting.documents import (
    PLACEMENTS,
    PRICED,
    Details,
    Imbalance,
    PlacementDocument,
    PredictionDocument,
    Price,
    Redundancy,
)
from moesim.reporting.figures import Figure
from moesim.reporting.sections import predictions
from moesim.reporting.sections.parts import (
    Answer,
    Row,
    Section,
    Table,
    filled,
    fixed,
    in_ms,
    ratio,
    short,
    unique,
)


def sections_of(
    placements: Sequence[PlacementDocument], labels: Sequence[str], several: bool
) -> list[Section]:
    """What a page says of placements: how they compare, then each."""
    found = [_compared(placements, labels)] if len(placements) > 1 else []
    for nth, (placement, label) in enumerate(zip(placements, labels, strict=True)):
        found.append(section(placement, label if several or len(placements) > 1 else "", f"p{nth + 1}"))
    return found


def section(document: PlacementDocument, title: str, key: str) -> Section:
    """What a page says of one placement."""
    details = document.details or Details()
    answers = [details.predicted[name] for name in PRICED if name in details.predicted]
    names = [PRICED[name] for name in PRICED if name in details.predicted]
    found = [imbalance(document)]
    if document.predicted:
        found.append(priced(document.predicted))
    if document.predicted_elsewhere:
        found.append(priced(document.predicted_elsewhere, " on the other traffic"))
    if document.redundancy is not None:
        found.append(redundancy(document.redundancy))
    if document.prices:
        found.append(price_points(document))
    if document.emitted:
        found.append(emitted(document))
    if answers:
        found.append(predictions.broken_down(answers, names))
    found.append(layers(document))
    shown, missing = _figures(document, answers, names)
    return Section(
        key,
        title,
        answer(document),
        tuple(shown),
        tuple(found),
        tuple(missing),
        unique(document.warnings),
        tiles.of_placement(document),
    )


def _figures(
    document: PlacementDocument, answers: Sequence[PredictionDocument], names: Sequence[str]
) -> tuple[list[Figure], list[str]]:
    """Figures, and what is missing."""
    details = document.details or Details()
    seed = document.provenance.seed
    shown, missing = [_balance_by_layer(document)], []
    if details.rank_loads is not None:
        loads = details.rank_loads
        shown.append(figures.rank_loads(loads.contiguous, loads.plan, loads.layer_id, seed=seed))
    else:
        missing.append(
            "The load of each rank before and after: the data holds none, or experts in order do not divide."
        )
    if document.prices:
        shown.append(_gain(document))
    if answers:
        shown += [predictions.breakdown(answers, names), predictions.against_bounds(answers, names)]
    elif document.predicted:
        missing.append("Time breakdown, bounds and intervals of each placement: the data holds only totals.")
    else:
        missing.append("Every price: no hardware was named.")
    if any(map(any, details.loads)):
        shown.append(
            figures.expert_load_map(details.loads, document.moe_layer_ids, ranks=document.ranks, seed=seed)
        )
    else:
        missing.append("The map of expert load: the data holds no load of single experts.")
    return shown, missing


def _balance_by_layer(document: PlacementDocument) -> Figure:
    judged = {name: document.load_imbalance[name] for name in PLACEMENTS if name in document.load_imbalance}
    return figures.imbalance_by_layer(
        {name: one.fitted.per_layer for name, one in judged.items()},
        document.moe_layer_ids,
        bound=document.lower_bound.per_layer,
        elsewhere={n: one.evaluated.per_layer for n, one in judged.items() if one.evaluated is not None}
        or None,
        seed=document.provenance.seed,
    )


def _gain(document: PlacementDocument) -> Figure:
    curves = {
        name: [getattr(point, f"{name}_tpot_s") for point in document.prices]
        for name in ("before", "balanced", "after")
    }
    return figures.gain_by_batch(
        [point.tokens_per_rank for point in document.prices],
        {name: values for name, values in curves.items() if any(v is not None for v in values)},
        seed=document.provenance.seed,
    )


def _compared(placements: Sequence[PlacementDocument], labels: Sequence[str]) -> Section:
    """Placements side by side."""
    best = min(range(len(placements)), key=lambda i: _busiest(placements[i]))
    lead = (
        f"Of {len(placements)} placements, {labels[best]} has the most even ranks: the busiest one has "
        f"{ratio(placements[best].load_imbalance['plan'].fitted.mean)} times the mean load."
    )
    rates = {i: p.predicted["after"].output_throughput for i, p in enumerate(placements) if p.predicted}
    if len(rates) > 1:
        fast = max(rates, key=lambda i: rates[i])
        lead += f" {labels[fast]} is predicted to give most: {rates[fast]:,.0f} output tokens/s."
    doubts = [] if len(set(map(_loads_of, placements))) == 1 else [
        "The placements are not of the same model, ranks or redundancy: what differs is not the plan alone."
    ]  # fmt: skip
    lines: list[tuple[str, list[str]]] = [
        ("model", [p.model or "-" for p in placements]),
        ("ranks", [str(p.ranks) for p in placements]),
        ("redundant experts per layer", [str(p.redundant) for p in placements]),
        ("imbalance before, mean layer", [_before(p) for p in placements]),
        (
            "imbalance of the plan, mean layer",
            [fixed(p.load_imbalance["plan"].fitted.mean) for p in placements],
        ),
        (
            "imbalance of the plan, worst layer",
            [fixed(p.load_imbalance["plan"].fitted.worst) for p in placements],
        ),
        ("lower bound, mean layer", [fixed(p.lower_bound.mean) for p in placements]),
        ("output tokens/s before", [_rate(p, "before") for p in placements]),
        ("output tokens/s with the plan", [_rate(p, "after") for p in placements]),
        (
            "TPOT with the plan, ms",
            [in_ms(p.predicted["after"].tpot_s) if p.predicted else "-" for p in placements],
        ),
    ]
    rows = tuple((name, *cells) for name, cells in lines if set(cells) != {"-"})
    return Section(
        "placements",
        "Placements",
        Answer(lead, filled(("Uncertain", doubts))),
        (),
        (Table("Placements", ("", *labels), rows, compares=True),),
        (),
        (),
    )


def _busiest(document: PlacementDocument) -> float:
    mean = document.load_imbalance["plan"].fitted.mean
    return float("inf") if mean is None else mean


def _loads_of(document: PlacementDocument) -> tuple[object, ...]:
    return document.model, document.ranks, document.redundant


def _rate(document: PlacementDocument, name: str) -> str:
    return f"{document.predicted[name].output_throughput:,.0f}" if name in document.predicted else "-"


def _before(document: PlacementDocument) -> str:
    before = document.load_imbalance.get("contiguous")
    return "-" if before is None else fixed(before.fitted.mean)


def answer(document: PlacementDocument) -> Answer:
    """What a plan gains, what limits it, what is proven about it."""
    plan = document.load_imbalance["plan"].fitted
    name = f"{document.model}, {document.ranks} ranks" if document.model else f"{document.ranks} ranks"
    gained = _balance(document) + _throughput(document)
    if document.verdict:
        lead = f"{name}. {document.verdict[0]}"
        gained += document.verdict[1:]
    else:
        lead = f"{name}. The plan brings the busiest rank to {ratio(plan.mean)} times the mean load."
        if not document.predicted:
            lead += " No hardware was named, so nothing is priced."
    after = (document.details.predicted if document.details else {}).get("after")
    return Answer(
        lead,
        filled(
            ("Gained", gained),
            ("What limits it", _limit_after(document)),
            ("Proven", _proof(document)),
            (
                "Uncertain",
                [*predictions.span(after), *predictions.bases([after])] if after is not None else [],
            ),
        ),
    )


def _balance(document: PlacementDocument) -> list[str]:
    plan = document.load_imbalance["plan"]
    before = document.load_imbalance.get("contiguous")

    def change(old: Imbalance, new: Imbalance) -> str:
        return (
            f"from {ratio(old.mean)} to {ratio(new.mean)} times the mean over layers, and in the worst "
            f"layer from {ratio(old.worst)} to {ratio(new.worst)}"
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
            found.append(f"{PRICED[name].capitalize()}: {predictions.limit(answer, lower=True)}")
    return found


def imbalance(document: PlacementDocument) -> Table:
    """Mean and worst imbalance by placement, and the bound."""
    other = document.load_imbalance["plan"].evaluated is not None
    columns = ("placement", "mean", "worst layer", *(("other load: mean", "worst layer") if other else ()))
    rows: list[Row] = []
    for name in PLACEMENTS:
        judged = document.load_imbalance.get(name)
        if judged is None:
            continue
        cells = [fixed(judged.fitted.mean), fixed(judged.fitted.worst)]
        if other:
            cells += ["-", "-"] if judged.evaluated is None else [
                fixed(judged.evaluated.mean), fixed(judged.evaluated.worst)
            ]  # fmt: skip
        rows.append((name, *cells))
    bound = [v for v in document.lower_bound.per_layer if v is not None]
    rows.append(
        (
            "lower bound",
            fixed(document.lower_bound.mean),
            fixed(max(bound, default=None)),
            *(("-", "-") if other else ()),
        )
    )
    return Table("Largest over mean rank load", columns, tuple(rows))


def priced(predicted: Mapping[str, Price], where: str = "") -> Table:
    """What each placement costs."""
    rows = tuple(
        (
            PRICED[name],
            in_ms(price.ttft_s),
            in_ms(price.tpot_s),
            f"{price.output_throughput:,.0f}",
            fixed(price.load_imbalance, 3),
        )
        for name in PRICED
        if (price := predicted.get(name)) is not None
    )
    at = predicted["after"].concurrency
    columns = ("placement", "TTFT, ms", "TPOT, ms", "output tokens/s", "imbalance per step")
    return Table(f"Predicted{where} at {at:,.6g} concurrent requests", columns, rows)


def redundancy(numbers: Redundancy) -> Table:
    """Numbers of redundant experts, what they cost and what they buy."""
    rows = tuple(
        (
            str(choice.redundant),
            short(None if choice.weights_bytes is None else choice.weights_bytes / 1e9),
            short(None if choice.cache_tokens is None else choice.cache_tokens / 1e6),
            fixed(choice.load_imbalance, 3),
            in_ms(choice.tpot_s),
            "does not fit" if choice.output_throughput is None else f"{choice.output_throughput:,.0f}",
            "chosen" if choice.redundant == numbers.best else "",
        )
        for choice in numbers.choices
    )
    columns = (
        "redundant experts per layer",
        "weights per device, GB",
        "cache, million tokens",
        "imbalance per step",
        "TPOT, ms",
        "output tokens/s",
        "",
    )
    return Table("How many redundant experts", columns, rows)


def price_points(document: PlacementDocument) -> Table:
    """TPOT by batch size."""
    columns = ("tokens per rank", "before, ms", "best without redundancy, ms", "plan, ms")
    rows = tuple(
        (
            f"{point.tokens_per_rank:g}",
            *(in_ms(s) for s in (point.before_tpot_s, point.balanced_tpot_s, point.after_tpot_s)),
        )
        for point in document.prices
    )
    return Table("TPOT by batch size", columns, rows)


def layers(document: PlacementDocument) -> Table:
    """Imbalance and bound of every layer."""
    names = [name for name in PLACEMENTS if name in document.load_imbalance]
    columns = ("decoder layer", *names, "lower bound")
    found = [document.load_imbalance[name].fitted.per_layer for name in names]
    rows = tuple(
        (str(layer), *(fixed(values[i]) for values in (*found, document.lower_bound.per_layer)))
        for i, layer in enumerate(document.moe_layer_ids)
    )
    return Table("Largest over mean rank load, by layer", columns, rows, folded=True)


def emitted(document: PlacementDocument) -> Table:
    """The plans that were written."""
    rows = tuple((file.path, file.format, str(file.rows)) for file in document.emitted)
    return Table("Plans written", ("file", "format", "rows"), rows)
