"""How work and weights are laid over devices."""

from moesim.layout.disaggregated import Disaggregated, Workers
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism

__all__ = ["Disaggregated", "ExpertMap", "Parallelism", "Workers"]
