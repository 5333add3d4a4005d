"""How long work takes: pure functions from arrays to seconds."""

from moesim.cost.collectives import all_to_all_seconds, collective_seconds, message_seconds
from moesim.cost.energy import (
    Part,
    Spent,
    compute_energy,
    idle_energy,
    link_energy,
    memory_energy,
    op_energy,
    total,
)
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
from moesim.cost.near import SplitTimes, alone, choose, kv_memory_of, split_expert_times
from moesim.cost.roofline import (
    Choice,
    OpTimes,
    Rates,
    Times,
    bandwidth_together,
    near_processor,
    op_times,
    peak_flops_per_s,
    peak_of,
    peak_together,
)

__all__ = [
    "HIGH_THROUGHPUT",
    "LOW_LATENCY",
    "Choice",
    "EvenTraffic",
    "ExpertShape",
    "OpTimes",
    "Part",
    "Rates",
    "Spent",
    "SplitTimes",
    "Times",
    "all_to_all_seconds",
    "alone",
    "bandwidth_together",
    "choose",
    "collective_seconds",
    "compute_energy",
    "direct_traffic",
    "exchange_of",
    "exchange_seconds",
    "expert_times",
    "hit_parts",
    "hit_parts_limited",
    "idle_energy",
    "kv_memory_of",
    "link_energy",
    "memory_energy",
    "message_seconds",
    "near_processor",
    "one_way_seconds",
    "op_energy",
    "op_times",
    "peak_flops_per_s",
    "peak_of",
    "peak_together",
    "split_expert_times",
    "total",
    "two_level_traffic",
]
