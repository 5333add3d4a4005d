"""Replays of a cache of experts: hits by rule, hits of every capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moesim.reporting import figures
from moesim.reporting.documents import CurveDocument, Hits, ReplayDocument
from moesim.reporting.figures import Figure
from moesim.reporting.figures.given import percent
from moesim.reporting.sections.parts import Answer, Section, Table, brief, filled, unique
from moesim.reporting.tiles import Number, Tile

#: The rule that knows the future: no other finds more.
BOUND = "belady"
#: Replays with a figure of layers.
_LAYERED = 3
#: Parts of a pool at which a curve is told.
_PARTS = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


def sections_of(replays: Sequence[ReplayDocument], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of replays: all of them side by side."""
    slots = _over_slots(replays)
    shown = [*slots, *_by_layer(replays, labels)]
    missing = []
    if not slots:
        missing.append(
            "A curve over capacities: the replays are of one number of slots; moesim replay --curve has all."
        )
    return [
        Section(
            "replays",
            "Replays of a cache of experts" if several else "",
            answer(replays, labels),
            tuple(shown),
            tuple(
                hits(replay, label if len(replays) > 1 else "")
                for replay, label in zip(replays, labels, strict=True)
            ),
            tuple(missing),
            unique(warning for replay in replays for warning in replay.warnings),
            _tiles(replays, labels),
        )
    ]


def answer(replays: Sequence[ReplayDocument], labels: Sequence[str]) -> Answer:
    """Which rule finds most, and what is left to gain."""
    names = labels if len(replays) > 1 else [""]
    leads = []
    limits: list[str] = []
    for replay, name in zip(replays, names, strict=True):
        rules = [rule for rule in replay.rules if rule.hit_ratio is not None]
        real = [rule for rule in rules if rule.policy != BOUND]
        where = name or f"{replay.trace or 'the trace'}, {replay.slots:,} slots"
        if not rules:
            leads.append(f"{where}: nothing was looked up.")
            continue
        best = max(real or rules, key=lambda rule: rule.hit_ratio or 0.0)
        text = f"{where}: {best.policy} finds {_share(best)} of {best.accesses:,} accesses on the device"
        worst = min(real, key=lambda rule: rule.hit_ratio or 0.0) if len(real) > 1 else None
        if worst is not None and worst is not best:
            text += f", {worst.policy} {_share(worst)}"
        leads.append(f"{text}.")
        bound = next((rule for rule in rules if rule.policy == BOUND), None)
        if bound is not None and best is not bound:
            limits.append(_left(where, best, bound))
        limits += _cold(where, best)
    doubts = unique(
        f"Counted, not timed: accesses of {_concurrency(replay)}; {replay.conditions}." for replay in replays
    )
    return Answer(" ".join(leads), filled(("What limits it", limits), ("Uncertain", doubts)))


def _left(where: str, best: Hits, bound: Hits) -> str:
    have, most = best.hit_ratio or 0.0, bound.hit_ratio or 0.0
    return (
        f"{where}: no rule finds more than {percent(most)} (Belady's, which knows the future): "
        f"{best.policy} leaves "
        f"{brief(100 * (most - have))} points."
    )


def _cold(where: str, best: Hits) -> list[str]:
    found = []
    if best.misses:
        found.append(
            f"{where}: {percent(min(best.cold_misses / best.misses, 1.0))} of {best.policy}'s misses are "
            "first "
            "uses, which no rule avoids from an empty start."
        )
    if best.bytes_moved is not None:
        found.append(f"{where}: {best.policy} moves {best.bytes_moved / 1e9:,.4g} GB.")
    return found


def _share(rule: Hits) -> str:
    return percent(rule.hit_ratio or 0.0)


def _concurrency(replay: ReplayDocument) -> str:
    return "one token at a time" if replay.concurrency == 1 else f"{replay.concurrency} requests at a time"


