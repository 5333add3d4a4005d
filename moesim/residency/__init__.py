"""Caches of experts: replay of traces through them, one policy or all capacities at once."""

from moesim.residency.curves import Curve, curve
from moesim.residency.replay import Replayed, replay

__all__ = ["Curve", "Replayed", "curve", "replay"]
