"""A study: the best configuration, what each setting does, why others have no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moesim.reporting import figures
from moesim.reporting.documents import StudyDocument, StudyRow, Varied
from moesim.reporting.figures import Figure
from moesim.reporting.figures.given import quantity
from moesim.reporting.figures.labels import number
from moesim.reporting.sections.compare import Contender, apart, decided
from moesim.reporting.sections.parts import Answer, Section, Table, duration, filled, unique
from moesim.reporting.tiles import Number, Tile

#: Settings that say how much traffic there is.
_LOADS = ("workload_concurrency", "workload_request_rate", "requests_concurrency", "requests_request_rate")
#: Metrics of the table.
_METRICS = (
    "output_throughput",
    "output_throughput_per_device",
    "request_goodput",
    "attainment",
    "ttft_s",
    "tpot_s",
    "e2el_s",
    "devices",
    "cost_usd_per_million_output_tokens",
)
_CURVES, _ROWS, _EFFECTS = 8, 40, 12


def sections_of(studies: Sequence[StudyDocument], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of studies: each by itself."""
    made = []
    for nth, (one, label) in enumerate(zip(studies, labels, strict=True)):
        shown, missing = _figures(one)
        made.append(
            Section(
                f"study{nth + 1}",
                label if several or len(studies) > 1 else "",
                answer(one),
                tuple(shown),
                (best_rows(one), effects(one), reasons(one), kept(one))
                if one.rows
                else (reasons(one), kept(one)),
                tuple(missing),
                unique(one.warnings),
                _tiles(one),
            )
        )
    return made


def answer(document: StudyDocument) -> Answer:
    """The best configuration, and what decides."""
    ok = document.statuses.get("ok", 0)
    lead = (
        f"{document.name or 'The study'}: {ok:,} of {document.configurations:,} configurations have an answer"
    )
    order = _ordered(document)
    if not order:
        return Answer(f"{lead}.", filled(("Why not", _why(document))))
    words = quantity(document.metric)
    first = order[0]
    value = first.values[document.metric] or 0.0
    lead += f"; the highest {words.words} is {words.text(value)}, with {_named(first)}"
    tpot = first.values.get("tpot_s")
    lead += f" (TPOT {duration(tpot)})." if tpot is not None else "."
    return Answer(
        lead,
        filled(
            ("What decides", _decides(document)),
            ("Why not", _why(document)),
            ("Uncertain", _doubts(document, order)),
        ),
    )


def _ordered(document: StudyDocument) -> list[StudyRow]:
    known = [row for row in document.rows if row.values.get(document.metric) is not None]
    return sorted(known, key=lambda row: -(row.values[document.metric] or 0.0))


def _named(row: StudyRow) -> str:
    """What was varied, in words."""
    return ", ".join(
        f"{_words(name)} {_text(value)}" for name, value in row.settings.items() if value is not None
    )


def _words(setting: str) -> str:
    """A setting as people say it.

    >>> _words("layout_tp"), _words("engine_kv_cache_dtype"), _words("fleet_replicas")
    ('tp', 'kv cache dtype', 'fleet replicas')
    """
    for part in ("layout_", "engine_", "workload_", "requests_"):
        setting = setting.removeprefix(part)
    return setting.replace("_", " ")


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | int) and not isinstance(value, bool) else str(value)


def _decides(document: StudyDocument) -> list[str]:
    found = []
    for one in document.varied:
        known = [(v, m) for v, m in zip(one.values, one.medians, strict=True) if m is not None]
        if len(known) < 2:
            continue
        low, high = min(known, key=lambda pair: pair[1]), max(known, key=lambda pair: pair[1])
        if low[1] > 0:
            found.append((high[1] / low[1], one.setting, low, high))
    words = quantity(document.metric)
    return [
        f"{_words(setting)}: the median {words.words} is {words.text(high[1])} with {high[0]} and "
        f"{words.text(low[1])} with {low[0]}."
        for _, setting, low, high in sorted(found, key=lambda e: -e[0])[:3]
    ]


def _why(document: StudyDocument) -> list[str]:
    return [f"{one.count:,} are {one.status}: {' '.join(one.reason.split())}" for one in document.reasons[:3]]


def _doubts(document: StudyDocument, order: Sequence[StudyRow]) -> list[str]:
    found = []
    if len(order) > 1:
        one, other = order[:2]
        a, b = one.values[document.metric] or 0.0, other.values[document.metric] or 0.0
        if b and a != b:
            contenders = [Contender("", v, _span(row, document.metric)) for row, v in ((one, a), (other, b))]
            found.append(f"The best is {apart(a, b)} the second, {_named(other)}: {decided(*contenders)}.")
    if len(document.rows) < document.statuses.get("ok", 0):
        found.append(
            f"The page keeps {len(document.rows):,} rows: the best, those that no other beats, and an even "
            "choice of the "
            "others. Counts and medians are of all."
        )
    found.append("Medians are over all other settings: settings that go together are not told apart.")
    return found


def _span(row: StudyRow, metric: str) -> tuple[float, float] | None:
    low, high = row.values.get(f"{metric}_lo"), row.values.get(f"{metric}_hi")
    return None if low is None or high is None else (low, high)


