"""fMoE, later FineMoE (arXiv:2502.05370): maps of gate probabilities tell what comes some layers later."""

from __future__ import annotations

import numpy as np

from moesim.policy import Composition, Residency, Transfer
from moesim.policy.predictors import ExpertMaps, NextGate
from moesim.systems.headlines import claims, headline
from moesim.systems.replays import LINK, LRU, MIXTRAL, box_of, everything, infinity, mixtral, tpot_s
from moesim.systems.row import Assumption, Case, Figure, Row

#: Bytes of the expert cache of the paper's second version.
FMOE_BYTES = 6e9


def fmoe_saved(case: Case, against: tuple[str, ...]) -> float:
    """Part of the time per token that is saved, mean over some systems with as much memory."""
    trace = mixtral(case)
    layers, experts = trace.topk_ids.shape[1], trace.num_experts
    box = box_of("rtx-3090-6-threadripper", "mixtral-8x7b", link=case["link"], gpu_bytes=FMOE_BYTES)
    distance = min(round(case["distance"]), layers - 1)
    system = tpot_s(
        case,
        Composition(
            residency=Residency("p-freq", pool="global", lookup="token_batch"),
            predictor=ExpertMaps(experts, distance, distance, "paper"),
            transfer=Transfer(width=experts, distance=distance, order="score"),
        ),
        trace,
        box,
    )
    others = {
        "MoE-Infinity": lambda: tpot_s(case, infinity(experts, layers), trace, box),
        "Mixtral-Offloading": lambda: tpot_s(
            case,
            Composition(residency=LRU, predictor=NextGate(2), transfer=Transfer(width=2)),
            trace,
            box,
            max(box.slots // layers, 1) * layers if box.slots >= layers else box.slots,
        ),
        "DeepSpeed": lambda: tpot_s(case, Composition(residency=LRU), everything(trace), box, 0),
    }
    return float(np.mean([1 - system / others[name]() for name in against]))


DISTANCE = Assumption("distance", 3, 1, 6, "layers ahead; 6 in the released demo for a model of 24 layers")


def _fmoe_row(name: str, value: float, against: tuple[str, ...], locator: str, first: bool = False) -> Row:
    figure = Figure(
        "TPOT reduction",
        "fraction",
        value,
        baseline=", ".join(against),
        grade="S",
        source="arXiv:2502.05370",
        locator=locator,
    )
    return Row(
        "fMoE",
        name,
        headline("fMoE") if first else figure,
        lambda case: fmoe_saved(case, against),
        "offload",
        "Predictor(expert maps) + Residency(global, p x frequency) + Transfer(score)",
        hardware="rtx-3090-6-threadripper, one GPU",
        workload="Mixtral-8x7B in 16 bits, batch 1, 6 GB of experts; mean over " + ", ".join(against),
        assumed=(LINK, DISTANCE),
        routing=MIXTRAL,
        headline=first,
        claims=("fMoE/1",) if first else (),
        cause="missing specification",
        reason="with 17 of 256 experts in memory nearly every expert is copied whoever guesses; how the "
        "baselines were slowed is not stated",
    )


ROWS = (
    _fmoe_row("latency", 0.47, ("DeepSpeed", "Mixtral-Offloading", "MoE-Infinity"), "", first=True),
    Row(
        "fMoE",
        "hit-rate",
        claims()["fMoE/2"].figure("fraction", locator="abstract (first version)"),
        None,
        "offload",
        "Predictor(expert maps) + Residency(global, p x frequency) + Transfer(score)",
        cause="missing specification",
        reason="the cache and the baseline of the first version's figure are not described in what is held",
        claims=("fMoE/2",),
    ),
    _fmoe_row("tpot-deepspeed", 0.36, ("DeepSpeed",), "6 GB GPU cache point"),
    _fmoe_row("tpot-mixtral-offloading", 0.25, ("Mixtral-Offloading",), "6 GB GPU cache point"),
    _fmoe_row("tpot-infinity", 0.29, ("MoE-Infinity",), "6 GB GPU cache point"),
)
