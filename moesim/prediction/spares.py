"""Redundant experts as engines place them without a plan: in order, after one of each."""

from __future__ import annotations

from functools import lru_cache

from moesim.errors import Fault
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model


def spare_faults(model: Model, layout: Parallelism, redundant: int) -> list[Fault]:
    """What keeps a model from having so many redundant experts.

    >>> from moesim.model import load_model
    >>> [str(f) for f in spare_faults(load_model("mixtral-8x7b"), Parallelism(dp=2, ep=2), 9)]
    ['--redundant: no expert goes twice on a rank (got 9); allowed: 0 to 8 with this --ep']
    """
    if redundant and not model.moe:
        return [Fault(f"{model.name} has no experts to place", "--model")]
    if model.moe and redundant > (most := max(0, model.num_experts * (layout.ep - 1))):
        allowed = f"0 to {most} with this --ep" if most else "0 with this --ep"
        return [Fault("no expert goes twice on a rank", "--redundant", redundant, allowed)]
    return []


def with_spares(model: Model, layout: Parallelism, redundant: int) -> ExpertMap | None:
    """The placement with so many redundant experts; None without any. Equal questions get the same object."""
    if not redundant:
        return None
    return _contiguous(len(model.moe_layer_ids), model.num_experts, layout.ep, redundant)


@lru_cache(maxsize=64)
def _contiguous(layers: int, num_experts: int, ranks: int, redundant: int) -> ExpertMap:
    return ExpertMap.contiguous(layers, num_experts, ranks, redundant)
