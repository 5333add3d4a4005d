"""Sort a space: what cannot be, what the steady state says of the rest, and in which order to look closer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from moesim.errors import InfeasibleError
from moesim.planning.bounds import Asked, Floor, floor_of, short_bytes
from moesim.planning.candidates import Shape
from moesim.planning.cost import Tariff
from moesim.planning.crowd import Crowd
from moesim.planning.launch import unsupported
from moesim.planning.pace import Paces
from moesim.planning.pools import Pair, Worker, pairs, worker_of
from moesim.planning.rank import at_rate, capacity_of, curve_of
from moesim.planning.types import BEYOND_BOUND, RANKED, TOO_SLOW, UNFIT, Assessment, Candidate, Slo, Space
from moesim.prediction import Engine
from moesim.units import show


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A configuration, and what is known of it without simulating.

    Parameters
    ----------
    assessment
        With as many replicas as the steady state asks for; one where it finds none that do.
    shape, engine
        What the candidate is made of.
    what
        Limit or resource that decides against it, or ends the rate it carries.
    least
        Replicas that are provably needed, of pools nodes; 0 where none would do.
    miss
        By how much it fails, for an order among those that fail; 0 if it does not.
    pair
        Pools; the shape is that of a decode worker then.
    """

    assessment: Assessment
    shape: Shape
    engine: Engine
    what: str
    least: int
    miss: float
    cost: float
    pair: Pair | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sorter:
    """Judges shapes without simulating.

    Parameters
    ----------
    paces, crowd
        Seconds of steps, and the traffic in short.
    asked
        The requests that the simulator would replay.
    prune
        Whether what is provably out is left alone; without, everything is timed.
    workers
        Collects what was timed, where pools are to be made of it.
    """

    paces: Paces
    crowd: Crowd
    asked: Asked
    slo: Slo
    space: Space
    tariff: Tariff
    prune: bool = True
    workers: list[Worker] = field(default_factory=list)

    def rows(self, shapes: Sequence[Shape], progress: Callable[[int], None]) -> list[Row]:
        """Every configuration of every shape."""
        # Those with as many expert ranks share what is drawn, and only so much of that is kept.
        order = sorted(range(len(shapes)), key=lambda i: (id(shapes[i].model), shapes[i].layout.ep))
        found: list[list[Row]] = [[] for _ in shapes]
        for done, i in enumerate(order):
            found[i] = self.of(shapes[i])
            progress(done + 1)
        rows = [row for rows in found for row in rows]
        if "aggregated" not in self.space.modes:
            rows = [r for r in rows if r.assessment.status in (UNFIT, BEYOND_BOUND)]
        return rows + self.pools()

    def pools(self) -> list[Row]:
        """The workers that were timed, in pools of their own."""
        names = {w.shape.hardware.name: w.shape for w in self.workers}
        cost = {name: self.tariff.per_device(shape) for name, shape in names.items()}
        found = []
        # The same pair comes with all its batch limits, as any other shape does.
        kept: dict[tuple[int, int], Shape] = {}
        for pair in pairs(self.workers, self.crowd, self.slo, cost):
            one, ends = pair.candidate, (pair.prefill.shape, pair.decode.shape)
            shape = kept.setdefault((id(ends[0]), id(ends[1])), replace(ends[1]))
            metrics = pair.metrics | self._throughput(one, 1, pair.request_rate)
            status, what, text, miss = RANKED, "ttft_s", "", 0.0
            if not self.tariff.affordable(one, self.space):
                status, what, miss = TOO_SLOW, "budget", 1.0
                text = f"{one.devices} devices are needed in steady state, beyond the budget"
            assessment = Assessment(one, status, text, metrics, usd_per_hour=self.tariff.usd(one))
            price = self.tariff.cost(one)
            found.append(Row(assessment, shape, one.engine, what, pair.least_nodes, miss, price, pair))
        return found

    def of(self, shape: Shape) -> list[Row]:
        """A shape with each of its batch limits."""
        settings = shape.settings(self.space)
        reason = unsupported(shape.candidate(shape.engine, 1))
        if reason:
            what = f"engine {shape.engine.backend}"
            return [self._row(shape, e, 1, UNFIT, what, reason, math.inf, 0, {}) for e in settings]
        deployment = self.paces.deployment(shape)
        short = {e.chunk_tokens: short_bytes(deployment, e, self.asked.longest) for e in settings}
        found = [self._unfit(shape, e, short[e.chunk_tokens]) for e in settings if short[e.chunk_tokens] > 0]
        fits = [e for e in settings if short[e.chunk_tokens] <= 0]
        if not fits:
            return found
        # What the loosest limits cannot beat, no others can.
        loosest = max(fits, key=lambda e: min(e.max_sequences, e.chunk_tokens))
        floor = floor_of(deployment, loosest, self.asked, self.slo)
        why = self._beyond(shape, floor) if self.prune else None
        if why is not None:
            return found + [self._row(shape, e, 1, BEYOND_BOUND, *why, 0, floor.best) for e in fits]
        pace = self.paces.of(shape)
        for engine in fits:
            if "disaggregated" in self.space.modes:
                self.workers.append(worker_of(shape, engine, pace, self.crowd, self.slo))
            curve = curve_of(pace, engine, self.crowd, self.slo)
            capacity = capacity_of(curve, self.slo.attainment)
            if not capacity.request_rate > 0:
                what, miss = capacity.what, self.slo.attainment - capacity.share
                text = f"{capacity.share:.1%} of requests meet the limits one at a time; {what} decides"
                # As many as serve one request at a time.
                many = math.ceil(self.crowd.request_rate * capacity.metrics["e2el_s"])
                found.append(
                    self._row(
                        shape, engine, many, TOO_SLOW, what, text, miss, floor.replicas, capacity.metrics
                    )
                )
                continue
            replicas = math.ceil(self.crowd.request_rate / capacity.request_rate * (1.0 - 1e-9))
            # What is rented is used.
            replicas = -(-max(replicas, floor.replicas) // shape.per_rental) * shape.per_rental
            metrics = at_rate(curve, self.crowd.request_rate / replicas)
            metrics |= self._throughput(shape.candidate(engine, replicas), replicas, capacity.request_rate)
            room, what = self.tariff.replicas_within(shape, math.inf, self.space), capacity.what
            status, text, miss = RANKED, "", 0.0
            if replicas > room:
                status, what, miss = TOO_SLOW, "budget", replicas / max(room, 1)
                text = f"{replicas} replicas are needed in steady state, the budget allows {room}"
            found.append(
                self._row(shape, engine, replicas, status, what, text, miss, floor.replicas, metrics)
            )
        return found

    def _throughput(self, candidate: Candidate, replicas: int, most: float) -> dict[str, float]:
        output = self.crowd.request_rate * float(self.crowd.output.mean())
        found = {
            "request_throughput": self.crowd.request_rate,
            "output_throughput": output,
            "request_rate_per_replica": most,
            "most_request_rate": most * replicas,
        }
        watts = candidate.hardware.device.tdp_w
        if watts is not None:
            found["energy_j_per_token"] = watts * candidate.devices / output
        return found

    def _unfit(self, shape: Shape, engine: Engine, short: float) -> Row:
        memory = shape.hardware.device.memory
        text = f"{show(short, 'bytes')} of {memory.name} are missing on the fullest device"
        return self._row(
            shape, engine, 1, UNFIT, f"memory {memory.name}", text, short / memory.capacity_bytes, 0, {}
        )

    def _beyond(self, shape: Shape, floor: Floor) -> tuple[str, str, float] | None:
        """The limit that is provably missed, in words, and by how much."""
        slo = self.slo
        if floor.share < slo.attainment:
            ratios = {name: value / slo.limits[name] for name, value in floor.best.items()}
            what = max(ratios, key=lambda name: ratios[name])
            text = (
                f"at most {floor.share:.1%} of requests can meet the limits: at bare peaks "
                f"{words(what)} is {show(floor.best[what], 's')}, the limit {show(slo.limits[what], 's')}"
            )
            return what, text, slo.attainment - floor.share
        room = self.tariff.replicas_within(shape, math.inf, self.space)
        if floor.replicas > room:
            text = f"{floor.replicas} replicas are needed at bare peaks, the budget allows {room}"
            return "budget", text, floor.replicas / max(room, 1)
        return None

    def _row(
        self,
        shape: Shape,
        engine: Engine,
        replicas: int,
        status: str,
        what: str,
        reason: str,
        miss: float,
        least: int,
        metrics: Mapping[str, float],
    ) -> Row:
        candidate = shape.candidate(engine, replicas)
        assessment = Assessment(
            candidate, status, reason, dict(metrics), usd_per_hour=self.tariff.usd(candidate)
        )
        return Row(assessment, shape, engine, what, least, miss, self.tariff.cost(candidate))


def words(what: str) -> str:
    """A limit as people write it.

    >>> words("ttft_s")
    'TTFT'
    """
    return what.removesuffix("_s").upper()


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Those to look at: cheapest in steady state first, those too slow for it last.

    Of equal cost, every shape comes with its best batch limits before any comes with others, and those with
    most room come first.
    """
    ranked = [r for r in rows if r.assessment.status == RANKED]
    slow = [r for r in rows if r.assessment.status == TOO_SLOW]
    ranked.sort(
        key=lambda r: (r.cost, r.assessment.candidate.devices, -r.assessment.metrics["most_request_rate"])
    )
    seen: Counter[int] = Counter()
    turn = []
    for row in ranked:
        turn.append((row.cost, seen[id(row.shape)]))
        seen[id(row.shape)] += 1
    slow.sort(key=lambda r: r.miss)
    return [ranked[i] for i in sorted(range(len(ranked)), key=turn.__getitem__)] + slow


def infeasible(rows: Sequence[Row], slo: Slo, details: list[dict[str, object]]) -> InfeasibleError:
    """Why nothing holds: the limit that binds, and the nearest that was reached."""
    fit = [r for r in rows if r.assessment.status != UNFIT]
    if not fit:
        nearest = min(rows, key=lambda r: r.miss)
        memory = nearest.shape.hardware.device.memory
        return InfeasibleError(
            f"nothing fits: nearest is {nearest.shape}: {nearest.assessment.reason}",
            resource=nearest.what,
            # What an engine cannot lay out is not a matter of memory.
            needed=memory.capacity_bytes * (1.0 + nearest.miss) if math.isfinite(nearest.miss) else 1.0,
            available=memory.capacity_bytes if math.isfinite(nearest.miss) else 0.0,
            details={"refused": details},
        )
    latency = [r for r in fit if r.what != "budget"] or fit
    nearest = min(fit, key=lambda r: (r.miss, r.cost))
    what = nearest.what
    if what in slo.limits:
        reached = min(r.assessment.metrics.get(what, math.inf) for r in latency)
        return InfeasibleError(
            f"no plan keeps the promise: {words(what)} is {show(reached, 's')} where it is least, the limit "
            f"{show(slo.limits[what], 's')}; nearest is {nearest.shape}: {nearest.assessment.reason}",
            resource=what,
            needed=slo.limits[what],
            available=reached,
            details={"refused": details},
        )
    return InfeasibleError(
        f"no plan keeps the promise within the {what}; nearest is {nearest.shape}: "
        f"{nearest.assessment.reason}",
        resource=what,
        needed=nearest.cost,
        available=nearest.cost / nearest.miss if nearest.miss > 0 else 0.0,
        details={"refused": details},
    )
