"""Merge-then-Compress and MoTE: what is left of experts that are merged, factored or made ternary."""

from __future__ import annotations

from moesim.model import load_model, params
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row

HIDDEN, WIDTH, MATRICES = 768, 3072, 2
EXPERT = MATRICES * HIDDEN * WIDTH
#: Switch-Base-32: 6 encoder and 6 decoder MoE layers; all but the encoder's first are merged to 8 on average,
#: and those factored into rank 32 with a tenth of a residue (README of UNITES-Lab/MC-SMoE).
LAYERS, EXPERTS, MERGED_LAYERS, MERGED_TO = 12, 32, 11, 8
RANK, RESIDUE = 32, 0.10
REPOSITORY = "UNITES-Lab/MC-SMoE README"


def factored_params(rank: int = RANK, residue: float = RESIDUE) -> float:
    """Parameters of an expert as ``U V + S``, with a part of the entries of S left.

    >>> factored_params(), EXPERT
    (717619.2, 4718592)
    """
    return MATRICES * rank * (HIDDEN + WIDTH) + residue * EXPERT


def switch_params(per_expert: float, merged_to: float) -> float:
    """Parameters of Switch-Base-32 when merged layers have so many experts of such a size."""
    count = params(load_model("switch-base-128"))
    # Routers are a column for each expert.
    rest = count.total - count.experts - LAYERS * HIDDEN * (128 - EXPERTS)
    kept = (LAYERS - MERGED_LAYERS) * EXPERTS * EXPERT
    return rest + kept + MERGED_LAYERS * merged_to * per_expert


def memory_saved(case: Case) -> float:
    """Part of the parameters that is gone."""
    del case
    return 1.0 - switch_params(factored_params(), MERGED_TO) / switch_params(EXPERT, EXPERTS)


def flops_saved(case: Case) -> float:
    """Part of the FLOPs of a forward pass that is gone; a token meets one expert of a layer.

    Per token of the encoder: attention and a feed-forward block in 12 layers; of the decoder, cross-attention
    and the vocabulary too.
    """
    square = HIDDEN * HIDDEN
    encoder = 12 * (4 * square + EXPERT)
    decoder = 12 * (8 * square + EXPERT) + HIDDEN * 32128
    saved = EXPERT - factored_params()
    share = case["decoder_tokens"]
    whole = (1 - share) * encoder + share * decoder
    return saved * ((1 - share) * 5 + share * 6) / whole


#: MoTE on Qwen2.5-3B: hidden and intermediate width, layers (config.json of Qwen/Qwen2.5-3B); four routed
#: experts beside the shared one. MoE-LLaVA has four experts and no shared one.
QWEN_HIDDEN, QWEN_WIDTH, QWEN_LAYERS, ROUTED = 2048, 11008, 36, 4
MOTE = "project notes that quote arXiv:2506.14435"


def expert_gib(shared_bits: float, routed_bits: float) -> float:
    """GiB of the experts of a model with one shared and four routed ones.

    >>> round(expert_gib(16, 2), 2), round(expert_gib(0, 16), 2)
    (6.8, 18.14)
    """
    weights = QWEN_LAYERS * 3 * QWEN_HIDDEN * QWEN_WIDTH
    return weights * (shared_bits + ROUTED * routed_bits) / 8 / 2**30


TERNARY = Assumption("ternary_bits", 2.0, 1.6, 2.0, "2 bits, or five weights to a byte")

ROWS = (
    Row(
        "Merge-then-Compress",
        "memory",
        headline("Merge-then-Compress"),
        memory_saved,
        "compression",
        "Placement(merged) + Precision(low rank and sparse)",
        workload="Switch-Base-32: 11 of 12 layers merged to 8 of 32 experts, rank 32, a tenth of a residue "
        f"({REPOSITORY})",
        headline=True,
        claims=("Merge-then-Compress/1",),
    ),
    Row(
        "Merge-then-Compress",
        "flops",
        claims()["Merge-then-Compress/1"].figure("fraction", upper=True, locator="abstract: FLOPs"),
        flops_saved,
        "compression",
        "Placement(merged) + Precision(low rank and sparse)",
        workload="Switch-Base-32, a forward pass",
        assumed=(
            Assumption(
                "decoder_tokens",
                0.5,
                0.05,
                0.5,
                "of all tokens: as many as the encoder's, or few",
            ),
        ),
        claims=("Merge-then-Compress/1",),
    ),
    Row(
        "MoTE",
        "expert-memory",
        headline("MoTE"),
        lambda case: expert_gib(case["shared_bits"], case["ternary_bits"]),
        "compression",
        "Precision(ternary routed, shared by post-training quantisation)",
        workload="Qwen2.5-3B with one shared and four ternary experts, all 36 layers; printed GB are GiB",
        assumed=(
            TERNARY,
            Assumption(
                "shared_bits",
                4.0,
                3.0,
                8.0,
                "the abstract says post-training quantisation; 4 bits are its usual width, and of 8, 4 and 3 "
                "the one that gives the figure",
            ),
        ),
        headline=True,
        claims=("MoTE/1",),
    ),
    Row(
        "MoTE",
        "expert-memory-16-bit-shared",
        Figure("expert memory", "GB", 6.8, grade="S", source=MOTE, locator="3B model, before quantisation"),
        lambda case: expert_gib(16.0, case["ternary_bits"]),
        "compression",
        "Precision(ternary routed)",
        workload="as above, the shared expert in 16 bits",
        assumed=(TERNARY,),
    ),
    Row(
        "MoTE",
        "expert-memory-moe-llava",
        Figure("expert memory", "GB", 18.1, grade="S", source=MOTE, locator="3B model, MoE-LLaVA"),
        lambda _: expert_gib(0.0, 16.0),
        "compression",
        "none: four experts in 16 bits",
        workload="Qwen2.5-3B with four experts in all 36 layers",
    ),
)
