"""SE-MoE (MoESys) in training: parameters prefetched over two links, and tasks given GPUs by their load."""

from __future__ import annotations

import functools
from dataclasses import replace

from moesim.hardware import load_hardware
from moesim.hardware.types import Hardware, Link
from moesim.systems.headlines import claims
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.training import Iteration, Recipe, TrainLayout, gpt, iterate

SOURCE = "arXiv:2205.10034 and journal version (note)"
GPUS = 64
#: Sequences of the four tasks of the elastic run, and GPUs of each before and after.
TASKS = (512, 256, 128, 128)
ELASTIC = (4, 2, 1, 1)

NETWORK = Assumption(
    "network_gb_per_s", 12.5, 1.56, 12.5, "per A100: a NIC of 100 Gbit/s for each GPU, or one for the node"
)
MICRO = Assumption("micro_batch", 4, 1, 16, "sequences a rank works on at once: not stated")
SEQ = Assumption("seq", 1024, 512, 2048, "tokens of a sequence: not stated")


@functools.lru_cache(maxsize=16)
def machine(network: float) -> Hardware:
    """Eight nodes of 8 A100 with Ethernet of 100 Gbit/s."""
    hardware = load_hardware("a100-sxm-80gb-8", nodes=GPUS // 8)
    return replace(hardware, scale_out=Link("ethernet-100g", network * 1e9, 14e-6, 0.9, 0, "fat_tree"))


@functools.lru_cache(maxsize=64)
def step(network: float, micro: int, seq: int, prefetch: bool) -> Iteration:
    """One iteration of the 104.1B model: experts spread over all GPUs, dense parameters sharded."""
    model = gpt(12, 4096, 64, 50304, experts=64, name="gpt-moe-104b")
    recipe = Recipe(
        GPUS * micro,
        seq,
        micro,
        zero=3,
        dropout=True,
        fused=False,
        gradient_bytes=2.0,
        reduce_bytes=2.0,
        overlap=("dp",) if prefetch else (),
    )
    layout = TrainLayout(dp=GPUS, ep=GPUS)
    return iterate(model, machine(network), layout, recipe, need_memory=False)


def prefetched(case: Case) -> float:
    """Tokens/s with the next layer's parameters on their way over those without."""
    args = case["network_gb_per_s"], 2 ** (round(case["micro_batch"]).bit_length() - 1), round(case["seq"])
    return step(*args, False).step_s / step(*args, True).step_s


def elastic(_: Case) -> float:
    """Samples per second and GPU with GPUs by load over one GPU per task; a step waits for the slowest."""
    before = sum(TASKS) / max(TASKS) / len(TASKS)
    after = sum(TASKS) / max(t / g for t, g in zip(TASKS, ELASTIC, strict=True)) / sum(ELASTIC)
    return after / before


WAITS = (
    "if a step is as long as its slowest GPU's work, an even load gains twice; measured was 1.18 for these "
    "batches, so that most of a step does not scale with the batch, by how much is not stated"
)

ROWS = (
    Row(
        "SE-MoE",
        "training-prefetch",
        claims()["SE-MoE/1"].figure(),
        prefetched,
        "training",
        "Transfer(dense parameters of the next layer over NVLink, experts over PCIe)",
        hardware="64x A100 80 GB, 100 Gbit/s (the note's example; the abstract says 48)",
        workload="GPT of 12 layers and 64 experts, 104.1B",
        assumed=(NETWORK, MICRO, SEQ),
        reason="batch, sequence length and the baseline's schedule are not stated",
        cause="missing specification",
        claims=("SE-MoE/1",),
    ),
    Row(
        "SE-MoE",
        "training-multi-task",
        claims()["SE-MoE/3"].figure(),
        elastic,
        "training",
        "GPUs of a task by its batch",
        hardware="A100 80 GB",
        workload="four tasks of 512, 256, 128 and 128 samples on 4 GPUs, then on 8",
        reason=WAITS,
        cause="missing specification",
        claims=("SE-MoE/3",),
    ),
    Row(
        "SE-MoE",
        "training-elastic",
        Figure(
            "samples per second and GPU",
            "x",
            74.0 / 62.6,
            None,
            "one GPU per task",
            "S",
            SOURCE,
            "elastic training: batches 512/256/128/128, GPUs 1/1/1/1 to 4/2/1/1",
        ),
        elastic,
        "training",
        "GPUs of a task by its batch",
        hardware="A100 80 GB",
        workload="four tasks of 512, 256, 128 and 128 samples on 4 GPUs, then on 8",
        reason=WAITS,
        cause="missing specification",
    ),
)
