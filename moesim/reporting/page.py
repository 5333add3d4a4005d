"""From documents to the parts of a page: answer, figures, tables, what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moesim.reporting import load_figures, tables, tiles, time_figures, words
from moesim.reporting.documents import (
    PRICED,
    Details,
    PlacementDocument,
    PredictionDocument,
    ReportDocument,
)
from moesim.reporting.svg import Figure, shorten
from moesim.reporting.tables import Table
from moesim.reporting.tiles import Tile


@dataclass(frozen=True, slots=True)
class Section:
    """One placement, or all predictions side by side.

    Parameters
    ----------
    title
        Empty if the page has only one section.
    missing
        What is not shown, and why.
    tiles
        The key numbers.
    """

    title: str
    answer: words.Answer
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    tiles: tuple[Tile, ...] = ()


def sections(report: ReportDocument) -> list[Section]:
    """The sections of a page: predictions together first, then each placement."""
    labels = list(report.labels) or labels_of(report.results)
    pairs = list(zip(report.results, labels, strict=True))
    answers = [(a, label) for a, label in pairs if isinstance(a, PredictionDocument)]
    placements = [(p, label) for p, label in pairs if isinstance(p, PlacementDocument)]
    found = []
    several = len(placements) + bool(answers) > 1
    if answers:
        found.append(_predictions([a for a, _ in answers], [n for _, n in answers], several))
    for nth, (placement, label) in enumerate(placements):
        found.append(_placement(placement, label if several else "", f"p{nth + 1}"))
    return found


def labels_of(results: Sequence[PredictionDocument | PlacementDocument]) -> list[str]:
    """Short names that tell results apart: what differs between them, else their number."""
    parts = [_traits(result) for result in results]
    differing = [i for i in range(len(parts[0])) if len({part[i] for part in parts}) > 1]
    names = [", ".join(part[i] for i in differing if part[i]) for part in parts]
    if len(results) == 1:
        return [parts[0][0] or parts[0][1]]
    clash = len(set(names)) < len(names) or not all(names)
    return (
        [f"{nth + 1}: {name}" if name else str(nth + 1) for nth, name in enumerate(names)] if clash else names
    )


def _traits(result: PredictionDocument | PlacementDocument) -> tuple[str, ...]:
    if isinstance(result, PlacementDocument):
        return (result.model, f"placement on {result.ranks} ranks", f"{result.redundant} redundant", "", "")
    return (
        result.model,
        f"{result.num_devices}x {result.hardware}",
        result.layout_text,
        f"{result.input_len:g} in, {result.output_len:g} out",
        f"{result.request_rate:g} requests/s" if result.request_rate else f"{result.concurrency:g} requests",
    )


def _predictions(answers: list[PredictionDocument], labels: list[str], several: bool) -> Section:
    short = [shorten(label, 34) for label in labels]
    figures, missing = [], []
    if any(answer.breakdown for answer in answers):
        figures.append(time_figures.breakdown("predictions-time", answers, short))
    else:
        missing.append("The time breakdown: no document holds a 'breakdown'.")
    figures.append(time_figures.against_bounds("predictions-bounds", answers, short))
    found = [tables.compared(answers, labels)]
    if figures and any(answer.breakdown for answer in answers):
        found.append(tables.broken_down(answers, labels))
    return Section(
        "Predictions" if several else "",
        words.of_predictions(answers, labels),
        tuple(figures),
        tuple(found),
        tuple(missing),
        _unique(warning for answer in answers for warning in answer.warnings),
        tiles.of_predictions(answers, labels),
    )


def _placement(document: PlacementDocument, title: str, key: str) -> Section:
    details = document.details or Details()
    seed = document.provenance.seed
    figures, missing = [], []
    figures.append(
        load_figures.imbalance_by_layer(
            f"{key}-layers", document.load_imbalance, document.lower_bound, document.moe_layer_ids, seed
        )
    )
    if details.rank_loads is not None:
        figures.append(load_figures.rank_loads(f"{key}-ranks", details.rank_loads))
    else:
        missing.append(
            "The load of each rank before and after: the data holds none, or experts in order do not divide."
        )
    if document.prices:
        figures.append(time_figures.prices(f"{key}-prices", document.prices))
    answers = [details.predicted[name] for name in PRICED if name in details.predicted]
    names = [PRICED[name] for name in PRICED if name in details.predicted]
    if answers:
        figures.append(time_figures.breakdown(f"{key}-time", answers, names))
        figures.append(time_figures.against_bounds(f"{key}-bounds", answers, names))
    elif document.predicted:
        missing.append("Time breakdown, bounds and intervals of each placement: the data holds only totals.")
    else:
        missing.append("Every price: no hardware was named.")
    if details.loads:
        figures.append(
            load_figures.expert_load_map(
                f"{key}-experts", details.loads, document.moe_layer_ids, document.ranks
            )
        )
    else:
        missing.append("The map of expert load: the data holds no load of single experts.")
    found = [tables.imbalance(document)]
    if document.predicted:
        found.append(tables.priced(document.predicted))
    if document.predicted_elsewhere:
        found.append(tables.priced(document.predicted_elsewhere, " on the other traffic"))
    if document.redundancy is not None:
        found.append(tables.redundancy(document.redundancy))
    if document.prices:
        found.append(tables.price_points(document))
    if document.emitted:
        found.append(tables.emitted(document))
    if answers:
        found.append(tables.broken_down(answers, names))
    found.append(tables.layers(document))
    return Section(
        title,
        words.of_placement(document),
        tuple(figures),
        tuple(found),
        tuple(missing),
        _unique(document.warnings),
        tiles.of_placement(document),
    )


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
