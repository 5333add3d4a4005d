"""From traffic and a promise to the cheapest plan that keeps it.

Bounds take out what cannot be, the steady state sorts what is left by cost, the simulator says what holds: it
looks at the cheapest first, finds the fewest replicas of each, and goes on as long as something might be
cheaper, up to as many configurations as were asked for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.correction import shipped
from moesim.engine.traits import Traits
from moesim.errors import ConfigError, Fault
from moesim.hardware import Hardware
from moesim.hardware.types import Price
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model import Model
from moesim.planning.bounds import Asked
from moesim.planning.candidates import Shape, shapes
from moesim.planning.confirm import MOST_REPLICAS, Judge, Verdict
from moesim.planning.cost import Tariff
from moesim.planning.crowd import Crowd, check_traffic
from moesim.planning.doubt import doubt
from moesim.planning.pace import Paces, loads_of, placement_of
from moesim.planning.pareto import pareto
from moesim.planning.steady import Row, Sorter, in_order, infeasible, words
from moesim.planning.streams import Stream, streams
from moesim.planning.types import (
    CONFIRMED,
    RANKED,
    REFUTED,
    Assessment,
    Candidate,
    PlanResult,
    Refusal,
    Slo,
    Space,
    Traffic,
)
from moesim.prediction.calibrated import traits_of
from moesim.trace.types import Routing
from moesim.units import show

Progress = Callable[[str, int, int], None]

#: Ranked plans and examples that are kept.
KEPT, EXAMPLES = 100, 3
#: Configurations that are simulated before it is given up that any holds.
FRUITLESS = 50
#: Times what the steady state asks for, beyond which more replicas are not tried.
BEYOND = 8
#: Stretches of traffic, at most.
MOST_REPLICATIONS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked, checked, and made ready."""

    space: Space
    slo: Slo
    tariff: Tariff
    crowd: Crowd
    streams: tuple[Stream, ...]
    shapes: tuple[Shape, ...]
    sorter: Sorter
    judge: Judge
    requests: int
    doubt: Callable[[Assessment], tuple[dict[str, tuple[float, float]], str]]


