"""What fits: systems whose claim is the size of a model on given hardware."""

from __future__ import annotations

import functools

from moesim.hardware import load_hardware
from moesim.model import params
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.training import Recipe, gpt
from moesim.training.memory import RUNTIME_BYTES

#: A GPU of V100 machines of 16 as DeepSpeed's, and of M6-T.
V100_GPUS = 480

STATES = Assumption(
    "bytes_per_parameter",
    18.0,
    8.0,
    18.0,
    "weight, gradient and optimiser states: 18 with Adam as Megatron keeps it, 16 as DeepSpeed does, 8 to 12 "
    "with states that are factored or in 16 bits; which M6-T used is not in the text that is held",
)
ACTIVE = Assumption("activations_gb", 4.0, 1.0, 10.0, "activations and buffers beside the states: not stated")
HOST = Assumption(
    "host_gb_per_gpu",
    93.75,
    47.0,
    187.5,
    "host memory: 1.5 TB for 16 GPUs in a DGX-2, others have half or twice",
)


def m6t_parameters(case: Case) -> float:
    """Parameters that 480 V100 of 32 GB hold with their training states."""
    memory = load_hardware("v100-sxm-32gb-8").device.memory.capacity_bytes
    free = memory - RUNTIME_BYTES - case["activations_gb"] * 1e9
    return V100_GPUS * free / case["bytes_per_parameter"]


def offloaded(case: Case) -> float:
    """Parameters with gradients and optimiser states on the host over those with all on the GPU.

    The GPU keeps weights in 16 bits, the host the rest; whichever is full first decides.
    """
    recipe = Recipe(1, 1, gradient_bytes=2.0)
    memory = load_hardware("v100-sxm-32gb-8").device.memory.capacity_bytes
    free = memory - RUNTIME_BYTES - case["activations_gb"] * 1e9
    rest = recipe.gradient_bytes + recipe.state_bytes
    alone = free / (2.0 + rest)
    return min(free / 2.0, case["host_gb_per_gpu"] * 1e9 / rest) / alone


@functools.cache
def pyramid(layers: int, experts: tuple[int, ...], residual: bool) -> float:
    """Parameters of GPT-3 350M with so many experts in every second layer, in 16 heads of 64."""
    hidden, ffn = 1024, 4096
    base = gpt(layers, hidden, 16, 50257)
    total = float(params(base).total)
    expert = 2.0 * hidden * ffn
    # The dense block of a layer stays as the residual branch, or gives way to the experts.
    return total + sum(n * expert + n * hidden - (0.0 if residual else expert) for n in experts)


def smaller(_: Case) -> float:
    """350M+MoE-128 over PR-MoE-32/64 with an eighth of its layers left out.

    Ten MoE layers of 32 experts and two of 64; without three of 24 layers, of which two are MoE layers with
    32.
    """
    return pyramid(24, (128,) * 12, False) / pyramid(21, (32,) * 8 + (64,) * 2, True)


ROWS = (
    Row(
        "M6-T",
        "parameters",
        headline("M6-T"),
        m6t_parameters,
        "training",
        "experts over all GPUs + k prototypes that each route top 1",
        hardware="480x V100 32 GB",
        workload="all parameters in experts, states on the GPUs",
        assumed=(STATES, ACTIVE),
        headline=True,
        reason="the optimiser's states decide, and are not in the text that is held",
        cause="missing specification",
        claims=("M6-T/1",),
    ),
    Row(
        "Scalable and Efficient MoE Training",
        "model-size",
        headline("Scalable and Efficient MoE Training"),
        offloaded,
        "training",
        "gradients and optimiser states in host memory",
        hardware="V100 32 GB with a host (DGX-2)",
        workload="Adam in 16 and 32 bits: 16 bytes per parameter",
        assumed=(ACTIVE, HOST),
        headline=True,
        reason="2 of 16 bytes stay on the GPU, which is eightfold; whether the host holds the rest of so "
        "many parameters depends on its memory, which is not stated",
        cause="missing specification",
        claims=("Scalable and Efficient MoE Training/1",),
    ),
    Row(
        "DeepSpeed-MoE",
        "latency",
        headline("DeepSpeed-MoE"),
        None,
        "serving",
        "Collective(hierarchical) + experts sliced + fused gate",
        hardware="128 and 256x A100",
        workload="107B to 2T parameters",
        headline=True,
        reason="batch and lengths are not in the paper, and its baseline spends most of its time in sparse "
        "products of the gate, of which only the factor 6 is given that replacing them gains",
        cause="missing specification",
        claims=("DeepSpeed-MoE/1",),
    ),
    Row(
        "DeepSpeed-MoE",
        "over-dense",
        claims()["DeepSpeed-MoE/2"].figure(),
        None,
        "serving",
        "Collective(hierarchical) + experts sliced",
        hardware="A100",
        workload="1.5T parameters against 175B dense ones of the same quality",
        reason="the base model of the 1.5T one, batch and lengths are not in the paper",
        cause="missing specification",
        claims=("DeepSpeed-MoE/2",),
    ),
    Row(
        "DeepSpeed-MoE",
        "size",
        claims()["DeepSpeed-MoE/3"].figure(),
        smaller,
        "compression",
        "more experts in the last layers, a dense branch beside them, fewer layers",
        workload="350M+MoE-128 (13B) to 350M+PR-MoE-32/64 of 21 layers (3.5B)",
        claims=("DeepSpeed-MoE/3",),
    ),
    Row(
        "DeepSpeed-MoE",
        "size-13b",
        Figure(
            "parameters", "B", 13.0, grade="P", source="arXiv:2201.05596", locator="Section 4.1, 350M+MoE-128"
        ),
        lambda _: pyramid(24, (128,) * 12, False) / 1e9,
        "compression",
        "128 experts in every second layer",
    ),
    Row(
        "DeepSpeed-MoE",
        "size-4b",
        Figure(
            "parameters",
            "B",
            4.0,
            grade="P",
            source="arXiv:2201.05596",
            locator="Table 5, 350M+PR-MoE-32/64 L24",
        ),
        lambda _: pyramid(24, (32,) * 10 + (64,) * 2, True) / 1e9,
        "compression",
        "more experts in the last layers, a dense branch beside them",
    ),
    Row(
        "Switch Transformer",
        "pretraining",
        headline("Switch Transformer"),
        None,
        "training",
        "Gate(top 1)",
        headline=True,
        reason="compares runs that reach the same loss with the same FLOPs per token; moesim has no model of "
        "loss",
        cause="our limit",
        claims=("Switch Transformer/1",),
    ),
)
