"""A capacity plan: what to rent, laid out how, at what price, how sure, and why nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.reporting import figures
from moesim.reporting.documents import LIMITS, Assessed, PlanDocument
from moesim.reporting.figures import Figure
from moesim.reporting.figures.given import percent
from moesim.reporting.sections.compare import Contender, apart, standing
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

_STATUS = {
    "confirmed": "the simulator confirms it",
    "ranked": "that is the steady state's word; it was not simulated",
}
_ROWS = 30


def sections_of(plans: Sequence[PlanDocument], labels: Sequence[str], several: bool) -> list[Section]:
    """What a page says of plans: how they compare, then each."""
    found = [_compared(plans, labels)] if len(plans) > 1 else []
    for nth, (plan, label) in enumerate(zip(plans, labels, strict=True)):
        found.append(section(plan, label if several or len(plans) > 1 else "", f"plan{nth + 1}"))
    return found


def section(document: PlanDocument, title: str, key: str) -> Section:
    """What a page says of one plan."""
    found = [chosen(document), candidates(document)]
    if document.refused:
        found.append(refusals(document))
    if document.sensitivities:
        found.append(gains(document))
    if document.launch is not None and document.launch.commands:
        found.append(commands(document))
    shown, missing = _figures(document)
    return Section(
        key,
        title,
        answer(document),
        tuple(shown),
        tuple(found),
        tuple(missing),
        unique(document.warnings),
        _tiles(document),
    )


def answer(document: PlanDocument) -> Answer:
    """What to rent, why, and how sure."""
    plan, traffic = document.plan, document.traffic
    cost = "" if plan.usd_per_hour is None else f" for {plan.usd_per_hour:,.2f} {document.currency}/h"
    seen = ", ".join(
        f"p99 of {LIMITS[name]} {duration(value)} (promised {duration(limit)})"
        for name, limit in document.slo.limits.items()
        if (value := plan.first(name.replace("_s", "_p99_s"))) is not None
    )
    lead = (
        f"Rent {plan.devices:,} devices ({plan.nodes} x {plan.hardware}){cost} and run {plan.model} as {plan}"
        f": it serves {traffic.request_rate:,.4g} requests/s"
        f"{f' with {seen}' if seen else ''}; {_STATUS.get(plan.status, plan.status)}."
    )
    return Answer(
        lead,
        filled(
            ("Why this one", _why(document)),
            ("What limits it", _limits(document)),
            ("Uncertain", _doubts(document)),
        ),
    )


def _why(document: PlanDocument) -> list[str]:
    plan = document.plan
    least = "cost" if document.minimised == "usd_per_hour" else "number of devices"
    total = document.searched.get("configurations")
    found = [f"It has the least {least} of all {total:,} configurations that were looked at." if total else
             f"It has the least {least} of what holds."]  # fmt: skip
    own = (plan.hardware, str(plan))
    other = next(
        (one for one in [*document.confirmed, *document.ranked] if (one.hardware, str(one)) != own), None
    )
    if other is not None and plan.usd_per_hour and other.usd_per_hour:
        same = other.usd_per_hour == plan.usd_per_hour
        how = "costs as much" if same else f"costs {apart(other.usd_per_hour, plan.usd_per_hour)} it"
        found.append(f"The next that holds, {other} on {other.devices} devices of {other.hardware}, {how}.")
    found += [
        f"{one.count:,} fail by {one.what} ({one.status})"
        + (f"; the nearest: {one.nearest.reason}." if one.nearest is not None and one.nearest.reason else ".")
        for one in sorted(document.refused, key=lambda one: -one.count)[:3]
    ]
    return found


def _limits(document: PlanDocument) -> list[str]:
    plan = document.plan
    found = []
    each = plan.first("request_rate_per_replica")
    if each is not None and document.traffic.request_rate:
        whole, asked = each * plan.replicas, document.traffic.request_rate
        found.append(
            f"The steady state has it carry {whole:,.4g} requests/s within the promise, less than asked; the "
            f"simulator, which decides, saw it carry the {asked:,.4g}."
            if whole < asked and plan.status == "confirmed"
            else f"By the steady state it would carry {whole:,.4g} requests/s within the promise, "
            f"{brief(whole / asked)} times what is asked."
        )
    best = max(document.sensitivities, key=lambda g: g.rate_gain or 0.0, default=None)
    if best is not None and best.rate_gain is not None:
        more = "All there is to gain of" if best.change is None else f"{best.change:.0%} more"
        found.append(f"{more} {best.what} would let it carry {best.rate_gain:.1%} more requests.")
    return found


def _doubts(document: PlanDocument) -> list[str]:
    plan = document.plan
    found = []
    if plan.status != "confirmed":
        found.append("It was not simulated: means of a steady state stand for percentiles.")
    share, span = plan.first("attainment"), plan.span("attainment")
    if share is not None:
        ends = ""
        if span is not None and span[0] < span[1]:
            ends = f", interval {percent(max(span[0], 0.0))} to {percent(min(span[1], 1.0))}"
        found.append(
            f"{percent(min(share, 1.0))} of {document.traffic.requests:,} requests keep all limits{ends}; "
            f"promised are {percent(document.slo.attainment)}."
        )
    for name, title in (("tpot_s", "TPOT"), ("ttft_s", "TTFT")):
        model = plan.span(f"model_{name}")
        if model is not None:
            found.append(
                f"A measured mean {title} is expected between {duration(max(model[0], 0.0))} and "
                f"{duration(model[1])}: how far runs of other machines were from their predictions."
            )
    if document.refuted:
        found.append(f"{len(document.refuted)} plans that hold in steady state were refuted by simulation.")
    dated = [p for p in document.prices if p.usd_per_device_hour is not None and p.hardware == plan.hardware]
    found += [
        f"Price: {p.usd_per_device_hour:g} {document.currency} per device and hour ({p.vendor or 'given'}, "
        f"{p.date or 'no date'})."
        for p in dated
    ]
    return found


def _figures(document: PlanDocument) -> tuple[list[Figure], list[str]]:
    seed = document.provenance.seed
    points: dict[tuple[str, str, int], figures.PlanPoint] = {}
    plan = document.plan
    for one in [plan, *document.confirmed, *document.refuted, *document.pareto, *document.ranked]:
        key = (one.hardware, str(one), one.devices)
        if key not in points:
            status = one.status if one.status in ("confirmed", "refuted") else ""
            points[key] = figures.PlanPoint(str(one), _metrics(one), status, one.hardware, one is plan)
    cost = "usd_per_hour" if plan.usd_per_hour is not None else "devices"
    # Where all cost the same, what they carry for it tells them apart.
    alike = len({point.values.get(cost) for point in points.values()}) < 2
    pairs = [("tpot_s", "most_request_rate")] if alike else [(cost, "tpot_s"), (cost, "ttft_s")]
    found, missing = [], []
    for x, y in pairs:
        if sum(p.values.get(x) is not None and p.values.get(y) is not None for p in points.values()) > 1:
            limit = document.slo.limits.get(y)
            found.append(figures.pareto_front(list(points.values()), x=x, y=y, limit=limit, seed=seed))
    if not found:
        missing.append("Cost against latency: fewer than two candidates are known with both.")
    base = next(
        (g.request_rate_per_replica / (1 + g.rate_gain) for g in document.sensitivities
         if g.request_rate_per_replica and g.rate_gain is not None and g.rate_gain > -1), None
    )  # fmt: skip
    effects = [
        figures.Effect(
            g.what, None, g.request_rate_per_replica, "", "all" if g.change is None else f"+{g.change:.0%}"
        )
        for g in document.sensitivities
        if g.request_rate_per_replica is not None
    ]
    if base is not None and effects:
        found.append(figures.sensitivity_tornado(effects, "request_rate", base, seed=seed))
    else:
        missing.append("What more of each thing buys: it was not asked, or not known for this layout.")
    return found, missing


def _metrics(one: Assessed) -> dict[str, float | None]:
    """Of a figure's points: means, which all have."""
    return {
        "usd_per_hour": one.usd_per_hour,
        "devices": float(one.devices),
        "most_request_rate": _carried(one),
        **{name: one.first(name) for name in ("ttft_s", "tpot_s", "output_throughput")},
    }


