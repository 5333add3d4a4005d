"""Routing transforms: MoE++, adaptive gating, expert choice."""

from __future__ import annotations

import functools

import numpy as np

from moesim.cost import ExpertShape, all_to_all_seconds, expert_times, op_times
from moesim.hardware import load_hardware
from moesim.ops.primitives import elementwise, gemm, softmax
from moesim.ops.table import Op, OpTable
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row

PLUS = "arXiv:2410.07348"
ADAPTIVE = "arXiv:2310.07188"
GPU = "a100-sxm-40gb-8"
PLUS_SLOTS = "Gate(zero-computation experts)"

TOKENS = Assumption(
    "tokens", 8192, 2048, 65536, "per expert forward; not printed: 4 sequences of 2048, 1 to 32 as plausible"
)


def rho(tau: float, experts: int, zero: int) -> float:
    """Part of the tokens that reach an expert with weights.

    >>> rho(1.0, 16, 4)
    0.8
    """
    return tau * experts / (tau * experts + zero)


@functools.lru_cache(maxsize=128)
def plus_s(tokens: int, share: float, experts: int, hidden: int = 768, width: int = 2048) -> float:
    """Seconds of a top-2 MoE layer of which a part of the tokens reaches experts with weights.

    The router, the sort into experts and back, and the copies that zero-computation experts are.
    """
    device = load_hardware(GPU).device
    pairs = 2.0 * tokens
    each = np.full((1, experts), pairs * share / experts)
    work = float(expert_times(each, ExpertShape(hidden, width, 3, "bf16"), device).seconds[0])
    ops: list[Op] = [
        gemm("router", float(tokens), hidden, experts),
        softmax("softmax", float(tokens) * experts),
        elementwise("top_k", float(tokens) * experts, flops_each=2.0, tensors=2.0),
        elementwise("gather", pairs * hidden, flops_each=0.0, tensors=2.0),
        elementwise("scatter", pairs * hidden, flops_each=1.0, tensors=2.0),
        elementwise("weighted_sum", pairs * hidden, flops_each=2.0, tensors=1.5),
    ]
    times = op_times(OpTable(tuple((op, 1) for op in ops), (), 1), device)
    return work + float(times.seconds.sum())


def plus_gain(case: Case, tau: float, experts: int, zero: int, hidden: int = 768, width: int = 2048) -> float:
    """Expert-forward throughput over that of a plain MoE of the same size."""
    tokens = round(case["tokens"])
    plain = plus_s(tokens, 1.0, experts, hidden, width)
    return plain / plus_s(tokens, rho(tau, experts, zero), experts, hidden, width)


#: Table 3: experts with weights, zero-computation experts, tau, increase in per cent as printed.
TABLE_3 = (
    (8, 4, 0.10, 164.5),
    (8, 4, 0.25, 92.7),
    (8, 4, 0.50, 38.2),
    (8, 4, 0.75, 25.2),
    (8, 4, 1.00, 19.1),
    (16, 4, 0.10, 111.2),
    (16, 4, 0.25, 58.7),
    (16, 4, 0.50, 30.1),
    (16, 4, 1.00, 15.2),
    (32, 8, 0.10, 63.5),
    (32, 8, 0.25, 44.3),
    (32, 8, 0.50, 28.3),
    (32, 8, 0.75, 21.8),
    (32, 8, 1.00, 15.7),
)


def _plus_row(experts: int, zero: int, tau: float, percent: float) -> Row:
    return Row(
        "MoE++",
        f"{experts}e-tau-{tau:g}",
        Figure(
            "expert forward throughput",
            "x",
            1 + percent / 100,
            baseline="vanilla MoE of the same size",
            source=PLUS,
            locator="Table 3",
        ),
        lambda case: plus_gain(case, tau, experts, zero),
        "routing",
        PLUS_SLOTS,
        hardware=GPU,
        workload=f"{experts} experts 768 -> 2048, {zero} zero-computation ones, tau {tau:g}, top 2",
        assumed=(TOKENS,),
    )


#: Tokens of a GPU in a step of the sentiment task: 24 sequences (Table 3 of the paper), their length assumed.
LENGTH = Assumption("length", 128, 64, 512, "tokens of a sequence of SST-2 after padding; not printed")
#: FLOPs of a step with one and with two experts, as printed: the difference is one expert.
GFLOP_TOP_1, GFLOP_TOP_2 = 2.18, 3.28


