"""Training: one iteration, side by side with others; and the best layouts of a search."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.reporting import figures
from moesim.reporting.documents import Iterated, TrainingDocument, TrainingSearch
from moesim.reporting.figures import Figure
from moesim.reporting.figures.given import percent
from moesim.reporting.sections.compare import Contender, apart, best
from moesim.reporting.sections.parts import (
    Answer,
    Section,
    Table,
    brief,
    duration,
    each,
    filled,
    fixed,
    unique,
)
from moesim.reporting.tiles import Number, Tile

_PHYSICS = "Physics alone: no interval, and a real framework adds what it adds."
_ROWS = 30


def sections_of(found: Sequence[TrainingDocument], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of iterations: all of them side by side."""
    return [
        Section(
            "training",
            "Training" if several else "",
            answer(found, labels),
            tuple(_figures(found, labels)),
            (compared(found, labels),),
            () if any(one.breakdown for one in found) else ("The time breakdown: no document holds one.",),
            unique(warning for one in found for warning in one.warnings),
            _tiles(found, labels),
        )
    ]


def answer(found: Sequence[Iterated], labels: Sequence[str]) -> Answer:
    """How fast an iteration is, what limits it."""
    names = labels if len(found) > 1 else [""]
    order = best([Contender(n, one.tokens_per_s) for one, n in zip(found, labels, strict=True)], less=False)
    if len(found) == 1:
        one = found[0]
        lead = (
            f"An iteration of {one.model} on {one.devices:,} devices of {one.hardware} ({one}) takes "
            f"{duration(one.step_s)}: {one.tokens_per_s:,.0f} tokens/s, {percent(min(one.mfu, 1.0))} of "
            "peak arithmetic (MFU)."
        )
    else:
        first, second = order[:2]
        assert first.value is not None
        assert second.value is not None
        lead = (
            f"Of {len(found)} iterations, {first.label} trains most: {first.value:,.0f} tokens/s, "
            f"{apart(first.value, second.value)} {second.label} ({second.value:,.0f})."
            if second.value and first.value != second.value
            else f"{first.label} and {second.label} train alike: {first.value:,.0f} tokens/s."
        )
    limits = []
    for one, name in zip(found, names, strict=True):
        parts = [f"bound by {one.bound_by}" if one.bound_by else ""]
        if one.communication_share is not None:
            parts.append(f"{percent(one.communication_share)} of the time waits for traffic")
        if one.bubble is not None:
            parts.append(f"{percent(min(one.bubble, 1.0))} is the pipeline's bubble")
        limits.append(each(f"It is {', '.join(filter(None, parts))}.", name))
        limits.append(each(_room(one), name))
    return Answer(lead, filled(("What limits it", limits), ("Uncertain", [_PHYSICS])))


def _room(one: Iterated) -> str:
    parts = sorted(one.memory.items(), key=lambda part: -part[1])
    largest = f", most of it {parts[0][0]}" if parts else ""
    room = f"{one.memory_bytes / 1e9:.4g} of {one.memory_capacity_bytes / 1e9:.4g} GB"
    return f"{room} of a device are in use{largest}."


def _figures(found: Sequence[Iterated], labels: Sequence[str]) -> list[Figure]:
    if not any(one.breakdown for one in found):
        return []
    parts: list[dict[str, float]] = []
    for one in found:
        parts.append({})
        for line in one.breakdown:
            parts[-1][line.op] = parts[-1].get(line.op, 0.0) + line.seconds
    times = figures.time_breakdown(
        parts, labels, totals_s=[one.step_s for one in found], metric="time of an iteration",
        n=f"{len(found)} iteration{'' if len(found) == 1 else 's'}",
    )  # fmt: skip
    return [times]


def compared(found: Sequence[Iterated], labels: Sequence[str]) -> Table:
    """Iterations side by side."""
    memory = list(dict.fromkeys(name for one in found for name in one.memory))
    lines: list[tuple[str, list[str]]] = [
        ("model", [one.model for one in found]),
        ("hardware", [f"{one.devices} devices of {one.hardware}" for one in found]),
        ("layout", [str(one) for one in found]),
        ("iteration, s", [f"{one.step_s:.4g}" for one in found]),
        ("tokens/s", [f"{one.tokens_per_s:,.0f}" for one in found]),
        (
            "tokens/s per device",
            ["-" if (v := one.tokens_per_s_per_device) is None else f"{v:,.0f}" for one in found],
        ),
        ("MFU, %", [f"{100 * one.mfu:.1f}" for one in found]),
        (
            "waiting for traffic, %",
            ["-" if (v := one.communication_share) is None else f"{100 * v:.1f}" for one in found],
        ),
        ("pipeline bubble, %", ["-" if (v := one.bubble) is None else f"{100 * v:.1f}" for one in found]),
        ("bound by", [one.bound_by or "-" for one in found]),
        (
            "memory, GB",
            [f"{one.memory_bytes / 1e9:.4g} of {one.memory_capacity_bytes / 1e9:.4g}" for one in found],
        ),
        *((f"  {name}, GB", [fixed(one.memory.get(name, 0.0) / 1e9, 2) for one in found]) for name in memory),
    ]
    rows = tuple((name, *cells) for name, cells in lines if set(cells) != {"-"})
    return Table("Iterations", ("", *labels), rows, compares=len(found) > 1)


