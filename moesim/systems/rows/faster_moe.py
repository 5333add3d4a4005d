"""Faster MoE LLM Inference for Extremely Large Models (arXiv:2505.03531): fewer experts."""

from __future__ import annotations

import functools
from math import log2
from statistics import geometric_mean

import numpy as np

from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.systems.fewer_experts import narrowed, throughput
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row

SOURCE = "arXiv:2505.03531"
SLOTS = "Gate(fewer experts per token)"
BOX, LITE_BOX = "h200-sxm-8", "a800-pcie-2"
LAYOUT = Assumption(
    "attention_dp",
    1,
    1,
    8,
    "ranks of data-parallel attention, with experts on whole ranks beyond 1; not printed, 1 is the default",
)
#: Loads over which the claim is averaged: where the paper sees every regime.
LOADS = (4, 8, 32, 64, 128)
LIMIT = (
    "with 64 and more at a time the engine of early 2025 took a fifth to a quarter longer: its grouped "
    "products are known by the difference of two laws of dense ones alone, and its prompts took longer still"
)


@functools.lru_cache(maxsize=64)
def large(top_k: int, attention_dp: int, seed: int) -> dict[int, float]:
    """Tokens in and out per second of DeepSeek-V3 by load, 1024 of each, by physics alone."""
    loads = sorted({*LOADS, 16})
    layout = Parallelism(tp=8 // attention_dp, dp=attention_dp, ep=8 if attention_dp > 1 else 1)
    model = narrowed(load_model("deepseek-v3"), top_k)
    found = throughput(model, load_hardware(BOX), layout, np.array(loads, float), seed=seed)
    return dict(zip(loads, found.tolist(), strict=True))


#: Loads of the rows of DeepSeek-V2-Lite, one in each regime.
LITE_LOADS = (4, 32, 128, 256, 512)


@functools.lru_cache(maxsize=64)
def lite(top_k: int, experts: int, ranks: int, seed: int) -> dict[int, float]:
    """Tokens in and out per second of DeepSeek-V2-Lite by load, on one device or on two."""
    model = narrowed(load_model("deepseek-v2-lite"), top_k, experts)
    layout = Parallelism(tp=ranks)
    found = throughput(model, load_hardware(LITE_BOX), layout, np.array(LITE_LOADS, float), seed=seed)
    return dict(zip(LITE_LOADS, found.tolist(), strict=True))


def _dp(case: Case) -> int:
    return int(2 ** round(log2(case["attention_dp"])))


def gain(case: Case, top_k: int, concurrency: int) -> float:
    """Throughput over that with 8 active experts."""
    few, all_ = (large(k, _dp(case), case.seed)[concurrency] for k in (top_k, 8))
    return few / all_


def mean_gain(case: Case) -> float:
    """Geometric mean over loads, with half of the active experts."""
    return geometric_mean([gain(case, 4, load) for load in LOADS])


def _gain_row(top_k: int, concurrency: int, value: float) -> Row:
    return Row(
        "Faster MoE",
        f"gain-{top_k}-of-8-c{concurrency}",
        Figure("throughput gain", "x", value, baseline="8 active experts", source=SOURCE, locator="Table 9"),
        lambda case: gain(case, top_k, concurrency),
        "serving",
        SLOTS,
        hardware=BOX,
        workload=f"DeepSeek-V3 in FP8, 1024 in, 1024 out, {concurrency} at a time",
        assumed=(LAYOUT,),
        cause="our limit",
        reason="small gains; the share of the experts in the time is a fifth too large",
    )


def _absolute_row(top_k: int, concurrency: int, value: float) -> Row:
    return Row(
        "Faster MoE",
        f"throughput-{top_k}-c{concurrency}",
        Figure("tokens in and out", "tok/s", value, source=SOURCE, locator="Table 9"),
        lambda case: large(top_k, _dp(case), case.seed)[concurrency],
        "serving",
        SLOTS,
        hardware=BOX,
        workload=f"DeepSeek-V3 in FP8, 1024 in, 1024 out, {concurrency} at a time, {top_k} active experts",
        assumed=(LAYOUT,),
        cause="our limit",
        reason=LIMIT,
    )


RANKS = Assumption("devices", 1, 1, 2, "tensor-parallel ranks of 2; not printed, 1 is the default")


def _lite_row(table: int, top_k: int, experts: int, concurrency: int, value: float) -> Row:
    return Row(
        "Faster MoE",
        f"lite-{top_k}-of-{experts}-c{concurrency}-table-{table}",
        Figure("tokens in and out", "tok/s", value, source=SOURCE, locator=f"Table {table}"),
        lambda case: lite(top_k, experts, round(case["devices"]), case.seed)[concurrency],
        "serving",
        SLOTS,
        hardware=LITE_BOX,
        workload=f"DeepSeek-V2-Lite, {top_k} of {experts} experts, 1024 in and out, {concurrency} at a time",
        assumed=(RANKS,),
        cause="disagreement",
        reason="nothing is fitted; few requests run faster, and very many slower, than here",
    )


#: Table, active experts, experts, requests at a time, tokens per second.
LITE_CELLS = (
    (8, 6, 64, 32, 2345),
    (8, 6, 64, 128, 5591),
    (8, 6, 64, 256, 7263),
    (8, 6, 64, 512, 9379),
    (8, 2, 64, 4, 1099),
    (8, 2, 64, 32, 3069),
    (8, 2, 64, 128, 6126),
    (8, 2, 64, 256, 7846),
    (12, 6, 64, 4, 742),
    (12, 6, 16, 4, 958),
    (12, 6, 16, 32, 4068),
    (12, 6, 16, 128, 7693),
    (12, 6, 16, 256, 7286),
    (12, 6, 16, 512, 9154),
)

ROWS = (
    Row(
        "Faster MoE",
        "gain-4-of-8",
        headline("Faster MoE"),
        mean_gain,
        "serving",
        SLOTS,
        hardware=BOX,
        workload="DeepSeek-V3 in FP8, 4 of 8 active experts, 1024 in and out; mean over 4 to 128 at a time",
        assumed=(LAYOUT,),
        headline=True,
        claims=("Faster MoE/1",),
    ),
    _gain_row(4, 4, 312 / 300),
    _gain_row(4, 8, 554 / 526),
    _gain_row(4, 64, 1851 / 1666),
    _gain_row(4, 128, 2985 / 2751),
    _gain_row(3, 128, 3100 / 2751),
    _gain_row(3, 8, 575 / 526),
    _absolute_row(8, 8, 526),
    _absolute_row(8, 128, 2751),
    *(_lite_row(*cell) for cell in LITE_CELLS),
)
