"""MoE-Infinity (arXiv:2401.14361): what a request has activated so far tells what it will."""

from __future__ import annotations

from moesim.policy import Composition, Residency
from moesim.systems.headlines import claims, headline
from moesim.systems.replays import LINK, LRU, MIXTRAL, TOKENS, box_of, everything, infinity, shaped, tpot_s
from moesim.systems.row import Case, Figure, Row

INFINITY = "arXiv:2401.14361"


#: What the released code does: guesses are off by default, and counts outlive evictions.
INFINITY_CODE = Composition(
    residency=Residency("lfu", pool="global", lookup="token_batch", parameters={"keep": 1.0})
)


def infinity_s(case: Case, model: str, profile: str) -> float:
    """Seconds per token of MoE-Infinity's code on an A5000."""
    trace = shaped(case, profile, model, TOKENS)
    box = box_of("a5000-epyc-256gb", model, link=case["link"])
    return tpot_s(case, INFINITY_CODE, trace, box)


def infinity_gain(case: Case, model: str = "mixtral-8x7b", profile: str = "mixtral") -> float:
    """Time per token when whole layers are fetched over that of MoE-Infinity."""
    trace = shaped(case, profile, model, TOKENS)
    box = box_of("a5000-epyc-256gb", model, link=case["link"])
    whole = tpot_s(case, Composition(residency=LRU), everything(trace), box, trace.num_experts)
    return whole / tpot_s(case, infinity(trace.num_experts, trace.topk_ids.shape[1]), trace, box)


def _row(name: str, seconds: float, model: str, profile: str, source: str, locator: str) -> Row:
    return Row(
        "MoE-Infinity",
        name,
        Figure("time per output token", "s", seconds, source=source, locator=locator),
        lambda case: infinity_s(case, model, profile),
        "offload",
        "Residency(global, lfu)",
        hardware="a5000-epyc-256gb",
        workload=f"{model} in 16 bits, batch 1",
        assumed=(LINK,),
        routing=f"drawn from the profile {profile}",
        variant="code",
        cause="disagreement",
        reason="copies and kernels alone are here; on a small model what its Python does beside them is most",
    )


README = "github:EfficientMoE/MoE-Infinity README"
ROWS = (
    Row(
        "MoE-Infinity",
        "latency",
        headline("MoE-Infinity"),
        infinity_gain,
        "offload",
        "Predictor(activation matrices) + Residency(global, lfu) + Transfer(all layers)",
        hardware="a5000-epyc-256gb",
        workload="Mixtral-8x7B in 16 bits, batch 1, against whole layers fetched as DeepSpeed does",
        assumed=(LINK,),
        routing=MIXTRAL,
        headline=True,
        claims=("MoE-Infinity/1",),
        cause="missing specification",
        reason="the first version's cluster and baselines are not described in what is held",
    ),
    _row("tpot-mixtral", 0.735, "mixtral-8x7b", "mixtral", README, "legacy comparison"),
    _row("tpot-mixtral-paper", 0.836, "mixtral-8x7b", "mixtral", INFINITY, "Sec 5.1 Fig 7"),
    Row(
        "MoE-Infinity",
        "deployment-cost",
        claims()["MoE-Infinity/2"].figure(locator="abstract (first version)"),
        None,
        "offload",
        "Predictor(activation matrices) + Residency(global, lfu) + Transfer(all layers)",
        cause="missing specification",
        reason="which cluster the cost is compared with is not described in what is held",
        claims=("MoE-Infinity/2",),
    ),
    _row("tpot-v2-lite", 0.155, "deepseek-v2-lite", "deepseek-v2-lite", INFINITY, "Table 1"),
)