def chosen(document: PlanDocument) -> Table:
    """The plan in numbers, beside what was promised."""
    plan = document.plan
    rows = []
    for name, title in LIMITS.items():
        if plan.first(name) is None:
            continue
        limit = document.slo.limits.get(name)
        stem = name.removesuffix("_s")
        rows.append(
            (
                f"{title}, ms",
                in_ms(plan.predicted.get(name)),
                in_ms(plan.first(name)),
                *(in_ms(plan.first(f"{stem}_{p}_s")) for p in ("p50", "p90", "p99")),
                "-" if limit is None else in_ms(limit),
            )
        )
    word = "mean, simulated" if plan.status == "confirmed" else "mean"
    return Table(
        "The plan's latency", ("", "mean, predicted", word, "p50", "p90", "p99", "promised"), tuple(rows)
    )


def candidates(document: PlanDocument) -> Table:
    """Those that no other beats in everything, and what the simulator said."""
    seen: dict[tuple[str, str], Assessed] = {}
    for one in [*document.confirmed, *document.refuted, *document.pareto]:
        seen.setdefault((one.hardware, str(one)), one)
    rows = tuple(
        (
            one.hardware,
            str(one),
            str(one.devices),
            "-" if one.usd_per_hour is None else f"{one.usd_per_hour:,.2f}",
            in_ms(one.first("ttft_p99_s", "ttft_s")),
            in_ms(one.first("tpot_p99_s", "tpot_s")),
            short(_carried(one)),
            one.status,
        )
        for one in list(seen.values())[:_ROWS]
    )
    columns = (
        "hardware",
        "layout",
        "devices",
        "USD/h",
        "TTFT, ms",
        "TPOT, ms",
        "carries, requests/s",
        "status",
    )
    return Table(
        "Candidates: simulated, or not beaten in everything (p99 where simulated, else means)", columns, rows
    )


