"""Decisions of systems that move experts between memories: small classes without clocks."""

from moesim.policy.executor import KINDS, Executor
from moesim.policy.guesses import Guesses
from moesim.policy.precision import SKIP, Constant, Levels, Precision
from moesim.policy.residency import COLD, LOOKUPS, POOLS, RESETS, RULES, STARTS, Residency
from moesim.policy.selected import Selected
from moesim.policy.slots import (
    AsRouted,
    Batcher,
    Composition,
    Gate,
    Placement,
    Predictor,
    TokenByToken,
    Transfer,
)
from moesim.policy.split import Overlap, overlap, require_disjoint, split, taken
from moesim.policy.steps import MIXED, Steps, token_steps

__all__ = [
    "COLD",
    "KINDS",
    "LOOKUPS",
    "MIXED",
    "POOLS",
    "RESETS",
    "RULES",
    "SKIP",
    "STARTS",
    "AsRouted",
    "Batcher",
    "Composition",
    "Constant",
    "Executor",
    "Gate",
    "Guesses",
    "Levels",
    "Overlap",
    "Placement",
    "Precision",
    "Predictor",
    "Residency",
    "Selected",
    "Steps",
    "TokenByToken",
    "Transfer",
    "overlap",
    "require_disjoint",
    "split",
    "taken",
    "token_steps",
]
