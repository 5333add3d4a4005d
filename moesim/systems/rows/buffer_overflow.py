"""Buffer Overflow in Mixture of Experts (arXiv:2402.05526): how often a batch changes what a query gets."""

from __future__ import annotations

from dataclasses import replace

from moesim.analysis import displacement
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.systems.traces import routing

FACTOR = Assumption("capacity_factor", 1.25, 1.0, 2.0, "1.25 of GShard's and Switch's usual 1 to 2")
BATCH = Assumption("batch", 16, 4, 64, "queries that are served together")
PROFILE = "mixtral"


def displaced(case: Case, order: str = "arrival") -> float:
    """Part of the queries of which others displace a selection, in any layer of a decode step."""
    trace = routing(case, PROFILE, 9600, 96)
    found = displacement(
        trace, case["capacity_factor"], round(case["batch"]), order=order, max_batches=20, seed=case.seed
    )
    return found.displaced_fraction


def spread(case: Case) -> float:
    """Part of the difference between first and last place of a batch that a random order removes."""
    trace = routing(case, PROFILE, 9600, 96)
    settings = (trace, case["capacity_factor"], round(case["batch"]))
    # One layer: over many, everybody is hit somewhere, and no place is better than another.
    single = replace(trace, topk_ids=trace.topk_ids[:, :1], moe_layer_ids=trace.moe_layer_ids[:1])
    settings = (single, *settings[1:])
    plain = displacement(*settings, max_batches=60, seed=case.seed).by_place
    mixed = displacement(*settings, order="random", max_batches=60, seed=case.seed).by_place
    half = len(plain) // 2
    apart, left = (place[half:].mean() - place[:half].mean() for place in (plain, mixed))
    return float(1.0 - abs(left) / apart) if apart > 0 else 0.0


ROWS = (
    Row(
        "Buffer Overflow",
        "displaced",
        headline("Buffer Overflow"),
        displaced,
        "routing",
        "Gate(capacity)",
        workload="Mixtral-8x7B, decode steps of a batch of queries drawn at random: nobody attacks",
        assumed=(FACTOR, BATCH),
        routing="drawn from the profile mixtral",
        headline=True,
        cause="missing specification",
        reason="the paper claims a direction, that a batch can change an answer; how often is not printed",
        claims=("Buffer Overflow/1",),
    ),
    Row(
        "Buffer Overflow",
        "random-order",
        Figure(
            "part of the advantage of an early place that a random order removes",
            "fraction",
            None,
            baseline="order of arrival",
            source="arXiv:2402.05526",
            locator="mitigations: randomise the order of the batch; qualitative",
            towards=1,
        ),
        spread,
        "routing",
        "Gate(capacity, random order)",
        workload="Mixtral-8x7B, one layer",
        assumed=(FACTOR, BATCH),
        routing="drawn from the profile mixtral",
        cause="missing specification",
        reason="a direction: no number is printed",
    ),
)