def adaptive_layer_s(tokens: float, mean_k: float, hidden: int = 768, width: int = 3072) -> float:
    """Seconds of a MoE layer on 8 A100, two experts each: two exchanges and the experts.

    Parameters
    ----------
    tokens
        Per GPU.
    mean_k
        Experts per token, on average.
    """
    hardware = load_hardware(GPU)
    pairs = tokens * mean_k
    each = np.full((1, 2), pairs / 2)
    work = float(expert_times(each, ExpertShape(hidden, width, 2, "bf16"), hardware.device).seconds[0])
    sent = np.full((1, 8, 8), pairs * hidden * 2.0 / 8)
    for rank in range(8):
        sent[0, rank, rank] = 0.0
    moved = float(np.max(all_to_all_seconds(sent.sum(axis=-1), np.zeros((1, 8)), hardware)))
    ops = [
        gemm("router", tokens, hidden, 16),
        elementwise("gather", pairs * hidden, flops_each=0.0, tensors=2.0),
        elementwise("scatter", pairs * hidden, flops_each=1.0, tensors=2.0),
    ]
    times = op_times(OpTable(tuple((op, 1) for op in ops), (), 1), hardware.device)
    return work + 2 * moved + float(times.seconds.sum())


def adaptive_ratio(case: Case, mean_k: float) -> float:
    """Seconds of a MoE layer over those with two experts per token."""
    tokens = 24 * case["length"]
    return adaptive_layer_s(tokens, mean_k) / adaptive_layer_s(tokens, 2.0)


def adaptive_saved(case: Case) -> float:
    """Part of a training step that is saved with 11.3 % of the tokens on two experts.

    What is not the MoE layer takes its part of the FLOPs that are printed.
    """
    expert = GFLOP_TOP_2 - GFLOP_TOP_1
    layers = 2 * expert / GFLOP_TOP_2
    return layers * (1.0 - adaptive_ratio(case, 1.113))


def _adaptive_row(mean_k: float, value: float) -> Row:
    return Row(
        "Adaptive Gating",
        f"layer-k-{mean_k:g}",
        Figure("MoE layer time over top-2", "ratio", value, baseline="", source=ADAPTIVE, locator="Table 1"),
        lambda case: adaptive_ratio(case, mean_k),
        "routing",
        "Gate(second expert where the first is unsure)",
        hardware=GPU,
        workload=f"16 experts on 8 GPUs, {mean_k:g} experts per token",
        assumed=(LENGTH,),
        reason="the paper's layer is slower where few tokens use two experts: the sequence waits for them",
    )


def expert_choice_saved(case: Case) -> float:
    """Part of a step saved against GShard top-2 with capacity factor 2: no row is padded, none is dropped."""
    hidden, width, layers, vocabulary = 4096, 16384, 32, 256000
    dense = layers * 4 * hidden * hidden + layers // 2 * 2 * hidden * width + vocabulary * hidden
    expert = layers // 2 * 2 * hidden * width
    chosen = dense + 2 * expert
    padded = dense + 2 * case["capacity"] * expert
    return 1.0 - chosen / padded


ROWS = (
    Row(
        "MoE++",
        "expert-forward",
        headline("MoE++"),
        lambda case: plus_gain(case, 1.0, 16, 4),
        "routing",
        PLUS_SLOTS,
        hardware=GPU,
        workload="1B/16E at tau 1, the low end of the range",
        assumed=(TOKENS,),
        headline=True,
    ),
    *(_plus_row(*line) for line in TABLE_3),
    Row(
        "Adaptive Gating",
        "training-time",
        headline("Adaptive Gating"),
        adaptive_saved,
        "routing",
        "Gate(second expert where the first is unsure)",
        hardware=GPU,
        workload="sentiment task, BERT-Base with 16 experts, 11.3 % of the tokens on two experts",
        assumed=(LENGTH,),
        headline=True,
        reason="training time is to equal loss, and steps differ; backward is taken to scale as forward",
    ),
    _adaptive_row(1.0, 0.67),
    _adaptive_row(1.2, 0.76),
    _adaptive_row(1.5, 0.92),
    _adaptive_row(1.8, 0.97),
    Row(
        "Expert Choice",
        "convergence",
        headline("Expert Choice"),
        None,
        "routing",
        "Gate(expert choice)",
        headline=True,
        reason="how fast a loss falls is learning; moesim has no model of it",
    ),
    Row(
        "Expert Choice",
        "step-time",
        Figure(
            "step time reduction",
            "fraction",
            0.20,
            baseline="GShard top-2",
            grade="S",
            source="arXiv:2202.09368 (note)",
            locator="8B/64E on 512 TPU v4",
        ),
        expert_choice_saved,
        "routing",
        "Gate(expert choice)",
        workload="8B/64E: FLOPs alone",
        assumed=(
            Assumption("capacity", 1.5, 1.25, 2.0, "capacity factor of GShard's top-2; 1.25 to 2 are usual"),
        ),
    ),
)
