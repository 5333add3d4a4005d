"""MegaBlocks: dropless experts in blocks of 128 rows, against experts padded to the busiest one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from moesim.hardware import load_hardware
from moesim.model import Model
from moesim.systems.headlines import claims, headline
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.training import Costs, Iteration, Recipe, TrainLayout, gpt, iterate

SOURCE = "arXiv:2211.15841 (full text)"
#: Table 1: layers and width; table 3: sequences of a micro-batch of MegaBlocks and of Tutel.
SIZES = {"xs": (6, 512), "small": (12, 768), "medium": (24, 1024), "large": (24, 1536), "xl": (24, 2048)}
MICRO = {"xs": (64, 32), "small": (32, 8), "medium": (8, 1)}
DENSE_MICRO = {"xs": 64, "xl": 8}
GPUS = 8

#: Busiest of 64 experts over the mean, in the part of a micro-batch that one GPU has, on the worst of 8:
#: Tutel pads all to that. Top-1 choices drawn from the profile of OLMoE, by sequences of a micro-batch
#: (benchmarks/training/capacity.py). Fewer sequences are more uneven.
BUSIEST = {"xs": 2.94, "small": 3.75, "medium": 5.50}
IMBALANCE = Assumption(
    "imbalance", 1.2, 1.0, 1.5, "busiest of 8 GPUs over the mean: not stated, at most the busiest expert's"
)


def assumed(size: str) -> tuple[Assumption, ...]:
    """What the paper does not say of a size."""
    capacity = Assumption(
        "capacity",
        BUSIEST[size],
        2.0,
        11.0,
        f"busiest of 64 experts over the mean, on the worst of 8 GPUs with {MICRO[size][1]} sequences each, "
        "as OLMoE routes; the paper says over 2 for a Small model and quotes up to 11 (section 3)",
    )
    return capacity, IMBALANCE


QUALITY = "compares runs that reach the same loss; moesim has no model of what dropped tokens cost"


@functools.cache
def model(size: str, experts: int = 64) -> Model:
    """A Transformer of table 1, or with each feed-forward block made 64 experts (table 2)."""
    layers, hidden = SIZES[size]
    return gpt(layers, hidden, hidden // 64, 51200, experts=experts, name=f"{size}-{experts}e")


@functools.cache
def _costs(size: str, experts: int) -> Costs:
    return Costs(model(size, experts), load_hardware("a100-sxm-80gb-8"))


@functools.lru_cache(maxsize=256)
def _step(size: str, experts: int, micro: int, padding: str, capacity: float, imbalance: float) -> Iteration:
    """Megatron-LM of 2022: scores are stored, there is dropout, states are on every GPU."""
    recipe = Recipe(512, 1024, micro, zero=0, dropout=True, fused=False, imbalance=imbalance)
    if padding != "none":
        recipe = replace(recipe, padding=padding)
    if padding == "capacity":
        recipe = replace(recipe, capacity_factor=capacity)
    costs = _costs(size, experts)
    layout = TrainLayout(dp=GPUS, ep=GPUS if experts else 1)
    return iterate(costs.model, costs.hardware, layout, recipe, costs=costs, need_memory=False)


def over_padding(case: Case, size: str) -> float:
    """Blocks over experts padded to the busiest, each with the micro-batch that fits."""
    blocks, padded = MICRO[size]
    ours = _step(size, 64, blocks, "block", 1.0, case["imbalance"])
    theirs = _step(size, 64, padded, "capacity", case["capacity"], 1.0)
    return theirs.step_s / ours.step_s


def dense_mfu(size: str) -> Callable[[Case], float]:
    """MFU of a dense Transformer, scores counted over the whole square as Megatron does."""
    return lambda _: _step(size, 0, DENSE_MICRO[size], "none", 1.0, 1.0).mfu


def _gain(size: str) -> Callable[[Case], float]:
    return lambda case: over_padding(case, size)


def _row(
    name: str,
    figure: Figure,
    compute: Callable[[Case], float] | None,
    reason: str,
    cause: str,
    **more: object,
) -> Row:
    return Row(
        "MegaBlocks",
        name,
        figure,
        compute,
        "training",
        "experts padded to blocks of 128 rows",
        hardware="8x A100 SXM 80 GB",
        workload="512 sequences of 1024 tokens, 64 experts top 1",
        reason=reason,
        cause=cause,
        **more,  # type: ignore[arg-type]
    )


PADDED = (
    "how uneven the experts of a run are is not stated, and padded ones pay for the busiest; what the host "
    "adds to micro-batches of one sequence is not modelled"
)

ROWS = (
    _row(
        "xs-over-tutel",
        headline("MegaBlocks"),
        _gain("xs"),
        PADDED,
        "missing specification",
        headline=True,
        assumed=assumed("xs"),
        claims=("MegaBlocks/1",),
    ),
    *(
        _row(
            f"{size}-over-padding",
            Figure("end-to-end training speedup", "x", value, None, "Tutel, padded", "P", SOURCE, "Fig 7"),
            _gain(size),
            PADDED,
            "missing specification",
            assumed=assumed(size),
        )
        for size, value in (("xs", 1.38), ("small", 2.0), ("medium", 4.35))
    ),
    _row(
        "over-dense", claims()["MegaBlocks/2"].figure(), None, QUALITY, "our limit", claims=("MegaBlocks/2",)
    ),
    *(
        _row(
            f"{size}-over-dropping",
            Figure(
                "end-to-end training speedup", "x", value, None, "Tutel, best capacity", "P", SOURCE, "Fig 8"
            ),
            None,
            QUALITY,
            "our limit",
        )
        for size, value in (("xs", 1.38), ("small", 1.37), ("medium", 1.18))
    ),
    *(
        _row(
            f"dense-mfu-{size}",
            Figure("MFU of Megatron-LM", "fraction", value, None, "", "P", SOURCE, "Section 6.1"),
            dense_mfu(size),
            "kernels of 2022 are taken at the rates of later ones",
            "disagreement",
        )
        for size, value in (("xs", 0.21), ("xl", 0.48))
    ),
)
