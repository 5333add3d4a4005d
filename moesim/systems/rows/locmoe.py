"""LocMoE (arXiv:2401.13920): locality, fewer slots, and exchanges beside chunks of the experts' work."""

from __future__ import annotations

from dataclasses import replace

from moesim.overlap import LayerSeconds, busiest_sent, capacity_bounds, schedule_seconds
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row

#: Part of the iteration that is all-to-all, by NPUs (Sec. 1).
SHARES = {128: 0.1810, 256: 0.2874}


def share_at_64() -> float:
    """The share at 64 NPUs, if the ratio of communication to the rest goes on as from 256 to 128.

    >>> round(share_at_64(), 3)
    0.108
    """
    small, large = (SHARES[n] / (1.0 - SHARES[n]) for n in (128, 256))
    ratio = small * small / large
    return ratio / (1.0 + ratio)


SHARE = Assumption(
    "share",
    round(share_at_64(), 3),
    0.10,
    SHARES[128],
    "of all-to-all at 64 NPUs: continued from 256 and 128",
)
CHUNKS = Assumption("chunks", 4, 2, 8, "of the experts' work: not printed")
EXPERTS = Assumption(
    "experts", 0.5, 0.3, 0.7, "part of the computation that experts are: widths are not printed"
)


def reduction(case: Case) -> float:
    """Part of the iteration saved where exchanges run beside chunks of the experts' work."""
    share, compute = case["share"], 1.0 - case["share"]
    layer = LayerSeconds(
        dispatch=share / 2.0,
        combine=share / 2.0,
        experts=case["experts"] * compute,
        before=(1.0 - case["experts"]) * compute,
    )
    return 1.0 - float(schedule_seconds(layer, "tutel", round(case["chunks"])))


def bound(case: Case) -> float:
    """Least slots over an even share of 16 experts, by the bound."""
    return 16.0 * capacity_bounds(16, round(case["width"]), 0.03)[0]


#: Nodes of eight NPUs that 16 experts are spread over.
EXPERTS_HELD = 16
LOCAL = Assumption(
    "local", 0.5, 0.1, 1.0, "part of its tokens that a node with experts keeps: not printed; 1/16 is even"
)
WIDTH = Assumption("width", 4096, 1024, 8192, "of activations: not printed")


def over_hash(case: Case, npus: int) -> float:
    """Speed over HashMoE: the busiest node's exchange shrinks by what it keeps, and there is a gate.

    HashMoE sends tokens evenly and needs no gate, whose product is ``n`` columns to the 8 D of an expert.
    """
    nodes, share = npus // 8, SHARES[npus]
    even = busiest_sent(nodes, EXPERTS_HELD, 0.0)
    kept = busiest_sent(nodes, EXPERTS_HELD, case["local"])
    gate = EXPERTS_HELD / (8.0 * case["width"]) * case["experts"] * (1.0 - share)
    return 1.0 / (1.0 - share + share * kept / even + gate)


def _over_hash(npus: int) -> Row:
    return Row(
        "LocMoE",
        f"over-hash-{npus}",
        Figure(
            f"speed with {npus} NPUs", "x", None, baseline="HashMoE", source="arXiv:2401.13920 (note)",
            locator="epoch bars: HashMoE is ahead", towards=-1,
        ),
        lambda case: over_hash(case, npus),
        "training",
        "Gate(locality)",
        hardware=f"{npus}x Ascend 910A, {npus // 8} nodes",
        workload="PanGu-Sigma, 16 experts; share of all-to-all as published",
        assumed=(LOCAL, EXPERTS, WIDTH),
        reason="bars without numbers; that a loss at 256 NPUs is the gate alone, 0.02 %, is as far as this "
        "model goes: an exchange waits for nodes without experts, which locality does not help",
        cause="missing specification",
    )  # fmt: skip


ROWS = (
    Row(
        "LocMoE",
        "epoch",
        headline("LocMoE"),
        reduction,
        "training",
        "Gate(locality) + Collective(group-wise) + Timeline(chunks)",
        hardware="64x Ascend 910A",
        workload="PanGu-Sigma, 8 MoE layers, EP 16, MP 8, against HashMoE",
        assumed=(SHARE, CHUNKS, EXPERTS),
        headline=True,
        claims=("LocMoE/1",),
        reason="widths, sequence length and rates of links are not printed; the overlap of exchanges is "
        "modelled, the locality of tokens, which shrinks them, is not",
        cause="missing specification",
    ),
    Row(
        "LocMoE",
        "epoch-over-switch",
        claims()["LocMoE/1"].figure("fraction", upper=True),
        None,
        "training",
        "Gate(locality) + Collective(group-wise) + Timeline(chunks)",
        claims=("LocMoE/1",),
        reason="SwitchMoE's capacity factor and losses, against which it is, are not printed",
        cause="missing specification",
    ),
    _over_hash(256),
    Row(
        "LocMoE",
        "capacity",
        replace(claims()["LocMoE/2"].figure("x"), towards=1),
        bound,
        "routing",
        "Gate(capacity from angles)",
        workload="16 experts, cosine 0.03 as measured",
        assumed=(WIDTH,),
        claims=("LocMoE/2",),
        reason="the abstract states that there is a bound; the formula is the paper's",
        cause="missing specification",
    ),
)
