"""How long work takes: pure functions from arrays to seconds."""

from moesim.cost.collectives import all_to_all_seconds, collective_seconds, message_seconds
from moesim.cost.expert_gemm import ExpertShape, expert_times
from moesim.cost.roofline import Choice, OpTimes, Rates, Times, op_times, peak_flops_per_s, peak_of

__all__ = [
    "Choice",
    "ExpertShape",
    "OpTimes",
    "Rates",
    "Times",
    "all_to_all_seconds",
    "collective_seconds",
    "expert_times",
    "message_seconds",
    "op_times",
    "peak_flops_per_s",
    "peak_of",
]
