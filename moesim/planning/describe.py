"""Candidates of a plan in words."""

from __future__ import annotations

from moesim.layout import Disaggregated, Parallelism
from moesim.planning.types import Candidate


def describe(candidate: Candidate) -> str:
    """A candidate's layout in words.

    Replicas, degrees, data types where they are not the checkpoint's, spare experts.
    """
    engine = candidate.engine
    parts = [f"{candidate.replicas} x ({degrees(candidate.layout)})"]
    if engine.dtype != "auto":
        parts.append(f"{engine.dtype} weights")
    if engine.kv_cache_dtype != "auto":
        parts.append(f"{engine.kv_cache_dtype} cache")
    if candidate.redundant:
        parts.append(f"{candidate.redundant} spare experts")
    return ", ".join(parts)


def degrees(layout: Parallelism | Disaggregated) -> str:
    """Degrees of parallelism, those above 1."""
    if isinstance(layout, Parallelism):
        named = {"tp": layout.tp, "pp": layout.pp, "dp": layout.dp, "ep": layout.ep}
        return " ".join(f"{name}={n}" for name, n in named.items() if n > 1) or "tp=1"
    pools = (("prefill", layout.prefill), ("decode", layout.decode))
    return " + ".join(f"{pool.count} {role} {degrees(pool.layout)}" for role, pool in pools)
