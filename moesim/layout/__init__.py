"""How work and weights are laid over devices."""

from moesim.layout.apart import Apart
from moesim.layout.disaggregated import Disaggregated, Workers
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.layout.sharing import DISPATCH, slot_shares

__all__ = ["DISPATCH", "Apart", "Disaggregated", "ExpertMap", "Parallelism", "Workers", "slot_shares"]
