"""Pipeline MoE: experts over the tensor-parallel ranks of a node, with pipeline stages between nodes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

from moesim.hardware import load_hardware
from moesim.hardware.types import Hardware, Link
from moesim.model import Model
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.training import Iteration, Recipe, TrainLayout, gpt, iterate

SOURCE = "arXiv:2304.11414 (note)"
GPUS = 32

MICRO = Assumption("micro_batch", 4, 1, 8, "sequences a rank works on at once: not stated")
BATCH = Assumption("batch", 128, 64, 512, "sequences of an iteration: not stated")
NETWORK = Assumption(
    "network_gb_per_s",
    1.56,
    1.56,
    12.5,
    "of one GPU: one InfiniBand port of 100 Gbit/s per node, as the text reads, or up to one for each GPU",
)
ASSUMED = (MICRO, BATCH, NETWORK)
UNKNOWN = "batch, sequence length and micro-batch are not stated"


@functools.lru_cache(maxsize=16)
def machine(network: float) -> Hardware:
    """Four nodes of 8 V100, each GPU with its part of the InfiniBand."""
    hardware = load_hardware("v100-sxm-32gb-8")
    # Rate as printed; efficiency and latency as of the InfiniBand of other machines in the catalogue.
    shared = Link("infiniband-edr", network * 1e9, 14e-6, 0.9, 0, "fat_tree")
    return replace(hardware, scale_out=shared, nodes=GPUS // 8, max_nodes=None)


@functools.cache
def model(size: str, experts: int) -> Model:
    """GPT-3 Medium or 6.7B, or with 64 experts in every second layer: 6.7B and 143B parameters."""
    layers, hidden, heads = {"medium": (24, 1024, 16), "6.7b": (32, 4096, 32)}[size]
    return gpt(layers, hidden, heads, experts=experts, every=2, name=f"gpt3-{size}-{experts}e")


@functools.lru_cache(maxsize=128)
def step(size: str, way: str, micro: int, batch: int, network: float) -> Iteration:
    """One iteration of ``backbone`` or ``ppmoe`` (TP8 PP4), ``dpmoe`` (TP8 DP4) or its backbone ``data``."""
    recipe = Recipe(batch, 2048, micro, dropout=True, fused=False, zero=0)
    experts = 0 if way in ("backbone", "data") else 64
    if way in ("ppmoe", "backbone"):
        layout = TrainLayout(tp=8, pp=4, ep=8 if experts else 1)
        # Every rank of a node has all tokens, picks those of its experts, and results are added up.
        recipe = replace(recipe, dispatch="gather")
    else:
        layout = TrainLayout(tp=8, dp=4, ep=32 if experts else 1)
        # DeepSpeed's tensor-parallel ranks each send all tokens.
        recipe = replace(recipe, duplicated=True)
    return iterate(model(size, experts), machine(network), layout, recipe, need_memory=False)


def rate(case: Case, size: str, way: str) -> float:
    """Tokens/s."""
    return _step(case, size, way).tokens_per_s


def _step(case: Case, size: str, way: str) -> Iteration:
    # Micro-batches divide the batch of a rank: powers of two do.
    micro, batch = (2 ** round(math.log2(case[name])) for name in ("micro_batch", "batch"))
    return step(size, way, micro, batch, case["network_gb_per_s"])


def speedup(case: Case) -> float:
    """PPMoE over DPMoE on the 6.7B model."""
    return rate(case, "medium", "ppmoe") / rate(case, "medium", "dpmoe")


def of_backbone(case: Case) -> float:
    """The 143B model's tokens/s over those of its backbone."""
    return rate(case, "6.7b", "ppmoe") / rate(case, "6.7b", "backbone")


def of_backbone_base(case: Case) -> float:
    """The 6.7B model's tokens/s under DPMoE over those of its backbone."""
    return rate(case, "medium", "dpmoe") / rate(case, "medium", "data")


def share(way: str, *kinds: str) -> Callable[[Case], float]:
    """Part of an iteration's passes that goes into experts and what belongs to them."""

    def compute(case: Case) -> float:
        done = _step(case, "medium", way)
        lines = [
            x for x in done.breakdown if x.bound_by != "bubble" and x.op not in ("gradients", "optimiser")
        ]
        return sum(x.seconds for x in lines if x.op in kinds) / sum(x.seconds for x in lines)

    return compute


def exchange_over_experts(case: Case) -> float:
    """Seconds of one all-to-all over those of the experts' products, forward, under DPMoE."""
    seconds = {x.op: x.seconds for x in _step(case, "medium", "dpmoe").breakdown}
    # Two exchanges forward and two backward; backward, twice the products.
    return seconds["ep"] / 4.0 / ((seconds["expert_up"] + seconds["expert_down"]) / 3.0)


MOE = (
    "ep",
    "expert_up",
    "expert_down",
    "expert_activation",
    "permute",
    "sort",
    "router",
    "top_k",
    "weighted_sum",
)


RING = (
    "the printed condition is for a ring in which E - 1 steps pass everything on; here every rank sends each "
    "of the others its part at once"
)


def _row(
    name: str,
    figure: Figure,
    compute: Callable[[Case], float],
    claim: str = "",
    *,
    top: bool = False,
    reason: str = UNKNOWN,
    cause: str = "missing specification",
) -> Row:
    return Row(
        "Pipeline MoE",
        name,
        figure,
        compute,
        "training",
        "layout(experts over the tensor-parallel ranks, tp=8 pp=4)",
        hardware="32x V100 SXM2 32 GB, 8 per node, InfiniBand 100 Gbit/s",
        workload="GPT-3 with 64 experts top 1 in every second layer, sequences of 2048 tokens",
        assumed=ASSUMED,
        headline=top,
        reason=reason,
        cause=cause,
        claims=(claim,) if claim else (),
    )


def _share(metric: str, value: float) -> Figure:
    return Figure(
        metric, "share", value, grade="S", source=SOURCE, locator="measurements of the forward pass"
    )


ROWS = (
    _row("speedup", headline("Pipeline MoE"), speedup, "Pipeline MoE/1", top=True),
    _row("of-backbone", claims()["Pipeline MoE/2"].figure("share"), of_backbone, "Pipeline MoE/2"),
    _row("dpmoe-of-backbone", _share("throughput over backbone", 0.662), of_backbone_base),
    _row("dpmoe-all-to-all", _share("all-to-all of forward", 0.655), share("dpmoe", "ep")),
    _row("dpmoe-experts", _share("MoE of forward", 0.826), share("dpmoe", *MOE)),
    _row("ppmoe-reduction", _share("MoE communication of forward", 0.207), share("ppmoe", "ep")),
    _row("ppmoe-experts", _share("MoE of forward", 0.382), share("ppmoe", *MOE)),
    _row(
        "exchange-over-experts",
        Figure(
            "all-to-all over experts, at least",
            "ratio",
            63 * 64 / 16.0,
            grade="S",
            source=SOURCE,
            locator="condition (E - 1) E / 16 for E = 64",
        ),
        exchange_over_experts,
        reason=RING,
        cause="disagreement",
    ),
)
