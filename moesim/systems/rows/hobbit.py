"""HOBBIT (arXiv:2411.01433): missed experts in the precision that their rank deserves."""

from __future__ import annotations

from moesim.policy import Composition, Transfer
from moesim.policy.precisions import RankedPrecision
from moesim.policy.predictors import NextGate, NoisyOracle
from moesim.systems.headlines import headline
from moesim.systems.replays import LINK, LRU, MIXTRAL, TOKENS, box_of, infinity, shaped, tpot_s, with_weights
from moesim.systems.row import Case, Figure, Row

PHI = "designed for the shape, with traits of real models; router weights drawn"
HOBBIT = "arXiv:2411.01433"
GUESSED = NoisyOracle(0.866, 0.866, 3, 0.95)


def hobbit(
    case: Case, box_name: str, model: str, profile: str, bits: tuple[float, float], against: str
) -> float:
    """Time per token of another system over HOBBIT's, both with as much memory."""
    trace = with_weights(shaped(case, profile, model, TOKENS), seed=case.seed)
    box = box_of(
        box_name,
        model,
        dtype="auto" if bits[0] == 16 else "int8",
        expert_dtypes=(bits[0],),
        backing="storage" if "orin" in box_name else "host",
        link=case["link"],
    )
    if against == "MoE-Infinity":
        other = infinity(trace.num_experts, trace.topk_ids.shape[1])
    else:
        other = Composition(residency=LRU, predictor=NextGate(2), transfer=Transfer(width=2))
    system = Composition(
        residency=LRU,
        predictor=GUESSED,
        transfer=Transfer(width=2, distance=3, order="near"),
        precision=RankedPrecision(bits),
    )
    return tpot_s(case, other, trace, box) / tpot_s(case, system, trace, box)


def _hobbit_row(
    name: str,
    value: float,
    box: str,
    model: str,
    bits: tuple[float, float],
    against: str,
    first: bool = False,
) -> Row:
    profile = "mixtral" if model == "mixtral-8x7b" else ""
    figure = Figure(
        "decode speedup", "x", value, baseline=against, source=HOBBIT, locator="Sec 5.2, 5.4; Fig 14-15"
    )
    return Row(
        "HOBBIT",
        name,
        headline("HOBBIT") if first else figure,
        lambda case: hobbit(case, box, model, profile, bits, against),
        "storage" if "orin" in box else "offload",
        "Precision(by rank) + Residency(layer) + Predictor(stacked gates)",
        hardware=box,
        workload=f"{model}, {bits[0]:g} and {bits[1]:g} bits, batch 1",
        assumed=(LINK,),
        routing=MIXTRAL if profile else PHI,
        headline=first,
        claims=("HOBBIT/1",) if first else (),
        cause="disagreement",
        reason="the baselines are other programs, on a device they were not made for: here all systems have "
        "the same kernels and links, so that only fewer bytes are left as a gain",
    )


ORIN, DESK = "jetson-agx-orin-32gb", "rtx-4090-64core"
ROWS = (
    _hobbit_row("orin-phi-infinity", 9.93, ORIN, "phi-3.5-moe", (8, 2), "MoE-Infinity", True),
    _hobbit_row("orin-mixtral-infinity", 3.64, ORIN, "mixtral-8x7b", (8, 2), "MoE-Infinity"),
    _hobbit_row("4090-mixtral-offloading", 3.21, DESK, "mixtral-8x7b", (16, 4), "MoE-Offloading"),
    _hobbit_row("4090-mixtral-infinity", 2.3, DESK, "mixtral-8x7b", (16, 4), "MoE-Infinity"),
    _hobbit_row("4090-phi-offloading", 3.29, DESK, "phi-3.5-moe", (16, 4), "MoE-Offloading"),
    _hobbit_row("4090-phi-infinity", 3.92, DESK, "phi-3.5-moe", (16, 4), "MoE-Infinity"),
)
