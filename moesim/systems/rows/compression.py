"""Compressed experts: QMoE, MC-MoE, Collaborative Compression. Sizes are counted, not measured."""

from __future__ import annotations

from moesim.model import load_model, params
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.systems.ternary import bits_per_weight, entropy_bits

BF16_BITS = 16.0
#: Switch-c2048: 15 encoder and 15 decoder layers, every feed-forward block a MoE of 2048 experts
#: 2080 -> 6144 -> 2080 (QMoE's kernel shapes; Switch Transformers, table 9).
C2048_EXPERTS = 30 * 2048 * 2 * 2080 * 6144
C2048_PARAMS = 1.571e12

QMOE = "arXiv:2310.16795 (note)"
ZEROS = Assumption(
    "zeros", 0.885, 0.865, 0.905, "0.885 is what the paper measured on average for c2048; layers differ"
)


def qmoe_experts(case: Case) -> float:
    """Times smaller: the experts alone."""
    return BF16_BITS / bits_per_weight(case["zeros"])


def qmoe_whole(case: Case) -> float:
    """Times smaller: everything, with what is not an expert left in 16 bits."""
    rest = C2048_PARAMS - C2048_EXPERTS
    return C2048_PARAMS / (C2048_EXPERTS / qmoe_experts(case) + rest)


def qmoe_bytes(case: Case) -> float:
    """GB of Switch-c2048."""
    return 2 * C2048_PARAMS / qmoe_whole(case) / 1e9


def _switch_bytes(name: str, experts: float) -> float:
    """GB of a Switch Transformer whose experts are that many times smaller, the rest in 16 bits."""
    count = params(load_model(name))
    return 2 * (count.experts / experts + count.total - count.experts) / 1e9


def _mixed_bits(expert: float, other: float) -> float:
    """Mean bits of Mixtral-8x7B's weights."""
    count = params(load_model("mixtral-8x7b"))
    return (count.experts * expert + (count.total - count.experts) * other) / count.total


def mc_moe_saved(case: Case) -> float:
    """Part of the bytes saved at 2.54 bits, scales and zeros of the groups counted."""
    return 1.0 - (2.54 + case["group_bits"]) / BF16_BITS


#: ``--prune-expert 64`` of 256: README of Bobchenyx/DeepSeek-V3-tflsxyy, a repository of its authors.
PRUNED = 64 / 256


def collaborative(case: Case) -> float:
    """GB of DeepSeek-V3: experts that are kept in IQ1_M, everything else in larger types."""
    count = params(load_model("deepseek-v3"))
    kept = (1.0 - PRUNED) * count.experts * case["expert_bits"]
    return (kept + (count.total - count.experts) * case["other_bits"]) / 8e9


GROUPS = Assumption(
    "group_bits",
    0.25,
    0.0,
    1.25,
    "16-bit scale and zero per group of 128 weights (GPTQ); none if not counted; groups of 32 and padding "
    "of 3-bit weights at most",
)

ROWS = (
    Row(
        "QMoE",
        "compression",
        headline("QMoE"),
        qmoe_whole,
        "compression",
        "Precision(constant, ternary dictionary)",
        workload="Switch-c2048, 1571 B parameters",
        assumed=(ZEROS,),
        headline=True,
        claims=("QMoE/1",),
        reason="the code is built from its description and its rate computed for independent weights; real "
        "rows are a little less regular and are padded",
    ),
    Row(
        "QMoE",
        "overhead",
        claims()["QMoE/2"].figure("fraction"),
        None,
        "compression",
        "Precision(constant, ternary dictionary)",
        workload="Switch-c2048 on 4 A6000 or 8 RTX 3090, batch 1, prompts of C4, 128 tokens",
        cause="our limit",
        reason="the gain of its kernel over cuBLAS and the loss of an encoder that works token by token "
        "cancel to a few per cent; neither kernel is modelled",
        claims=("QMoE/2",),
    ),
    Row(
        "QMoE",
        "entropy-limit",
        Figure("compression that no code can pass", "x", 25.40, source=QMOE, locator="p0 = 0.885", grade="S"),
        lambda case: BF16_BITS / entropy_bits(case["zeros"]),
        "compression",
        "Precision(constant, ternary dictionary)",
        assumed=(ZEROS,),
    ),
    Row(
        "QMoE",
        "experts-c2048",
        Figure("compression of the experts", "x", 20.07, source=QMOE, locator="table of sizes", grade="S"),
        qmoe_experts,
        "compression",
        "Precision(constant, ternary dictionary)",
        assumed=(ZEROS,),
    ),
    Row(
        "QMoE",
        "size-c2048",
        Figure("compressed size", "GB", 158.6, source=QMOE, locator="table of sizes", grade="S"),
        qmoe_bytes,
        "compression",
        "Precision(constant, ternary dictionary)",
        assumed=(ZEROS,),
    ),
    Row(
        "QMoE",
        "size-switch-base-128",
        Figure("compressed size", "GB", 1.27, source=QMOE, locator="table of sizes", grade="S"),
        lambda _: _switch_bytes("switch-base-128", 17.06),
        "compression",
        "Precision(constant, ternary dictionary)",
        workload="experts 17.06x smaller, as printed",
    ),
    Row(
        "QMoE",
        "size-switch-large-128",
        Figure("compressed size", "GB", 3.96, source=QMOE, locator="table of sizes", grade="S"),
        lambda _: _switch_bytes("switch-large-128", 18.34),
        "compression",
        "Precision(constant, ternary dictionary)",
        workload="experts 18.34x smaller, as printed",
    ),
    Row(
        "MC-MoE",
        "compression",
        headline("MC-MoE"),
        mc_moe_saved,
        "compression",
        "Precision(per expert by ILP)",
        workload="Mixtral-8x7B at 2.54 bits",
        assumed=(GROUPS,),
        headline=True,
        claims=("MC-MoE/1",),
        cause="missing specification",
        reason="2.54 of 16 bits save 84.1 %; what the other 7.5 points hold is not stated (the part that is "
        "left, 0.234 published, is 0.174 here)",
    ),
    Row(
        "MC-MoE",
        "mean-bits",
        Figure("mean bits per weight", "bit", 2.54, source="abstract of MC-MoE", locator="abstract"),
        lambda case: _mixed_bits(case["expert_bits"], case["other_bits"]),
        "compression",
        "Precision(per expert by ILP)",
        workload="Mixtral-8x7B, budget of 20 bits per 8 experts",
        assumed=(
            Assumption("expert_bits", 2.5, 2.375, 2.5, "largest budget of the released code, 12 to 20 of 8"),
            Assumption("other_bits", 4.0, 3.0, 4.0, "attention in 4 bits"),
        ),
    ),
    Row(
        "Collaborative Compression",
        "storage",
        headline("Collaborative Compression"),
        collaborative,
        "compression",
        "Placement(pruned) + Precision(per tensor)",
        workload="DeepSeek-V3",
        assumed=(
            Assumption("expert_bits", 1.75, 1.5625, 1.8, "IQ1_M of llama.cpp; IQ1_S at least"),
            Assumption("other_bits", 4.5, 4.5, 8.5, "Q4_K to Q8_0 of llama.cpp"),
        ),
        headline=True,
        claims=("Collaborative Compression/1",),
        cause="missing specification",
        reason="192 of 256 experts stay; which tensors of which layers get wider types is not stated",
    ),
)
