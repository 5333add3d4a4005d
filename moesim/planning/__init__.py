"""Capacity plans: the cheapest deployment that keeps a promise of latency for some traffic."""

from moesim.planning.launch import Launch, launch, write_launch
from moesim.planning.search import plan
from moesim.planning.sensitivity import Sensitivity, sensitivities
from moesim.planning.slo import parse_slo
from moesim.planning.traffic import make_traffic
from moesim.planning.types import Assessment, Candidate, PlanResult, Refusal, Slo, Space, Traffic

__all__ = [
    "Assessment",
    "Candidate",
    "Launch",
    "PlanResult",
    "Refusal",
    "Sensitivity",
    "Slo",
    "Space",
    "Traffic",
    "launch",
    "make_traffic",
    "parse_slo",
    "plan",
    "sensitivities",
    "write_launch",
]
