"""Batchers: which tokens of a trace form a step."""

from moesim.policy.batchers.batches import Batches, ModuleBatches, ZigZag
from moesim.policy.batchers.continuous import Continuous
from moesim.policy.batchers.gather import gather
from moesim.policy.batchers.queues import ExpertQueues
from moesim.policy.batchers.unions import UnionMinimising
from moesim.policy.slots import TokenByToken

__all__ = [
    "Batches",
    "Continuous",
    "ExpertQueues",
    "ModuleBatches",
    "TokenByToken",
    "UnionMinimising",
    "ZigZag",
    "gather",
]
