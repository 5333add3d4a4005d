"""Supernodes: prefill, decode and cache pools on one fabric; and models that several memories hold."""

from moesim.supernode.cache import Reuse, load_seconds, service_rate, with_reuse
from moesim.supernode.composition import Tiers, batch_s, hit_share
from moesim.supernode.decode import DIES, decode_instance
from moesim.supernode.edge import Servers, choose, choose_all
from moesim.supernode.on_chip import OnChip, chips_for, on_chips
from moesim.supernode.pools import Pool, Split, best_split
from moesim.supernode.prefill import PrefillTimes, prefill_times, resharding_s
from moesim.supernode.spread import spread_plan, spread_shared, spread_source

__all__ = [
    "DIES",
    "OnChip",
    "Pool",
    "PrefillTimes",
    "Reuse",
    "Servers",
    "Split",
    "Tiers",
    "batch_s",
    "best_split",
    "chips_for",
    "choose",
    "choose_all",
    "decode_instance",
    "hit_share",
    "load_seconds",
    "on_chips",
    "prefill_times",
    "resharding_s",
    "service_rate",
    "spread_plan",
    "spread_shared",
    "spread_source",
    "with_reuse",
]
