"""AdapMoE (arXiv:2408.10284): fewer experts where they matter little, guesses, and slots by layer.

The paper prints the time per token of its baseline, which is an input: the host's share per kernel is set so
that the baseline takes as long, and only what the system changes is computed.
"""

from __future__ import annotations

import numpy as np

from moesim.policy import Composition, Transfer
from moesim.policy.gates import AdapMoE
from moesim.policy.predictors import NextGate
from moesim.policy.slots import AsRouted
from moesim.systems.headlines import headline
from moesim.systems.replays import LINK, LRU, MIXTRAL, box_of, launch_for, mixtral, tpot_s
from moesim.systems.row import Case, Figure, Row
from moesim.trace.types import RoutingTrace

ADAPMOE = "arXiv:2408.10284 (note)"
#: Seconds per token of its baseline, printed.
ADAPMOE_BASE_S = 0.392
#: 4 bits and an 8-bit scale and zero per group of 64 (HQQ, g64).
HQQ_4 = 4 + 16 / 64
#: Part of the activated experts that its gate leaves out, printed.
SKIPPED = 0.25


def _threshold(trace: RoutingTrace) -> float:
    """T of the gate with which the stated part of the experts is skipped."""
    low, high = 1e-6, 1.0
    for _ in range(20):
        middle = float(np.sqrt(low * high))
        kept = AdapMoE(threshold=middle).select(trace).kept
        share = 1.0 if kept is None else float(kept.mean())
        low, high = (middle, high) if share > 1 - SKIPPED else (low, middle)
    return float(np.sqrt(low * high))


def adapmoe(case: Case, gate: bool = True, prefetch: bool = True) -> float:
    """Baseline's time per token over that with the gate, the guesses, or both."""
    trace = mixtral(case)

    def seconds(composition: Composition, launch_s: float) -> float:
        box = box_of(
            "rtx-4090-64core",
            "mixtral-8x7b",
            dtype="int4",
            expert_dtypes=(HQQ_4,),
            launch_s=launch_s,
            link=case["link"],
        )
        return tpot_s(case, composition, trace, box, 128)

    plain = Composition(residency=LRU)
    launch_s = launch_for(ADAPMOE_BASE_S, lambda launch: seconds(plain, launch))
    system = Composition(
        residency=LRU,
        predictor=NextGate(2) if prefetch else None,
        transfer=Transfer(width=2 if prefetch else 0),
        gate=AdapMoE(threshold=_threshold(trace)) if gate else AsRouted(),
    )
    return seconds(plain, launch_s) / seconds(system, launch_s)


def _adapmoe_row(name: str, value: float, gate: bool, prefetch: bool) -> Row:
    figure = Figure(
        "speedup",
        "x",
        value,
        baseline="Mixtral-Offloading",
        grade="S",
        source=ADAPMOE,
        locator="ablation",
    )
    return Row(
        "AdapMoE",
        name,
        headline("AdapMoE") if gate and prefetch else figure,
        lambda case: adapmoe(case, gate, prefetch),
        "offload",
        "Gate(sensitivity) + Residency(layer, lru) + Predictor(next gate)",
        hardware="rtx-4090-64core",
        workload="Mixtral-8x7B in 4 bits, 128 of 256 experts cached, batch 1; the baseline's 0.392 s per "
        "token and the 25 % of experts that are skipped are inputs",
        assumed=(LINK,),
        routing=MIXTRAL,
        headline=gate and prefetch,
        claims=("AdapMoE/1",) if gate and prefetch else (),
        cause="missing specification",
        reason="the baseline is slow for what its copies take (0.392 s per token); what else it does is "
        "not stated",
    )


ROWS = (
    _adapmoe_row("speedup", 1.35, True, True),
    _adapmoe_row("gate-alone", 1.25, True, False),
    _adapmoe_row("prefetch-alone", 1.22, False, True),
)
