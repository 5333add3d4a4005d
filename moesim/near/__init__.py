"""Processors beside a memory: PIM and near-data systems stage by stage (layer 6)."""

from moesim.near.dram import HBM3, RowTiming, refresh_efficiency, row_efficiency
from moesim.near.duplex import MODES, Experts, Stages, System, expert_layer, stages
from moesim.near.energy import joules
from moesim.near.experts import Prefix, expert_seconds, prefix_split
from moesim.near.monde import Box, draw, hot_experts, layer_seconds, moved_bytes, split_seconds
from moesim.near.routed import (
    DuplexGains,
    MondeGains,
    decode_batches,
    duplex_gains,
    monde_gains,
    prefill_batches,
)
from moesim.near.traffic import Mix, Traffic

__all__ = [
    "HBM3",
    "MODES",
    "Box",
    "DuplexGains",
    "Experts",
    "Mix",
    "MondeGains",
    "Prefix",
    "RowTiming",
    "Stages",
    "System",
    "Traffic",
    "decode_batches",
    "draw",
    "duplex_gains",
    "expert_layer",
    "expert_seconds",
    "hot_experts",
    "joules",
    "layer_seconds",
    "monde_gains",
    "moved_bytes",
    "prefill_batches",
    "prefix_split",
    "refresh_efficiency",
    "row_efficiency",
    "split_seconds",
    "stages",
]
