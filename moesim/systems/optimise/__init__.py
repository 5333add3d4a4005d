"""Advice: the best composition of slots for a trace, a model and a box, and what each slot brings."""

from moesim.systems.optimise.advice import Advice, optimise
from moesim.systems.optimise.describe import SLOTS, described
from moesim.systems.optimise.options import Option, options_of
from moesim.systems.optimise.scoring import OBJECTIVES, Scored, Scorer
from moesim.systems.optimise.search import Found, search

__all__ = [
    "OBJECTIVES",
    "SLOTS",
    "Advice",
    "Found",
    "Option",
    "Scored",
    "Scorer",
    "described",
    "optimise",
    "options_of",
    "search",
]
