"""Precisions: HOBBIT's by rank, D2MoE's nested widths, and bits per expert for good."""

from moesim.policy.precisions.hebf import hebf
from moesim.policy.precisions.nested import Nested
from moesim.policy.precisions.ranked import RankedPrecision
from moesim.policy.precisions.static import StaticBits, allot_bits

__all__ = ["Nested", "RankedPrecision", "StaticBits", "allot_bits", "hebf"]