def plan(
    models: Sequence[Model],
    hardwares: Sequence[Hardware],
    traffic: Traffic,
    slo: Slo,
    *,
    space: Space | None = None,
    prices: Mapping[str, Price] | None = None,
    trace: Routing | None = None,
    placement: ExpertMap | None = None,
    confirm: int = 5,
    replications: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> PlanResult:
    """Find the cheapest deployment that keeps a promise of latency.

    Parameters
    ----------
    models, hardwares
        Alternatives; how many nodes of a machine is part of the answer.
    traffic
        What has to be served.
    slo
        What is promised.
    space
        What may be tried.
    prices
        Of one device, by the name of the hardware; those of the descriptions if None. Without one of them
        devices are minimised.
    trace, placement
        Real routing, and where experts lie, for layouts with as many expert ranks.
    confirm
        Configurations that are simulated, at most, once one holds; 0 to trust the steady state.
    replications
        Stretches of the traffic each of them serves.
    seed
        Of everything random: same seed, same plan.
    progress
        Called with a phase (``search``, ``confirm``), what is done of it, and all of it.

    Raises
    ------
    ConfigError
        With everything that is wrong with the question.
    InfeasibleError
        If nothing keeps the promise: with the limit that binds, and the nearest that can be reached.
    """
    if confirm < 0:
        raise ConfigError(Fault("must not be negative", "--confirm", confirm, "0, 1, 2, ..."))
    asked = question(
        models, hardwares, traffic, slo, space or Space(), prices, trace, placement, replications, seed
    )
    return replace(answer(asked, confirm, progress), slo=slo, traffic=traffic)


def answer(asked: Question, confirm: int, progress: Progress | None = None) -> PlanResult:
    """Answer a question; arguments are those of `plan`.

    Raises
    ------
    InfeasibleError
        If nothing keeps the promise.
    """
    started = time.process_time()
    tell = progress or _silent
    rows = asked.sorter.rows(asked.shapes, lambda done: tell("search", done, len(asked.shapes)))
    searched = time.process_time()
    found = Confirmation(asked, in_order(rows), confirm, lambda done: tell("confirm", done, confirm))
    found.run()
    return _result(asked, rows, found, confirm, (searched - started, time.process_time() - searched))


def _silent(phase: str, done: int, total: int) -> None:
    """Tell nobody."""


def question(
    models: Sequence[Model],
    hardwares: Sequence[Hardware],
    traffic: Traffic,
    slo: Slo,
    space: Space,
    prices: Mapping[str, Price] | None,
    trace: Routing | None,
    placement: ExpertMap | None,
    replications: int,
    seed: int,
) -> Question:
    """Check a question and make ready what answers it.

    Raises
    ------
    ConfigError
        With every fault.
    """
    faults = space.faults() + check_traffic(traffic) + slo_faults(slo)
    if not models:
        faults.append(Fault("names no model", "--model"))
    if not hardwares:
        faults.append(Fault("names no machine", "--hardware"))
    if not 1 <= replications <= MOST_REPLICATIONS:
        faults.append(Fault("is out of range", "--replications", replications, f"1 to {MOST_REPLICATIONS}"))
    if faults:
        raise ConfigError(faults)
    listed = tuple(shapes(models, hardwares, space))
    if not listed:
        names = ", ".join(m.name for m in models)
        raise ConfigError(Fault(f"no layout of {names} is valid within it", "search space"))
    crowd = Crowd.of(traffic)
    parts = streams(traffic, slo, replications, seed)
    calibration = shipped()

    def traits(backend: str) -> Traits:
        return traits_of(calibration, backend)

    def placed(candidate: Candidate) -> ExpertMap | None:
        if candidate.model.moe is None:
            return None
        loads = loads_of(candidate.model, candidate.engine.routing, trace)
        layout = candidate.layout
        ep = layout.ep if isinstance(layout, Parallelism) else layout.decode.layout.ep
        return placement_of(ep, candidate.redundant, loads, placement)

    def doubted(found: Assessment) -> tuple[dict[str, tuple[float, float]], str]:
        one = found.candidate
        stay_s = found.metrics.get("e2el_s", 0.0)
        running = traffic.request_rate / one.replicas * stay_s if np.isfinite(stay_s) else 1.0
        return doubt(one, crowd, running, calibration, trace, placed(one), seed)

    chunks = tuple(float(c) for c in sorted(set(space.chunk_tokens)))
    paces = Paces(crowd, trace, placement, traits, float(max(space.max_sequences)), chunks, seed)
    tariff = Tariff.of(hardwares, prices)
    sorter = Sorter(paces, crowd, Asked.of(parts, slo), slo, space, tariff)
    return Question(
        space,
        slo,
        tariff,
        crowd,
        parts,
        listed,
        sorter,
        Judge(parts, slo, trace, placed, traits, seed),
        len(traffic.requests),
        doubted,
    )


def slo_faults(slo: Slo) -> list[Fault]:
    """What is wrong with a promise."""
    known = ("ttft_s", "tpot_s", "e2el_s")
    found = [
        Fault("unknown limit", "slo", name, ", ".join(known)) for name in slo.limits if name not in known
    ]
    found += [
        Fault("must be above 0, and finite", f"slo {name}", limit)
        for name, limit in slo.limits.items()
        if not 0 < limit < 1e9
    ]
    if not slo.limits:
        found.append(Fault("promises nothing", "slo", None, ", ".join(known)))
    if not 0 < slo.attainment <= 1:
        found.append(Fault("is a fraction", "slo attainment", slo.attainment, "above 0, at most 1"))
    return found


class Confirmation:
    """The simulator's way through rows in order.

    Parameters
    ----------
    rows
        Cheapest in steady state first.
    most
        Of them, how many are looked at.
    """

    def __init__(self, asked: Question, rows: Sequence[Row], most: int, tell: Callable[[int], None]) -> None:
        self.asked, self.rows, self.most, self.tell = asked, rows, most, tell
        self.confirmed: list[Assessment] = []
        self.refuted: list[Assessment] = []
        self.looked = 0
        self.proven = 0
        self.open: list[Row] = []

    @property
    def best(self) -> Assessment | None:
        """The cheapest that holds, with the larger share of requests in time among equals."""
        cost = self.asked.tariff.cost
        return min(self.confirmed, key=lambda a: (cost(a.candidate), -a.metrics["attainment"]), default=None)

    def run(self) -> None:
        """Look at one after the other."""
        for row in self.rows:
            best, room = self.best, self._room(row)
            if row.least > room:
                self.proven += 1
            elif self.looked >= (self.most if best is not None or not self.most else FRUITLESS):
                self.open.append(row)
            else:
                self.looked += 1
                self._look(row, room)
                self.tell(self.looked)

    def _room(self, row: Row) -> int:
        """Replicas, of pools nodes, that are cheaper than the best and within the budget."""
        tariff, best, space = self.asked.tariff, self.best, self.asked.space
        limit = float("inf") if best is None else tariff.cost(best.candidate)
        if row.pair is None:
            room = tariff.replicas_within(row.shape, limit, space, cheaper=best is not None)
        else:
            room = tariff.nodes_within(row.shape, limit, space, cheaper=best is not None)
            room = min(room, row.shape.hardware.max_nodes or room)
        return min(room, MOST_REPLICAS)

    def _look(self, row: Row, room: int) -> None:
        judge, pair = self.asked.judge, row.pair
        each = row.shape.per_rental if pair is None else 1

        def at(rentals: int) -> Candidate:
            # What is rented is used.
            return (
                row.shape.candidate(row.engine, rentals * each)
                if pair is None
                else judge.divided(*pair.divisions(rentals))
            )

        planned = row.assessment.candidate
        guess = -(-planned.replicas // each) if pair is None else planned.hardware.nodes
        least = max(-(-row.least // each), 1)
        most = min(room // each, BEYOND * max(guess, least))
        fewest = judge.fewest(at, guess, least, most)
        if fewest is None:
            candidate = at(most)
            self.refuted.append(self._said(row, candidate, judge.verdict(candidate), REFUTED))
        else:
            candidate = at(fewest)
            self.confirmed.append(self._said(row, candidate, judge.verdict(candidate), CONFIRMED))

    def _said(self, row: Row, candidate: Candidate, verdict: Verdict, status: str) -> Assessment:
        share, wanted = verdict.metrics["attainment"], self.asked.slo.attainment
        reason = (
            "" if verdict.holds else f"{share:.2%} of requests meet the promise, {wanted:.2%} were promised"
        )
        kept = {
            name: row.assessment.metrics[name]
            for name in ("request_rate_per_replica",)
            if name in row.assessment.metrics
        }
        watts = row.shape.hardware.device.tdp_w
        if watts is not None and verdict.metrics.get("output_throughput"):
            kept["energy_j_per_token"] = watts * candidate.devices / verdict.metrics["output_throughput"]
        return Assessment(
            candidate,
            status,
            reason,
            verdict.metrics | kept,
            verdict.interval,
            self.asked.tariff.usd(candidate),
        )


def _result(
    asked: Question, rows: Sequence[Row], found: Confirmation, confirm: int, seconds: tuple[float, float]
) -> PlanResult:
    order = [r for r in found.rows if r.assessment.status == RANKED]
    refused = refusals(rows, found.refuted)
    best = found.best if confirm else (order[0].assessment if order else None)
    if best is None:
        details: list[dict[str, object]] = [
            {"status": r.status, "what": r.what, "count": r.count, "nearest": r.nearest.reason}
            for r in refused
        ]
        raise infeasible([r for r in rows if r.assessment.status != RANKED] or rows, asked.slo, details)
    best, unsure = _in_doubt(asked, best)
    cost = asked.tariff.cost
    counts = Counter(r.assessment.status for r in rows)
    searched = {
        "shapes": len(asked.shapes),
        "configurations": len(rows),
        **dict(sorted(counts.items())),
        "simulated": found.looked,
        "runs": asked.judge.runs,
        "provably-dearer": found.proven,
        "open": len(found.open),
        "pools": sum(r.pair is not None for r in rows),
    }
    return PlanResult(
        best,
        tuple(r.assessment for r in order[:KEPT]),
        tuple(sorted(found.confirmed, key=lambda a: cost(a.candidate))),
        tuple(found.refuted),
        pareto([r.assessment for r in _one_each(order)]),
        refused,
        searched,
        {"search": seconds[0], "confirm": seconds[1]},
        (*unsure, *_notes(asked, found, confirm)),
    )


def _in_doubt(asked: Question, best: Assessment) -> tuple[Assessment, tuple[str, ...]]:
    """The plan with what measured runs say of its latencies, and whether its limits are in doubt."""
    spans, why = asked.doubt(best)
    wide = {
        f"model_{name}": (low * best.metrics[name], high * best.metrics[name])
        for name, (low, high) in spans.items()
        if np.isfinite(best.metrics.get(name, np.inf))
    }
    notes = []
    for name, limit in asked.slo.limits.items():
        low, high = wide.get(f"model_{name}", (0.0, 0.0))
        if high > limit:
            notes.append(
                f"by its errors on measured runs the model puts the mean {words(name)} of the plan between "
                f"{show(low, 's')} and {show(high, 's')}: the limit of {show(limit, 's')} is inside"
                + (f" ({why})" if why else "")
            )
    if not spans:
        notes.append(f"how far the model is off is not known of this plan: {why}")
    return replace(best, interval=dict(best.interval) | wide), tuple(notes)


def _one_each(rows: Sequence[Row]) -> list[Row]:
    """The best batch limits of every shape."""
    first: dict[int, Row] = {}
    for row in rows:
        first.setdefault(id(row.shape), row)
    return list(first.values())


def refusals(rows: Sequence[Row], refuted: Sequence[Assessment]) -> tuple[Refusal, ...]:
    """Why configurations fail, most frequent first."""
    groups: dict[tuple[str, str], list[tuple[float, Assessment]]] = {}
    for row in rows:
        if row.assessment.status != RANKED:
            groups.setdefault((row.assessment.status, row.what), []).append((row.miss, row.assessment))
    for one in refuted:
        groups.setdefault((REFUTED, "attainment"), []).append((-one.metrics["attainment"], one))
    found = []
    for (status, what), members in groups.items():
        members.sort(key=lambda pair: pair[0])
        nearest = tuple(assessment for _, assessment in members[:EXAMPLES])
        found.append(Refusal(status, what, len(members), nearest[0], nearest))
    return tuple(sorted(found, key=lambda r: -r.count))


def _notes(asked: Question, found: Confirmation, confirm: int) -> tuple[str, ...]:
    notes = [asked.tariff.note]
    if not confirm:
        notes.append("nothing was simulated: the plan is that of the steady state")
    elif not found.open:
        notes.append("no configuration of the space that was not simulated can be cheaper")
    else:
        ranked = [r for r in found.open if r.assessment.status == RANKED]
        cheapest = min(ranked, key=lambda r: r.cost, default=None)
        text = f"{len(found.open)} configurations that might be cheaper were not simulated"
        if cheapest is not None:
            unit = "USD per hour" if asked.tariff.usd_per_hour is not None else "devices"
            text += f"; the steady state puts the cheapest of them at {cheapest.cost:g} {unit}"
        notes.append(text)
    if sum(len(part.requests) for part in asked.streams) > asked.requests:
        notes.append(
            "the traffic is shorter than what is replayed: stretches of it repeat, and are not independent"
        )
    if any(r.shape.hardware.device.tdp_w is not None for r in found.rows):
        notes.append("energy is that of all devices at their rated power")
    return tuple(notes)