def _over_slots(replays: Sequence[ReplayDocument]) -> list[Figure]:
    """Hit ratios over slots, where the same trace was replayed with several."""
    slots = sorted({replay.slots for replay in replays})
    if len(slots) < 2 or len({replay.trace for replay in replays}) > 1:
        return []
    curves: dict[str, list[float | None]] = {}
    for replay in replays:
        for rule in replay.rules:
            curves.setdefault(rule.policy, [None] * len(slots))[slots.index(replay.slots)] = rule.hit_ratio
    known = {name: values for name, values in curves.items() if any(v is not None for v in values)}
    return [figures.hit_ratio_curves(slots, known, n=_accesses(replays))] if known else []


def _by_layer(replays: Sequence[ReplayDocument], labels: Sequence[str]) -> list[Figure]:
    """Hit ratios of every layer, a figure for each of the first few replays."""
    found = []
    for replay, label in zip(replays[:_LAYERED], labels, strict=False):
        ratios = {
            rule.policy: [
                h / a if a else None
                for h, a in zip(rule.hits_per_layer, rule.accesses_per_layer, strict=True)
            ]
            for rule in replay.rules
            if any(rule.accesses_per_layer)
        }
        layers = {len(values) for values in ratios.values()}
        if (
            len(layers) != 1
            or max(layers) < 2
            or any(v is not None and v > 1 for r in ratios.values() for v in r)
        ):
            continue
        ids = replay.moe_layer_ids
        if len(ids) != max(layers) or sorted(set(ids)) != ids:
            ids = list(range(max(layers)))
        figure = figures.hits_by_layer(ratios, ids, n=f"{replay.accesses:,} accesses")
        found.append(replace(figure, title=f"{figure.title}: {label}") if len(replays) > 1 else figure)
    return found


def _accesses(replays: Sequence[ReplayDocument]) -> str:
    most = max(replay.accesses for replay in replays)
    return f"{most:,} accesses"


def hits(replay: ReplayDocument, label: str = "") -> Table:
    """Every rule of a replay."""
    rows = tuple(
        (
            rule.policy,
            f"{rule.slots:,}",
            f"{rule.accesses:,}",
            f"{rule.hits:,}",
            "-" if rule.hit_ratio is None else f"{100 * rule.hit_ratio:.2f}",
            f"{rule.cold_misses:,}",
            f"{rule.evictions:,}",
            "-" if rule.bytes_moved is None else f"{rule.bytes_moved / 1e9:,.4g}",
        )
        for rule in replay.rules
    )
    columns = (
        "rule",
        "slots",
        "accesses",
        "hits",
        "hit ratio, %",
        "first uses missed",
        "evictions",
        "moved, GB",
    )
    return Table(f"Hits by rule: {label}" if label else "Hits by rule", columns, rows)


def _tiles(replays: Sequence[ReplayDocument], labels: Sequence[str]) -> tuple[Tile, ...]:
    if len(replays) > 1:
        names = tuple(labels)
        numbers = tuple(
            _number(max(r.rules, key=lambda rule: (rule.policy != BOUND, rule.hit_ratio or 0.0)))
            for r in replays
        )
        return (Tile("Found on the device, best rule", "%", numbers, names, "more"),)
    rules = list(replays[0].rules)[:8]
    names = tuple(rule.policy for rule in rules) if len(rules) > 1 else ()
    return (Tile("Found on the device", "%", tuple(map(_number, rules)), names, "more"),)


def _number(rule: Hits) -> Number:
    value = rule.hit_ratio
    note = "needs the future" if rule.policy == BOUND else rule.policy
    return Number("-" if value is None else f"{100 * value:.1f}", value, note=note)


