"""Routing statistics: how skewed, local and predictable the routing of a trace is."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.reporting import figures
from moesim.reporting.documents import StatisticsDocument
from moesim.reporting.figures import Figure
from moesim.reporting.figures.given import percent
from moesim.reporting.sections.parts import Answer, Section, Table, array, brief, filled, fixed, unique
from moesim.reporting.tiles import Number, Tile

#: Statistics of the table, in words.
_WORDS = {
    "max_over_mean": "largest over mean expert load",
    "entropy_normalised": "entropy of the load (1 is even)",
    "gini": "Gini coefficient of the load",
    "top10_share": "load of the busiest 10 % of experts",
    "rank_max_over_mean": "largest over mean rank load, ranks",
    "consecutive_overlap": "experts kept from one token to the next",
    "random_pair_overlap": "experts that two random tokens share",
    "distinct_fraction": "distinct experts in a batch, share of all, tokens",
    "distinct_fraction_uniform": "the same if experts were equally likely, tokens",
    "next_layer_information_bits": "what a layer says of the next, bits",
    "next_layer_cover": "next layer: mass of the likeliest 20 % of followers",
    "next_token_cover": "next token: mass of the likeliest 20 % of followers",
    "lru_hit_ratio": "hits of an LRU cache, part of the experts",
    "recall_k": "next layer's experts foretold (as many as are chosen)",
    "popularity_recall_k": "the same by popularity alone",
    "drift": "movement of the load over time",
    "drift_noise": "as much by chance alone",
}
_LAYER_COLUMNS = (
    ("max/mean", "max_over_mean"),
    ("entropy", "entropy_normalised"),
    ("Gini", "gini"),
    ("kept from token to token", "consecutive_overlap"),
    ("by chance", "random_pair_overlap"),
    ("bits of the next layer", "next_layer_information_bits"),
    ("foretold", "recall_k"),
    ("drift", "drift"),
)


def sections_of(found: Sequence[StatisticsDocument], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of traces: how they compare, then each."""
    made = [_compared(found, labels)] if len(found) > 1 else []
    for nth, (one, label) in enumerate(zip(found, labels, strict=True)):
        made.append(section(one, label if several or len(found) > 1 else "", f"trace{nth + 1}"))
    return made


def section(document: StatisticsDocument, title: str, key: str) -> Section:
    """What a page says of one trace."""
    shown, missing = _figures(document)
    return Section(
        key,
        title,
        answer(document),
        tuple(shown),
        (overall([document], ["value"]), layers(document)),
        (*missing, *_reasons(document)),
        unique(document.warnings),
        _tiles(document),
    )


def answer(document: StatisticsDocument) -> Answer:
    """Skew, locality, coupling, drift, in sentences."""
    size = "load counts" if document.tokens is None else f"{document.tokens:,} tokens"
    name = document.model or document.path or "A trace"
    lead = f"{name}, {size}, {len(document.layers)} MoE layers of {document.num_experts} experts"
    busiest = document.value("max_over_mean")
    if busiest is not None:
        lead += f": the busiest expert of a layer takes {brief(busiest)} times the mean load"
    ranks = document.overall.get("rank_max_over_mean")
    for count, value in ranks.items() if isinstance(ranks, dict) else ():
        if value is not None:
            lead += (
                f", and of {count} ranks with experts in order the busiest has {brief(value)} times the mean"
            )
            break
    return Answer(
        f"{lead}.",
        filled(
            ("Locality", _locality(document)),
            ("Prediction", _prediction(document)),
            ("Uncertain", _doubts(document)),
        ),
    )


def _locality(document: StatisticsDocument) -> list[str]:
    found = []
    kept, chance = document.value("consecutive_overlap"), document.value("random_pair_overlap")
    if kept is not None:
        beside = "" if chance is None else f", against {percent(chance)} of two tokens at random"
        found.append(f"A token keeps {percent(kept)} of the experts of the one before{beside}.")
    batch, even = document.value("distinct_fraction", "32"), document.value("distinct_fraction_uniform", "32")
    if batch is not None:
        beside = "" if even is None else f"; if experts were equally likely, {percent(even)}"
        found.append(f"32 tokens in a row reach {percent(batch)} of a layer's experts{beside}.")
    cache = document.value("lru_hit_ratio", "0.25")
    if cache is not None:
        found.append(f"A least-recently-used cache of a quarter of the experts finds {percent(cache)}.")
    return found


def _prediction(document: StatisticsDocument) -> list[str]:
    found = []
    told, popular = document.value("recall_k"), document.value("popularity_recall_k")
    if told is not None:
        beside = "" if popular is None else f"; popularity alone gives {percent(popular)}"
        found.append(f"A layer's experts foretell {percent(told)} of the next layer's{beside}.")
    bits = document.value("next_layer_information_bits")
    if bits is not None:
        found.append(f"Knowing an expert says {brief(bits)} bits of the next layer's.")
    drift, noise = document.value("drift"), document.value("drift_noise")
    if drift is not None and noise is not None:
        more = "more than" if drift > noise else "no more than"
        found.append(
            f"The load moves by {brief(drift)} over the trace, {more} chance would give ({brief(noise)})."
        )
    return found


def _doubts(document: StatisticsDocument) -> list[str]:
    found = []
    span = document.span("max_over_mean")
    if span is not None:
        found.append(
            f"The busiest expert takes {span[0]:.4g} to {span[1]:.4g} times the mean load in 95 % of "
            "bootstraps over requests; what a maximum is too large by chance is taken off."
        )
    elif document.tokens is not None:
        found.append("No interval was asked for: moesim trace stats --bootstrap draws requests anew.")
    else:
        found.append("Load counts have no tokens: nothing is known of locality and prediction.")
    if document.tokens is not None and document.top_k:
        each = document.tokens * document.top_k / document.num_experts
        found.append(f"An expert is chosen {each:,.4g} times on average: rarely, where that is little.")
    return found


