"""Faster MoE LLM Inference for Extremely Large Models (arXiv:2505.03531): fewer experts per token."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from math import log2
from statistics import geometric_mean

from moesim.correction import calibration_of
from moesim.errors import OutOfDomainWarning
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.model.types import Model, MoE
from moesim.prediction import Workload, predict
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row

SOURCE = "arXiv:2505.03531"
SLOTS = "Gate(fewer experts per token)"
BOX = "h200-sxm-8"
LAYOUT = Assumption(
    "attention_dp",
    1,
    1,
    8,
    "ranks of data-parallel attention, with experts on whole ranks beyond 1; not printed, 1 is the default",
)
#: Loads over which the claim is averaged: where the paper sees every regime.
LOADS = (4, 8, 32, 64, 128)


@functools.cache
def narrowed(name: str, top_k: int) -> Model:
    """The model with another number of active experts."""
    model = load_model(name)
    layers = tuple(
        replace(layer, ffn=replace(layer.ffn, top_k=top_k)) if isinstance(layer.ffn, MoE) else layer
        for layer in model.layers
    )
    return replace(model, layers=layers)


@functools.lru_cache(maxsize=64)
def throughput(top_k: int, concurrency: int, attention_dp: int, seed: int) -> float:
    """Tokens in and out per second of DeepSeek-V3 with 1024 of each, by physics alone."""
    tp = 8 // attention_dp
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfDomainWarning)
        answer = predict(
            narrowed("deepseek-v3", top_k),
            load_hardware(BOX),
            Parallelism(tp=tp, dp=attention_dp, ep=8 if attention_dp > 1 else 1),
            Workload(input_len=1024, output_len=1024, concurrency=concurrency),
            seed=seed,
            calibration=calibration_of("none"),
        )
    return answer.total_token_throughput


def _dp(case: Case) -> int:
    return int(2 ** round(log2(case["attention_dp"])))


def gain(case: Case, top_k: int, concurrency: int) -> float:
    """Throughput over that with 8 active experts."""
    few, all_ = (throughput(k, concurrency, _dp(case), case.seed) for k in (top_k, 8))
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
    )


def _absolute_row(top_k: int, concurrency: int, value: float) -> Row:
    return Row(
        "Faster MoE",
        f"throughput-{top_k}-c{concurrency}",
        Figure("tokens in and out", "tok/s", value, source=SOURCE, locator="Table 9"),
        lambda case: throughput(top_k, concurrency, _dp(case), case.seed),
        "serving",
        SLOTS,
        hardware=BOX,
        workload=f"DeepSeek-V3 in FP8, 1024 in, 1024 out, {concurrency} at a time, {top_k} active experts",
        assumed=(LAYOUT,),
        reason="SGLang v0.4.4 ran far below what its kernels allow; its host overheads are not modelled here",
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
    ),
    _gain_row(4, 4, 312 / 300),
    _gain_row(4, 8, 554 / 526),
    _gain_row(4, 64, 1851 / 1666),
    _gain_row(4, 128, 2985 / 2751),
    _gain_row(3, 128, 3100 / 2751),
    _gain_row(3, 8, 575 / 526),
    _absolute_row(8, 8, 526),
    _absolute_row(8, 128, 2751),
)