def _carried(one: Assessed) -> float | None:
    each = one.first("request_rate_per_replica")
    return None if each is None else each * one.replicas


def refusals(document: PlanDocument) -> Table:
    """Why others fail."""
    rows = tuple(
        (
            one.status,
            one.what,
            f"{one.count:,}",
            "-" if one.nearest is None else f"{one.nearest.hardware}, {one.nearest}",
            "-" if one.nearest is None or one.nearest.reason is None else one.nearest.reason,
        )
        for one in document.refused[:_ROWS]
    )
    return Table("Why others fail", ("status", "by", "candidates", "nearest", "misses"), rows)


def gains(document: PlanDocument) -> Table:
    """What more of each thing buys."""

    def signed(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:+.1f}"

    rows = tuple(
        (
            gain.what,
            "all" if gain.change is None else f"+{gain.change:.0%}",
            signed(gain.rate_gain),
            signed(gain.tpot_gain),
            signed(gain.simulated_gain.get("tpot_s")),
            signed(gain.cost_gain),
        )
        for gain in document.sensitivities
    )
    columns = (
        "of",
        "more",
        "requests/s, %",
        "faster per token, %",
        "the same simulated, %",
        "cheaper per token, %",
    )
    return Table("What more of each thing buys", columns, rows)


def commands(document: PlanDocument) -> Table:
    """How it is started."""
    assert document.launch is not None
    rows = tuple(
        (one.role, "-" if one.node is None else str(one.node), one.text) for one in document.launch.commands
    )
    return Table(f"Start it with {document.launch.engine}", ("role", "node", "command"), rows, folded=True)


def _compared(plans: Sequence[PlanDocument], labels: Sequence[str]) -> Section:
    """Plans side by side."""
    pairs = list(zip(plans, labels, strict=True))
    costs = [Contender(label, p.plan.usd_per_hour) for p, label in pairs]
    lead = standing(costs, "cost", "{:,.2f} USD/h".format, less=True).replace("; neither has an interval", "")
    alike = len({(tuple(p.slo.limits.items()), p.slo.attainment, p.traffic.request_rate) for p in plans}) == 1
    doubts = [] if alike else ["The plans are of different promises or traffic: their costs do not compare."]
    lines: list[tuple[str, list[str]]] = [
        ("model", [p.plan.model for p in plans]),
        ("hardware", [f"{p.plan.devices} devices of {p.plan.hardware}" for p in plans]),
        ("layout", [str(p.plan) for p in plans]),
        ("requests/s", [f"{p.traffic.request_rate:,.4g}" for p in plans]),
        *(
            (f"promised {title}, ms", [in_ms(p.slo.limits.get(name)) for p in plans])
            for name, title in LIMITS.items()
        ),
        *(
            (f"p99 of {title}, ms", [in_ms(p.plan.first(name.replace("_s", "_p99_s"))) for p in plans])
            for name, title in LIMITS.items()
        ),
        ("USD/h", ["-" if p.plan.usd_per_hour is None else f"{p.plan.usd_per_hour:,.2f}" for p in plans]),
        ("USD per million output tokens", [short(p.plan.usd_per_million_output_tokens) for p in plans]),
        ("status", [p.plan.status for p in plans]),
    ]
    rows = tuple((name, *cells) for name, cells in lines if set(cells) != {"-"})
    table = Table("Plans", ("", *labels), rows, compares=True)
    said = f"Of {len(plans)} plans, {lead}" if lead else f"{len(plans)} plans side by side."
    return Section("plans", "Plans", Answer(said, filled(("Uncertain", doubts))), (), (table,), (), ())


def _tiles(document: PlanDocument) -> tuple[Tile, ...]:
    plan = document.plan
    found = [
        Tile(
            "Rent",
            "devices",
            (Number(f"{plan.devices:,}", float(plan.devices), note=f"{plan.nodes} x {plan.hardware}"),),
        )
    ]
    if plan.usd_per_hour is not None:
        each = plan.usd_per_million_output_tokens
        note = "" if each is None else f"{brief(each)} per million output tokens"
        found.append(
            Tile(
                "Cost",
                f"{document.currency}/h",
                (Number(f"{plan.usd_per_hour:,.2f}", plan.usd_per_hour, note=note),),
            )
        )
    for name, limit in document.slo.limits.items():
        stem = name.removesuffix("_s")
        value = plan.first(f"{stem}_p99_s", name)
        if value is None:
            continue
        simulated = plan.first(f"{stem}_p99_s") is not None
        span, model = plan.span(f"{stem}_p99_s"), plan.span(f"model_{name}")
        ends = "" if span is None else f"by chance {_between(span)}, the model's error not in it"
        note = "" if model is None else f"a measured mean: {_between(model)}"
        shown = Number(brief(value * 1e3), value, f"promised {brief(limit * 1e3)}", ends, note)
        found.append(Tile(f"{LIMITS[name]}, {'p99' if simulated else 'mean'}", "ms", (shown,)))
    return tuple(found)


def _between(ends: tuple[float, float]) -> str:
    return f"{brief(max(ends[0], 0.0) * 1e3)} to {brief(ends[1] * 1e3)}"
