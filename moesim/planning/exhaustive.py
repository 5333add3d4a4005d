"""The cheapest plan by simulating everything: what a search has to find, on spaces small enough to try."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.planning.confirm import MOST_REPLICAS
from moesim.planning.launch import unsupported
from moesim.planning.search import Question
from moesim.planning.types import CONFIRMED, Assessment


def exhaustive(asked: Question) -> Sequence[Assessment]:
    """All plans of the least cost that hold in the simulator.

    Every configuration is simulated with 1, 2, 3, ... times what is rented together, until it holds, the
    budget is spent, or it costs more than what was found. Neither bounds nor the steady state are asked.

    Parameters
    ----------
    asked
        As `moesim.planning.search.question` makes it.

    Returns
    -------
    sequence of Assessment
        Equally cheap; empty if nothing holds.
    """
    tariff, judge, space = asked.tariff, asked.judge, asked.space
    found: list[Assessment] = []
    least = float("inf")
    for shape in asked.shapes:
        if unsupported(shape.candidate(shape.engine, 1)):
            continue
        for engine in shape.settings(space):
            each = shape.per_rental
            room = min(tariff.replicas_within(shape, least, space), MOST_REPLICAS) // each
            for rentals in range(1, room + 1):
                candidate = shape.candidate(engine, rentals * each)
                verdict = judge.verdict(candidate)
                if not verdict.holds:
                    if not verdict.metrics["attainment"] and "ttft_s" not in verdict.metrics:
                        break  # It does not fit, and more of it fit no better.
                    continue
                cost, usd = tariff.cost(candidate), tariff.usd(candidate)
                if cost < least * (1.0 - 1e-12):
                    least, found = cost, []
                found.append(Assessment(candidate, CONFIRMED, "", verdict.metrics, verdict.interval, usd))
                break
    return found
