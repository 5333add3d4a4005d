"""DeepSpeed-TED: tensor, expert and data parallelism, without sending duplicate tokens."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

from moesim.hardware import load_hardware
from moesim.hardware.types import Hardware, Link
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Row
from moesim.training import Iteration, Recipe, TrainLayout, gpt, iterate
from moesim.training.memory import fullest
from moesim.training.schedule import one_forward_one_backward

GPUS, EXPERTS = 128, 16

TENSOR = Assumption("tp", 4, 2, 8, "tensor parallelism of the 6.7B base model: not in the text that is held")
NETWORK = Assumption(
    "network_gb_per_s",
    4.2,
    3.1,
    12.5,
    "per V100: two ports of 100 Gbit/s for six on Summit; others have one for four or one for each",
)
MICRO = Assumption("micro_batch", 4, 1, 8, "sequences a rank works on at once: not stated")
DROPPED = Assumption("memory_gb", 16, 16, 32, "of a V100: 16 on Summit, 32 elsewhere")


@functools.lru_cache(maxsize=32)
def machine(network: float) -> Hardware:
    """V100s of 8 to a node, each with its part of the network."""
    hardware = load_hardware("v100-sxm-32gb-8")
    link = Link("infiniband-edr", network * 1e9, 14e-6, 0.9, 0, "fat_tree")
    return replace(hardware, scale_out=link, nodes=GPUS // 8, max_nodes=None)


@functools.lru_cache(maxsize=64)
def step(tp: int, network: float, micro: int, optimised: bool) -> Iteration:
    """One iteration of the 40B model, activations recomputed, with or without both optimisations."""
    model = gpt(32, 4096, 32, experts=EXPERTS, every=2, name="gpt-6.7b-16e")
    dp = GPUS // tp
    recipe = Recipe(
        dp * micro * 2,
        2048,
        micro,
        recompute="full",
        dropout=True,
        fused=False,
        duplicated=not optimised,
        stash=optimised,
    )
    return iterate(
        model, machine(network), TrainLayout(tp=tp, dp=dp, ep=EXPERTS, etp=1), recipe, need_memory=False
    )


def speedup(case: Case) -> float:
    """Iteration without over with duplicate tokens dropped and traffic's results kept."""
    tp = 2 ** round(math.log2(case["tp"]))
    before, after = (
        step(tp, case["network_gb_per_s"], round(case["micro_batch"]), way).step_s for way in (False, True)
    )
    return before / after


def largest_base(tp: int, memory_gb: float) -> float:
    """Parameters of the largest 32-layer base model whose 16-expert version fits on 128 devices."""
    best = 0.0
    layout = TrainLayout(tp=tp, dp=GPUS // tp, ep=EXPERTS, etp=tp if tp * EXPERTS <= GPUS else 1)
    for hidden in range(512, 20481, 128):
        model = gpt(32, hidden, hidden // 128, experts=EXPERTS, every=2)
        recipe = Recipe(GPUS, 2048, recompute="full", dropout=True, fused=False, gradient_bytes=2.0)
        need = fullest(model, layout, recipe, one_forward_one_backward(1, tp)).total
        if need > memory_gb * 1e9:
            break
        best = 12.0 * 32 * hidden**2
    return best


def base_gain(case: Case) -> float:
    """Largest base model with tensor parallelism over that without."""
    tp = 2 ** round(math.log2(case["tp"]))
    return largest_base(tp, case["memory_gb"]) / largest_base(1, case["memory_gb"])


ROWS = (
    Row(
        "DeepSpeed-TED",
        "communication",
        headline("DeepSpeed-TED"),
        speedup,
        "training",
        "drop duplicate tokens before the all-to-all + keep what traffic brought through recomputation",
        hardware="128x V100",
        workload="40B: 6.7B base, 16 experts in every second layer, sequences of 2048 tokens",
        assumed=(TENSOR, NETWORK, MICRO),
        headline=True,
        reason="degree of tensor parallelism, batch and network per GPU are not in the text that is held",
        cause="missing specification",
        claims=("DeepSpeed-TED/1",),
    ),
    Row(
        "DeepSpeed-TED",
        "base-model",
        claims()["DeepSpeed-TED/2"].figure(),
        base_gain,
        "training",
        "tensor parallelism of base model and experts",
        hardware="128x V100",
        workload="32 layers as wide as fits, 16 experts in every second layer",
        assumed=(TENSOR, DROPPED),
        reason="which base models and memory the claim is about is not in the text that is held",
        cause="missing specification",
        claims=("DeepSpeed-TED/2",),
    ),
)
