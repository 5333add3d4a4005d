"""Offline-throughput systems that stream weights: their performance models and policy searches."""

from moesim.throughput.engine import ENGINE, Engine
from moesim.throughput.hrm import Roofline
from moesim.throughput.machine import Machine
from moesim.throughput.result import Plan, Workload
from moesim.throughput.search import SYSTEMS, best_policy
from moesim.throughput.shape import LayerShape

__all__ = [
    "ENGINE",
    "SYSTEMS",
    "Engine",
    "LayerShape",
    "Machine",
    "Plan",
    "Roofline",
    "Workload",
    "best_policy",
]