def curve_sections(curves: Sequence[CurveDocument], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of hits of every capacity: each trace by itself."""
    found = []
    for nth, (one, label) in enumerate(zip(curves, labels, strict=True)):
        first = next(iter(one.curves.values()))
        objects = first.capacities[-1]
        ratios = {name: curve.hit_ratio for name, curve in one.curves.items()}
        shown = [
            figures.hit_ratio_curves(
                first.capacities, ratios, objects=objects or None, n=f"{first.accesses:,} accesses"
            )
        ] if any(v is not None for values in ratios.values() for v in values) else []  # fmt: skip
        found.append(
            Section(
                f"curve{nth + 1}",
                label if several or len(curves) > 1 else "",
                curve_answer(one),
                tuple(shown),
                (curve_table(one),),
                (),
                unique(one.warnings),
                _curve_tiles(one),
            )
        )
    return found


def curve_answer(document: CurveDocument) -> Answer:
    """What half the experts find, and how much to hold for nine tenths."""
    first = next(iter(document.curves.values()))
    objects = max(first.capacities[-1], 1)
    bound = document.curves.get(BOUND)
    real = next((c for name, c in document.curves.items() if name != BOUND), first)
    quarter = _at(real.capacities, real.hit_ratio, 0.25 * objects)
    lead = (
        f"{document.trace or 'The trace'}: with a quarter of the {objects:,} experts of a pool "
        "held, "
        f"{real.policy} finds {percent(quarter)} of {real.accesses:,} accesses"
    )
    limits = []
    if bound is not None and bound is not real:
        most = _at(bound.capacities, bound.hit_ratio, 0.25 * objects)
        lead += f"; no rule finds more than {percent(most)}"
        gaps = [(b or 0.0) - (r or 0.0) for b, r in zip(bound.hit_ratio, real.hit_ratio, strict=True)]
        at = max(range(len(gaps)), key=lambda i: gaps[i])
        limits.append(
            f"{real.policy} leaves most at {real.capacities[at]:,} slots: {brief(100 * gaps[at])} points "
            "below Belady's."
        )
    needed = next(
        (c for c, r in zip(real.capacities, real.hit_ratio, strict=True) if r is not None and r >= 0.9), None
    )
    limits.append(
        f"{real.policy} finds nine accesses in ten from {needed:,} slots on ({percent(needed / objects)} "
        "of the pool)."
        if needed is not None
        else f"{real.policy} never finds nine accesses in ten."
    )
    return Answer(
        f"{lead}.",
        filled(("What limits it", limits), ("Uncertain", [f"Counted, not timed: {first.conditions}."])),
    )


def _at(capacities: Sequence[int], ratios: Sequence[float | None], slots: float) -> float:
    """The ratio of the capacity next to some slots."""
    place = min(range(len(capacities)), key=lambda i: abs(capacities[i] - slots))
    return ratios[place] or 0.0


def curve_table(document: CurveDocument) -> Table:
    """Hit ratios at a few capacities."""
    first = next(iter(document.curves.values()))
    objects = max(first.capacities[-1], 1)
    wanted = [part * objects for part in _PARTS]
    places = sorted(
        {min(range(len(first.capacities)), key=lambda i: abs(first.capacities[i] - w)) for w in wanted}
    )
    rows = tuple(
        (
            f"{first.capacities[i]:,}",
            f"{100 * first.capacities[i] / objects:.1f}",
            *("-" if (v := c.hit_ratio[i]) is None else f"{100 * v:.2f}" for c in document.curves.values()),
        )
        for i in places
    )
    return Table("Hit ratio by capacity, %", ("slots of a pool", "part of it, %", *document.curves), rows)


def _curve_tiles(document: CurveDocument) -> tuple[Tile, ...]:
    first = next(iter(document.curves.values()))
    objects = max(first.capacities[-1], 1)
    found = []
    for part, words in ((0.25, "a quarter"), (0.5, "half")):
        values = {n: _at(c.capacities, c.hit_ratio, part * objects) for n, c in document.curves.items()}
        numbers = tuple(Number(f"{100 * v:.1f}", v) for v in values.values())
        names = tuple(values) if len(values) > 1 else ()
        found.append(Tile(f"Found with {words} of a pool", "%", numbers, names, "more"))
    return tuple(found)
