"""Compiled rules that share the experts of a cell out between GPU, CPU and near-data units."""

from moesim.policy.executor import CPU, DEFERRED, KINDS, LOADED, NEAR, RESIDENT, Executor
from moesim.policy.executors.assign import assign
from moesim.policy.executors.deferral import deferrable
from moesim.policy.executors.makespan import makespan

__all__ = [
    "CPU",
    "DEFERRED",
    "KINDS",
    "LOADED",
    "NEAR",
    "RESIDENT",
    "Executor",
    "assign",
    "deferrable",
    "makespan",
]
