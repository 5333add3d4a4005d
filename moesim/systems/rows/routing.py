"""Routing transforms: MoE++, adaptive gating, expert choice."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from moesim.cost import ExpertShape, all_to_all_seconds, expert_times, op_times
from moesim.engine.eager import LAUNCH_RANGE_S, LAUNCH_S
from moesim.hardware import load_hardware
from moesim.ops.primitives import elementwise, gemm
from moesim.ops.table import OpTable
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.systems.zero_experts import ZeroLayer, layer_s, tokens_of

PLUS = "arXiv:2410.07348"
ADAPTIVE = "arXiv:2310.07188"
GPU = "a100-sxm-40gb-8"
PLUS_SLOTS = "Gate(zero-computation experts)"
PLUS_REASON = (
    "the tokens that were timed follow from the printed time of the plain layers, an input of the gain"
)

#: Milliseconds of 12 plain layers with so many experts, as printed: they say how many tokens were timed.
VANILLA_MS = {8: 535.3, 16: 610.9, 32: 683.4}
#: Experts that mix in a constant; beside them are one that copies and one that drops.
CONSTANTS = {8: 2, 16: 2, 32: 6}
LAYERS, HIDDEN, WIDTH = 12, 768, 2048
HOST = Assumption(
    "launch_us",
    LAUNCH_S * 1e6,
    10.0,
    LAUNCH_RANGE_S[1] * 1e6,
    "for which a device waits at every expert, while the host learns its tokens; see moesim.engine.eager",
)


@functools.lru_cache(maxsize=64)
def plus_tokens(experts: int, launch_s: float) -> float:
    """Tokens with which the plain layers take as long as printed."""
    device = load_hardware(GPU).device
    return tokens_of(ZeroLayer(HIDDEN, WIDTH, experts), VANILLA_MS[experts] / 1e3 / LAYERS, device, launch_s)


def plus_gain(case: Case, tau: float, experts: int) -> float:
    """Expert-forward throughput over that of a plain MoE of the same size."""
    launch_s = case["launch_us"] * 1e-6
    layer = ZeroLayer(HIDDEN, WIDTH, experts, CONSTANTS[experts], 1, 1, tau)
    seconds = layer_s(layer, plus_tokens(experts, launch_s), load_hardware(GPU).device, launch_s)
    return VANILLA_MS[experts] / (1e3 * LAYERS * seconds)


#: Table 3: experts with weights, tau, increase in per cent as printed.
TABLE_3 = (
    (8, 0.10, 164.5),
    (8, 0.25, 92.7),
    (8, 0.50, 38.2),
    (8, 0.75, 25.2),
    (8, 1.00, 19.1),
    (16, 0.10, 111.2),
    (16, 0.25, 58.7),
    (16, 0.50, 30.1),
    (16, 1.00, 15.2),
    (32, 0.10, 63.5),
    (32, 0.25, 44.3),
    (32, 0.50, 28.3),
    (32, 0.75, 21.8),
    (32, 1.00, 15.7),
)


def _plus_row(experts: int, tau: float, percent: float) -> Row:
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
        lambda case: plus_gain(case, tau, experts),
        "routing",
        PLUS_SLOTS,
        hardware=GPU,
        workload=f"{experts} experts 768 -> 2048, {CONSTANTS[experts] + 2} without weights, tau {tau:g}",
        assumed=(HOST,),
        variant="code",
        reason=PLUS_REASON,
    )


#: Tokens of a GPU in a step of the sentiment task: 24 sequences (Table 3 of the paper), their length assumed.
LENGTH = Assumption("length", 128, 64, 512, "tokens of a sequence of SST-2 after padding; not printed")


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


@dataclass(frozen=True, slots=True)
class Task:
    """A column of Table 3.

    Parameters
    ----------
    hidden, width
        Of the model and of its experts.
    sequences
        Of a GPU; 0 where a batch is 4096 tokens.
    one, two
        GFLOP with one and with two experts.
    part
        Of the tokens, those on two.
    ratio
        Time over top-2's, as printed.
    """

    hidden: int
    width: int
    sequences: int
    one: float
    two: float
    part: float
    ratio: float


#: Summarisation: the part follows from the printed GFLOP; text completion: top-2's from part and rest.
TASKS = {
    "sentiment": Task(768, 3072, 24, 2.18, 3.28, 0.113, 0.77),
    "translation": Task(1024, 4096, 0, 10.6, 15.9, 0.256, 0.79),
    "question answering": Task(768, 3072, 24, 2.18, 3.27, 0.164, 0.86),
    "summarisation": Task(1024, 4096, 0, 79.0, 119.0, 0.2, 0.86),
    "text completion": Task(1024, 4096, 8, 3400.0, 4914.0, 0.218, 0.89),
    "dialogue": Task(1024, 4096, 64, 3400.0, 4900.0, 0.234, 0.82),
}
#: GFLOP with adaptive gating, as printed, where all of the three and the part are printed.
ADAPTIVE_GFLOP = {"sentiment": 2.30, "translation": 11.5, "question answering": 2.36, "dialogue": 3760.0}


def adaptive_time(case: Case, task: Task) -> float:
    """Seconds of a step over those with two experts for every token.

    What is not the MoE layers takes its part of the FLOPs that are printed.
    """
    layers = 2 * (task.two - task.one) / task.two
    tokens = task.sequences * case["length"] if task.sequences else 4096.0
    each = [adaptive_layer_s(tokens, k, task.hidden, task.width) for k in (1.0 + task.part, 2.0)]
    return 1.0 - layers * (1.0 - each[0] / each[1])


def adaptive_saved(case: Case) -> float:
    """Part of a training step that is saved with 11.3 % of the tokens on two experts."""
    return 1.0 - adaptive_time(case, TASKS["sentiment"])


def adaptive_gflop(task: Task) -> float:
    """FLOPs follow the tokens on two experts."""
    return task.one + task.part * (task.two - task.one)


def _task_rows(name: str, task: Task) -> list[Row]:
    figure = Figure(
        "training time over top-2", "ratio", task.ratio, source=ADAPTIVE, locator=f"Table 3, {name}"
    )
    found = [
        Row(
            "Adaptive Gating",
            f"time-{name.replace(' ', '-')}",
            figure,
            lambda case: adaptive_time(case, task),
            "routing",
            "Gate(second expert where the first is unsure)",
            hardware=GPU,
            workload=f"{name}: {task.part:.1%} of the tokens on two of 16 experts",
            assumed=(LENGTH,),
            cause="missing specification",
            reason="training time is to equal loss, and steps differ; here a step's time alone",
        )
    ]
    if name in ADAPTIVE_GFLOP:
        figure = Figure(
            "computation", "GFLOP", ADAPTIVE_GFLOP[name], source=ADAPTIVE, locator=f"Table 3, {name}"
        )
        found.append(
            Row(
                "Adaptive Gating",
                f"flops-{name.replace(' ', '-')}",
                figure,
                lambda _: adaptive_gflop(task),
                "routing",
                "Gate(second expert where the first is unsure)",
                workload=f"{name}: between top-1 and top-2 by the part of tokens on two experts",
            )
        )
    return found


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
        cause="disagreement",
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
        lambda case: plus_gain(case, 1.0, 16),
        "routing",
        PLUS_SLOTS,
        hardware=GPU,
        workload="1B/16E at tau 1, the low end of the range",
        assumed=(HOST,),
        variant="code",
        headline=True,
        reason=PLUS_REASON,
        claims=("MoE++/1",),
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
        claims=("Adaptive Gating/1",),
    ),
    _adaptive_row(1.0, 0.67),
    _adaptive_row(1.2, 0.76),
    _adaptive_row(1.5, 0.92),
    _adaptive_row(1.8, 0.97),
    *(row for name, task in TASKS.items() for row in _task_rows(name, task)),
    Row(
        "Expert Choice",
        "convergence",
        headline("Expert Choice"),
        None,
        "routing",
        "Gate(expert choice)",
        headline=True,
        cause="our limit",
        reason="how fast a loss falls is learning; moesim has no model of it",
        claims=("Expert Choice/1",),
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
