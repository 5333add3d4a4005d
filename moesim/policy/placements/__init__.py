"""Placements: how many slots each layer has, and which experts are resident at first."""

from moesim.policy.placements.allocate import allocate, expected_misses, greedy
from moesim.policy.placements.coverage import popular_coverage
from moesim.policy.placements.quotas import AdapMoEQuota, DemandQuota, MeasuredQuota
from moesim.policy.placements.ranked import FrontLoading, Popular, Random, Ranked, RoundRobin, WholeLayers

__all__ = [
    "AdapMoEQuota",
    "DemandQuota",
    "FrontLoading",
    "MeasuredQuota",
    "Popular",
    "Random",
    "Ranked",
    "RoundRobin",
    "WholeLayers",
    "allocate",
    "expected_misses",
    "greedy",
    "popular_coverage",
]
