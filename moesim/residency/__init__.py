"""Caches of experts: replay of traces through them, one policy or all capacities at once."""

from moesim.residency.consistency import Consistency, consistency
from moesim.residency.curves import Curve, curve
from moesim.residency.replay import Replayed, replay

__all__ = ["Consistency", "Curve", "Replayed", "consistency", "curve", "replay"]
