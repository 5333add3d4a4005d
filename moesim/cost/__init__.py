"""How long work takes: pure functions from arrays to seconds."""

from moesim.cost.collectives import all_to_all_seconds, collective_seconds, message_seconds
from moesim.cost.even_traffic import (
    EvenTraffic,
    direct_traffic,
    hit_parts,
    hit_parts_limited,
    two_level_traffic,
)
from moesim.cost.exchange import (
    HIGH_THROUGHPUT,
    LOW_LATENCY,
    exchange_of,
    exchange_seconds,
    one_way_seconds,
)
from moesim.cost.expert_gemm import ExpertShape, expert_times
from moesim.cost.roofline import Choice, OpTimes, Rates, Times, op_times, peak_flops_per_s, peak_of

__all__ = [
    "HIGH_THROUGHPUT",
    "LOW_LATENCY",
    "Choice",
    "EvenTraffic",
    "ExpertShape",
    "OpTimes",
    "Rates",
    "Times",
    "all_to_all_seconds",
    "collective_seconds",
    "direct_traffic",
    "exchange_of",
    "exchange_seconds",
    "expert_times",
    "hit_parts",
    "hit_parts_limited",
    "message_seconds",
    "one_way_seconds",
    "op_times",
    "peak_flops_per_s",
    "peak_of",
    "two_level_traffic",
]