def _figures(document: StatisticsDocument) -> tuple[list[Figure], list[str]]:
    seed = document.provenance.seed
    shown, missing = [], []
    if any(map(any, document.loads)):
        shown.append(figures.expert_load_map(document.loads, document.layer_ids))
    else:
        missing.append("The map of expert load: the data holds no load of single experts.")
    ranks = document.overall.get("rank_max_over_mean")
    for count in list(ranks)[:1] if isinstance(ranks, dict) else ():
        curve = document.by_layer("rank_max_over_mean", count)
        if any(v is not None for v in curve):
            shown.append(
                figures.imbalance_by_layer({f"{count} ranks, experts in order": curve}, document.layer_ids)
            )
    found = document.affinity
    if found is not None and any(v is not None for row in found.over_independence for v in row):
        shown.append(
            figures.expert_affinity(
                array(found.over_independence),
                (found.layers[0], found.layers[1]),
                experts=(found.before, found.after),
                n=f"{found.pairs:,} pairs of selections",
            )
        )
    else:
        missing.append("Affinity between layers: the data holds none.")
    lags, table = _reuse(document)
    if lags:
        chance = document.value("random_pair_overlap")
        shown.append(figures.token_reuse(lags, array(table), random=chance, seed=seed))
    else:
        missing.append("Reuse from token to token: the data has no tokens in a row.")
    return shown, missing


def _reuse(document: StatisticsDocument) -> tuple[list[int], list[list[float | None]]]:
    """Lags and overlaps by layer, ``[layers, lags]``."""
    more = document.overall.get("lag_overlap")
    lags = {1: document.by_layer("consecutive_overlap")}
    for name in more if isinstance(more, dict) else ():
        if name.isdecimal() and len(name) < 7:
            lags[int(name)] = document.by_layer("lag_overlap", name)
    kept = sorted(lag for lag, values in lags.items() if any(_share(v) is not None for v in values))
    rows = [[_share(lags[lag][i]) for lag in kept] for i in range(len(document.layers))]
    return kept, [row for row in rows if any(v is not None for v in row)]


def _share(value: float | None) -> float | None:
    return value if value is not None and 0 <= value <= 1 else None


def _reasons(document: StatisticsDocument) -> list[str]:
    """Why statistics are missing, together where the reason is one."""
    whys: dict[str, list[str]] = {}
    for name, why in document.reasons.items():
        if not why.endswith("was not asked for"):
            whys.setdefault(why, []).append(name)
    return [f"{', '.join(names)}: {why}." for why, names in whys.items()]


def overall(found: Sequence[StatisticsDocument], labels: Sequence[str]) -> Table:
    """Means over layers, of one trace or several."""
    rows: list[tuple[str, ...]] = []
    for name, words in _WORDS.items():
        keys = dict.fromkeys(
            key for one in found if isinstance(part := one.overall.get(name), dict) for key in part
        )
        for key in keys or [""]:
            cells = [fixed(one.value(name, key)) for one in found]
            if set(cells) != {"-"}:
                rows.append((f"{words} {key}".rstrip(), *cells))
    return Table("Means over layers", ("statistic", *labels), tuple(rows), compares=len(found) > 1)


def layers(document: StatisticsDocument) -> Table:
    """Statistics of every layer."""
    known = [(title, document.by_layer(name)) for title, name in _LAYER_COLUMNS]
    shown = [(title, values) for title, values in known if any(v is not None for v in values)]
    rows = tuple(
        (str(layer), *(fixed(values[i]) for _, values in shown)) for i, layer in enumerate(document.layer_ids)
    )
    return Table("By layer", ("decoder layer", *(title for title, _ in shown)), rows, folded=True)


def _compared(found: Sequence[StatisticsDocument], labels: Sequence[str]) -> Section:
    pairs = [
        (one, label)
        for one, label in zip(found, labels, strict=True)
        if one.value("max_over_mean") is not None
    ]
    lead = f"{len(found)} traces side by side."
    if len(pairs) > 1:
        most = max(pairs, key=lambda pair: pair[0].value("max_over_mean") or 0.0)
        least = min(pairs, key=lambda pair: pair[0].value("max_over_mean") or 0.0)
        lead = (
            f"Of {len(found)} traces, {most[1]} is the most skewed (the busiest expert takes "
            f"{brief(most[0].value('max_over_mean') or 0.0)} times the mean) and {least[1]} the least "
            f"({brief(least[0].value('max_over_mean') or 0.0)})."
        )
    doubts = [] if len({(one.num_experts, one.top_k) for one in found}) == 1 else [
        "The traces are of models with other numbers of experts: largest over mean grows with them."
    ]  # fmt: skip
    answer = Answer(lead, filled(("Uncertain", doubts)))
    return Section("traces", "Traces", answer, (), (overall(found, labels),), (), ())


def _tiles(document: StatisticsDocument) -> tuple[Tile, ...]:
    found = []
    for title, unit, name, key, scale in (
        ("Busiest expert", "x mean load", "max_over_mean", "", 1.0),
        ("Kept from token to token", "%", "consecutive_overlap", "", 100.0),
        ("Found by a cache of a quarter", "%", "lru_hit_ratio", "0.25", 100.0),
        ("Gini of the load", "", "gini", "", 1.0),
    ):
        value, span = document.value(name, key), document.span(name, key)
        if value is not None:
            ends = "" if span is None else f"95 %: {brief(span[0] * scale)} to {brief(span[1] * scale)}"
            found.append(Tile(title, unit, (Number(brief(value * scale), value, interval=ends),)))
    return tuple(found)
