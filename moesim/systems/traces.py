"""Routing for rows that replay: the user's trace, or one drawn from the profile of the row's model."""

from __future__ import annotations

import functools

from moesim.policy import split
from moesim.synthesis import generate, load_profile
from moesim.systems.row import Case
from moesim.trace.types import RoutingTrace


@functools.lru_cache(maxsize=8)
def synthetic(profile: str, tokens: int, requests: int, phase: str | None, seed: int) -> RoutingTrace:
    """Routing from one of the profiles in ``traces/profiles``: its README says what of it is measured."""
    return generate(load_profile(profile), tokens, requests, phase, seed)


def routing(
    case: Case, profile: str, tokens: int = 8000, requests: int = 40, phase: str | None = None
) -> RoutingTrace:
    """The trace that was given, or one of the profile."""
    return case.trace if case.trace is not None else synthetic(profile, tokens, requests, phase, case.seed)


def halves(trace: RoutingTrace, seed: int = 0) -> tuple[RoutingTrace, RoutingTrace]:
    """Two halves that share no request: what tables are learnt from, and what is replayed."""
    return split(trace, 0.5, seed)
