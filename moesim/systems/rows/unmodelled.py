"""Systems whose headline moesim cannot compute, and why; and what of them it can."""

from __future__ import annotations

from moesim.model import load_model, params
from moesim.systems.headlines import claims, headline
from moesim.systems.parts import expert_params, moe_layers
from moesim.systems.row import Assumption, Case, Figure, Row

BF16 = 2.0


def ring_saved(case: Case) -> float:
    """Part of GPU memory that a ring of layer slots saves: so many layers' experts are there at a time."""
    dense, layers = case["dense_share"], 12
    return (1.0 - dense) * (1.0 - case["slots"] / layers)


def expertflow_saved(case: Case) -> float:
    """Part of Switch-Base-128's bytes that leaves the GPU with some expert slots per MoE layer."""
    model = load_model("switch-base-128")
    count = params(model)
    every = BF16 * count.total
    layers = 2 * moe_layers(model)
    kept = BF16 * (count.total - count.experts + case["slots"] * layers * expert_params(model))
    return 1.0 - kept / every


EXPERTFLOW = "arXiv:2410.17954"

ROWS = (
    Row(
        "SE-MoE",
        "inference",
        headline("SE-MoE"),
        None,
        "offload",
        "Residency(ring of layers) + Transfer(whole layers)",
        headline=True,
        cause="missing specification",
        reason="models of 10 B to 210 B on 1 to 16 GPUs: neither batch nor the baseline's schedule is stated",
        claims=("SE-MoE/2",),
    ),
    Row(
        "SE-MoE",
        "ring-memory",
        Figure(
            "GPU memory saved",
            "fraction",
            0.30,
            baseline="no offload",
            grade="S",
            source="arXiv:2205.10034 and journal version (note)",
            locator="Sec 5: 48.2 B, 32 experts, 16x A100-40G",
        ),
        ring_saved,
        "offload",
        "Residency(ring of layers) + Transfer(whole layers)",
        workload="12 layers; at least 30 % is what is stated",
        cause="missing specification",
        reason="layers in the ring and what else is in memory are not printed; at least 30 % is claimed",
        assumed=(
            Assumption("slots", 6, 2, 8, "layers of 12 in the ring"),
            Assumption("dense_share", 0.05, 0.02, 0.3, "of the memory that is not experts, cache included"),
        ),
    ),
    Row(
        "PreMoe",
        "experts-removed",
        headline("PreMoe"),
        None,
        "compression",
        "Placement(experts of the task alone)",
        headline=True,
        cause="our limit",
        reason="the figure is how many experts can go before accuracy does; moesim has no model of accuracy",
        claims=("PreMoe/1",),
    ),
    Row(
        "Read-ME",
        "latency",
        headline("Read-ME"),
        None,
        "serving",
        "Predictor(exact, all layers) + Residency(belady) + Batcher(expert queues)",
        headline=True,
        cause="missing specification",
        reason="the baseline is another model, dense and of similar size; which, and the load, is not stated",
        claims=("Read-ME/1",),
    ),
    Row(
        "ExpertFlow",
        "memory",
        headline("ExpertFlow"),
        expertflow_saved,
        "offload",
        "Predictor(all layers at once) + Residency(quota by demand) + Batcher(fewest distinct)",
        hardware="A40",
        workload="Switch-Base-128",
        assumed=(Assumption("slots", 4, 1, 16, "expert slots per MoE layer; the paper's runs use 4 to 16"),),
        headline=True,
        claims=("ExpertFlow/1",),
    ),
    Row(
        "ExpertFlow",
        "speedup",
        claims()["ExpertFlow/2"].figure(),
        None,
        "offload",
        "Predictor(all layers at once) + Residency(quota by demand) + Batcher(fewest distinct)",
        hardware="A40",
        cause="missing specification",
        reason="the upper end is over SE-MoE with 4 slots and batches of 32; how that ran is not described",
        claims=("ExpertFlow/2",),
    ),
    Row(
        "ExpertFlow",
        "memory-switch-128",
        Figure(
            "GPU memory saving",
            "fraction",
            1 - 1.03 / 15.26,
            baseline="everything in GPU memory",
            grade="S",
            source=EXPERTFLOW,
            locator="memory example: 15.26 to 1.03 GB",
        ),
        expertflow_saved,
        "offload",
        "Residency(quota by demand)",
        hardware="A40",
        workload="Switch-Base-128",
        assumed=(Assumption("slots", 4, 1, 16, "expert slots per MoE layer; the paper's runs use 4 to 16"),),
    ),
)