def _figures(document: StudyDocument) -> tuple[list[Figure], list[str]]:
    found, missing = [], []
    metric = document.metric
    order = _ordered(document)
    best = order[0] if order else None
    groups = next(
        (
            one.setting
            for one in document.varied
            if one.setting in ("hardware", "model", "layout_ep", "layout_tp")
        ),
        "",
    )
    points = [
        figures.PlanPoint(
            _named(row),
            row.values,
            "",
            f"{_words(groups)} {_text(row.settings.get(groups))}" if groups else "",
            row is best,
        )
        for row in document.rows
    ]
    both = [p for p in points if p.values.get("tpot_s") is not None and p.values.get(metric) is not None]
    if len(both) > 1:
        found.append(figures.pareto_front(points, x="tpot_s", y=metric, n=f"{len(both):,} configurations"))
    else:
        missing.append("Throughput against latency: fewer than two configurations are known with both.")
    curves = _curves(document)
    if curves:
        name = (
            metric if metric in ("output_throughput", "output_throughput_per_device") else "output_throughput"
        )
        found.append(figures.load_curve(curves, metric=name))
    swings = [
        figures.Effect(
            _words(one.setting), min(known), max(known), _at(one, min(known)), _at(one, max(known))
        )
        for one in document.varied
        if len(known := [m for m in one.medians if m is not None]) > 1
    ]
    if swings and best is not None:
        middle = sorted(row.values[metric] or 0.0 for row in order)[len(order) // 2]
        kept = sorted(swings, key=lambda e: -e.swing(middle))[:_EFFECTS]
        tornado = figures.sensitivity_tornado(
            kept, metric, middle, n=f"{document.statuses.get('ok', 0):,} configurations"
        )
        # Not one input at a time: each bar's ends are medians over all that the others may be.
        words = quantity(metric)
        told = (
            f"The median {words.words} of all configurations with each value of a setting, whatever the "
            "others are; the "
            f"line is the median of all, {words.text(middle)}."
        )
        found.append(
            replace(tornado, title="What each setting does", caption=told, alt=f"{told} {tornado.alt}")
        )
    return found, missing


def _at(one: Varied, median: float) -> str:
    return one.values[one.medians.index(median)]


def _curves(document: StudyDocument) -> dict[str, list[figures.LoadPoint]]:
    """Configurations over load, one curve for each choice of the other settings; the best few."""
    load = next((name for name in _LOADS if any(one.setting == name for one in document.varied)), None)
    if load is None:
        return {}
    curves: dict[str, list[figures.LoadPoint]] = {}
    for row in document.rows:
        at, tokens, tpot = (
            row.settings.get(load),
            row.values.get("output_throughput"),
            row.values.get("tpot_s"),
        )
        if (
            not isinstance(at, float | int)
            or isinstance(at, bool)
            or at <= 0
            or tokens is None
            or tpot is None
        ):
            continue
        rest = {name: value for name, value in row.settings.items() if name != load}
        name = _named(StudyRow(settings=rest, values={})) or "all"
        per = row.values.get("output_throughput_per_device")
        curves.setdefault(name, []).append(
            figures.LoadPoint(
                float(at), tpot, per if document.metric.endswith("per_device") and per else tokens
            )
        )
    several = {
        n: sorted(c, key=lambda p: p.concurrency)
        for n, c in curves.items()
        if len({p.concurrency for p in c}) == len(c) > 1
    }
    best = sorted(several, key=lambda n: -max(p.output_throughput or 0.0 for p in several[n]))[:_CURVES]
    return {name: several[name] for name in best}


def best_rows(document: StudyDocument) -> Table:
    """The best configurations."""
    rows = _ordered(document)[:_ROWS]
    settings = [one.setting for one in document.varied] or list(rows[0].settings if rows else ())
    metrics = [name for name in _METRICS if any(row.values.get(name) is not None for row in rows)]
    cells = tuple(
        (
            str(nth + 1),
            *("-" if (v := row.settings.get(name)) is None else _text(v) for name in settings),
            *(
                "-" if (n := row.values.get(name)) is None else number(n * quantity(name).scale)
                for name in metrics
            ),
        )
        for nth, row in enumerate(rows)
    )
    columns = ("", *map(_words, settings), *(quantity(name).axis for name in metrics))
    return Table("Best configurations", columns, cells)


def effects(document: StudyDocument) -> Table:
    """What each setting does."""
    words = quantity(document.metric)
    rows = tuple(
        (
            _words(one.setting),
            value,
            f"{count:,}",
            "-" if median is None else number(median * words.scale),
        )
        for one in document.varied
        for value, median, count in list(zip(one.values, one.medians, one.counts, strict=True))[:_ROWS]
    )
    return Table(
        f"Median {words.axis}, by setting", ("setting", "value", "n", "median"), rows, folded=len(rows) > 30
    )


def reasons(document: StudyDocument) -> Table:
    """Why configurations have no answer."""
    rows = tuple((f"{one.count:,}", one.status, " ".join(one.reason.split())) for one in document.reasons)
    return Table("Without an answer", ("configurations", "status", "reason"), rows, folded=not rows)


def kept(document: StudyDocument) -> Table:
    """Settings that do not vary."""
    rows = tuple((_words(name), _text(value)) for name, value in document.fixed.items())
    return Table("The same in all", ("setting", "value"), rows, folded=True)


def _tiles(document: StudyDocument) -> tuple[Tile, ...]:
    ok = document.statuses.get("ok", 0)
    found = [
        Tile(
            "Answered",
            "configurations",
            (Number(f"{ok:,}", float(ok), note=f"of {document.configurations:,}"),),
        )
    ]
    order = _ordered(document)
    if order:
        words = quantity(document.metric)
        value = order[0].values[document.metric] or 0.0
        span = _span(order[0], document.metric)
        ends = (
            ""
            if span is None
            else f"interval {number(span[0] * words.scale)} to {number(span[1] * words.scale)}"
        )
        found.append(
            Tile(
                f"Highest {words.words}",
                words.unit,
                (Number(number(value * words.scale), value, interval=ends),),
            )
        )
    return tuple(found)
