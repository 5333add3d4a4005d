"""Fiddler (arXiv:2402.07033): popular experts stay on the GPU, the others run where they take less."""

from __future__ import annotations

import numpy as np

from moesim.systems.headlines import headline
from moesim.systems.row import Case, Figure, Row
from moesim.systems.traces import halves, routing
from moesim.trace.types import count_ids

SOURCE = "arXiv:2402.07033 Fiddler (note)"
SLOTS = "Placement(popular) + Executor(cheapest)"
EXPERTS = 256
ROUTING = "drawn from the profile mixtral: loads of three layers are measured, on other text than the paper's"


def hit_percent(case: Case, resident: int, order: str = "popular") -> float:
    """Accesses whose expert is on the GPU, in percent, where popularity comes from other requests.

    Parameters
    ----------
    resident
        Of the 256 experts of Mixtral-8x7B.
    order
        ``popular`` keeps the most popular ones, ``worst`` the least popular, ``random`` any.
    """
    train, rest = halves(routing(case, "mixtral"), case.seed)
    learnt = count_ids(train.topk_ids, train.num_experts).ravel()
    asked = count_ids(rest.topk_ids, rest.num_experts).ravel()
    kept = round(resident * len(asked) / EXPERTS)
    if order == "random":
        return 100.0 * kept / len(asked)
    ranked = np.argsort(-learnt if order == "popular" else learnt, kind="stable")[:kept]
    return 100.0 * float(asked[ranked].sum() / asked.sum())


def _row(name: str, value: float, resident: int, order: str, locator: str) -> Row:
    return Row(
        "Fiddler",
        name,
        Figure("GPU expert hit rate", "%", value, grade="S", source=SOURCE, locator=locator),
        lambda case: hit_percent(case, resident, order),
        "cpu-gpu",
        SLOTS,
        hardware="any: hits do not depend on it",
        workload=f"Mixtral-8x7B, {resident} of 256 experts on the GPU, the {order} ones",
        routing=ROUTING,
    )


ROWS = (
    Row(
        "Fiddler",
        "hits-56",
        headline("Fiddler"),
        lambda case: hit_percent(case, 56),
        "cpu-gpu",
        SLOTS,
        hardware="any: hits do not depend on it",
        workload="Mixtral-8x7B, the 56 most popular of 256 experts on the GPU",
        routing=ROUTING,
        headline=True,
    ),
    _row("hits-125", 53.0, 125, "popular", "hit-rate table: 125 of 256"),
    _row("hits-56-random", 21.9, 56, "random", "hit-rate table: random, 56 of 256"),
    _row("hits-56-worst", 18.7, 56, "worst", "hit-rate table: worst, 56 of 256"),
)
