"""Ask a candidate again: on an edited machine, with other loads, in the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moesim.correction import Calibration, shipped
from moesim.engine.traits import Traits
from moesim.layout import Disaggregated, ExpertMap
from moesim.planning.candidates import Shape
from moesim.planning.confirm import Judge
from moesim.planning.crowd import Crowd
from moesim.planning.pace import Paces, loads_of, placement_of
from moesim.planning.rank import at_rate, capacity_of, curve_of
from moesim.planning.streams import streams
from moesim.planning.types import Candidate, Slo, Traffic
from moesim.prediction.calibrated import traits_of
from moesim.trace.types import Routing


@dataclass(frozen=True, slots=True)
class Carried:
    """What one replica carries.

    Parameters
    ----------
    request_rate
        Requests per second within the promise, in steady state.
    at_traffic
        Means at its part of the traffic; empty where it does not carry that.
    """

    request_rate: float
    at_traffic: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Again:
    """One plan, asked again and again.

    Parameters
    ----------
    traffic, slo
        What it is for.
    trace
        Routing.
    placement
        Where experts lie, whatever their loads become; None for in order.
    seed
        Of routing draws and stretches of traffic.
    calibration
        Whose engine constants count.
    """

    traffic: Traffic
    slo: Slo
    trace: Routing | None
    placement: ExpertMap | None
    seed: int
    calibration: Calibration

    @classmethod
    def of(cls, candidate: Candidate, traffic: Traffic, slo: Slo, trace: Routing | None, seed: int) -> Again:
        """With the placement that the candidate was planned with."""
        return cls(traffic, slo, trace, planned_placement(candidate, trace), seed, shipped())

    def carries(self, candidate: Candidate, loads: Routing | None) -> Carried:
        """What a replica carries in steady state, with other loads on the same placement."""
        engine = candidate.engine
        crowd = Crowd.of(self.traffic)
        limits = float(engine.max_sequences), (float(engine.chunk_tokens),)
        paces = Paces(crowd, loads, self.placement, self._traits, *limits, self.seed)
        curve = curve_of(paces.of(_shape(candidate)), engine, crowd, self.slo)
        most = capacity_of(curve, self.slo.attainment).request_rate
        part = self.traffic.request_rate / candidate.replicas
        return Carried(most, at_rate(curve, part) if part <= most else {})

    def simulate(self, candidate: Candidate) -> dict[str, float]:
        """Latencies of all replicas, over one stretch of the traffic."""
        parts = streams(self.traffic, self.slo, 1, self.seed)
        judge = Judge(parts, self.slo, self.trace, lambda _: self.placement, self._traits, self.seed)
        return judge.verdict(candidate).metrics

    def _traits(self, backend: str) -> Traits:
        return traits_of(self.calibration, backend)


def planned_placement(candidate: Candidate, trace: Routing | None) -> ExpertMap | None:
    """Where experts lie in a plan: packed by their loads if some are there twice, else in order (None)."""
    model = candidate.model
    if model.moe is None or isinstance(candidate.layout, Disaggregated):
        return None
    loads = loads_of(model, candidate.engine.routing, trace)
    return placement_of(candidate.layout.ep, candidate.redundant, loads, None)


def _shape(candidate: Candidate) -> Shape:
    layout = candidate.layout
    assert not isinstance(layout, Disaggregated)
    return Shape(candidate.model, candidate.hardware, layout, candidate.engine, candidate.redundant)