def _tiles(found: Sequence[Iterated], labels: Sequence[str]) -> tuple[Tile, ...]:
    names = tuple(labels) if len(found) > 1 else ()
    return (
        Tile("Iteration", "s", tuple(Number(brief(one.step_s), one.step_s) for one in found), names, "less"),
        Tile(
            "Throughput",
            "tokens/s",
            tuple(Number(f"{one.tokens_per_s:,.0f}", one.tokens_per_s) for one in found),
            names,
            "more",
        ),
        Tile("MFU", "%", tuple(Number(f"{100 * one.mfu:.1f}", one.mfu) for one in found), names, "more"),
        Tile(
            "Memory per device",
            "GB",
            tuple(
                Number(
                    brief(one.memory_bytes / 1e9),
                    one.memory_bytes,
                    note=f"of {one.memory_capacity_bytes / 1e9:.4g}",
                )
                for one in found
            ),
            names,
        ),
    )


def search_sections(found: Sequence[TrainingSearch], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of searches: each by itself."""
    made = []
    for nth, (one, label) in enumerate(zip(found, labels, strict=True)):
        top = list(one.layouts[:4])
        names = [str(layout) for layout in top]
        made.append(
            Section(
                f"search{nth + 1}",
                label if several or len(found) > 1 else "",
                search_answer(one),
                tuple(_search_figures(one)),
                (search_table(one),),
                () if one.layouts else ("Every layout: none fits.",),
                unique(one.warnings),
                _tiles(top[:1], names[:1]) if top else (),
            )
        )
    return made


def search_answer(document: TrainingSearch) -> Answer:
    """The best layout, and why others are none."""
    if not document.layouts:
        return Answer(f"None of {document.tried:,} layouts fits.", ())
    first = max(document.layouts, key=lambda one: one.tokens_per_s)
    alone = answer([first], [""])
    fit = f"Of {document.tried:,} layouts {document.fitting:,} fit. The fastest"
    lead = f"{fit}: {alone.lead[:1].lower()}{alone.lead[1:]}"
    why = [f"{n:,} are left out because of {what}." for what, n in document.rejected.items()]
    return Answer(lead, (*filled(("Left out", why)), *alone.points))


def _search_figures(document: TrainingSearch) -> list[Figure]:
    seen: dict[str, figures.PlanPoint] = {}
    first = max(document.layouts, key=lambda one: one.tokens_per_s, default=None)
    for one in [*document.layouts, *document.efficient]:
        values = {"memory per device, GB": one.memory_bytes / 1e9, "seconds of an iteration": one.step_s}
        seen.setdefault(str(one), figures.PlanPoint(str(one), values, chosen=one is first))
    found = (
        _figures(document.layouts[:4], [str(one) for one in document.layouts[:4]]) if document.layouts else []
    )
    if len(seen) > 1:
        found.insert(
            0,
            figures.pareto_front(list(seen.values()), x="memory per device, GB", y="seconds of an iteration"),
        )
    return found


def search_table(document: TrainingSearch) -> Table:
    """The best layouts."""
    rows = tuple(
        (
            str(one.layout),
            str(one.micro_batch),
            str(one.zero),
            one.recompute,
            one.schedule,
            f"{one.step_s:.4g}",
            f"{one.tokens_per_s:,.0f}",
            f"{100 * one.mfu:.1f}",
            f"{one.memory_bytes / 1e9:.4g}",
            one.bound_by,
        )
        for one in document.layouts[:_ROWS]
    )
    columns = ("layout", "micro-batch", "ZeRO", "recomputation", "schedule", "iteration, s", "tokens/s",
               "MFU, %", "memory, GB", "bound by")  # fmt: skip
    return Table("Best layouts", columns, rows)
