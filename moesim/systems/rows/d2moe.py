"""D2MoE (arXiv:2504.15299): nested widths, so that an expert is loaded only as wide as it is needed."""

from __future__ import annotations

from moesim.policy import Composition, Constant, Residency
from moesim.policy.precisions import Nested
from moesim.systems.headlines import headline
from moesim.systems.replays import MIXTRAL, box_of, mixtral, tpot_s
from moesim.systems.row import Assumption, Case, Row

CACHE = Assumption(
    "cache_bytes", 3e9, 1.5e9, 4e9, "of GPU memory for experts; the paper's budgets vary with the model"
)


def d2moe(case: Case) -> float:
    """Time per token with 4 bits for every expert over that with nested widths of 2 to 4 bits."""
    trace = mixtral(case)
    box = box_of(
        "rtx-3060-laptop", "mixtral-8x7b", dtype="int4", backing="storage", gpu_bytes=case["cache_bytes"]
    )
    plain = Composition(
        residency=Residency("lru", pool="global", lookup="token_batch"), precision=Constant(4.25)
    )
    nested = Composition(residency=plain.residency, precision=Nested())
    return tpot_s(case, plain, trace, box) / tpot_s(case, nested, trace, box)


ROWS = (
    Row(
        "D2MoE",
        "throughput",
        headline("D2MoE"),
        d2moe,
        "storage",
        "Precision(nested, by router) + Residency(global, lru)",
        hardware="rtx-3060-laptop",
        workload="Mixtral-8x7B, batch 1, against 4 bits for every expert",
        assumed=(CACHE,),
        routing=MIXTRAL,
        headline=True,
        claims=("D2MoE/1",),
        cause="our limit",
        reason="the order of loads over up to 32 requests, the other half of the system, is left out",
    ),
)
