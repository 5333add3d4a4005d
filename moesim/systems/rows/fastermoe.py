"""FasterMoE (PPoPP 2022): shadowed experts, and a schedule that works on tokens as they come."""

from __future__ import annotations

import numpy as np

from moesim.overlap import ShadowLayer, smart_seconds
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row

SOURCE = "PPoPP 2022 (note)"
DEVICES = 64
#: 16 nodes of four V100 with one 100 Gb/s card each; 15.7 TFLOP/s in 32 bits, NVIDIA's data sheet.
LAYER = ShadowLayer(2048, 2.0, 15.7e12, 100e9 / 8.0 / 4.0)
DRAWS = 16
#: Groups of the pairwise exchange: a node each.
GROUPS = 16

SKEW = Assumption(
    "skew",
    1.0,
    0.5,
    1.5,
    "deviation of the logarithm of expert loads without a balance loss: 0.6 to 0.8 measured on balanced "
    "models",
)
TOKENS = Assumption("tokens", 8192, 2048, 16384, "of a device and layer: batch and length are not held")


def _loads(case: Case) -> np.ndarray:
    """Tokens of each expert, ``[draws, devices]``; two experts per token."""
    rng = np.random.default_rng(case.seed)
    weights = np.exp(case["skew"] * rng.standard_normal((DRAWS, DEVICES)))
    return np.asarray(2.0 * DEVICES * case["tokens"] * weights / weights.sum(axis=1, keepdims=True))


def _attention_seconds(case: Case) -> float:
    """Of a device's tokens, forward and backward; sequences of 1024."""
    flops = case["tokens"] * (8.0 * LAYER.hidden**2 + 4.0 * 1024.0 * LAYER.hidden)
    return 3.0 * flops / LAYER.flops_per_s


def seconds(case: Case, shadow: bool, smart: bool) -> float:
    """Mean seconds of a transformer layer."""
    total = 0.0
    for loads in _loads(case):
        # A device's expert gets what all devices send it; the formulas count from the busiest device's side.
        compute, exchange = LAYER.seconds(loads, LAYER.shadows_of(loads) if shadow else 0)
        total += smart_seconds(compute, exchange, GROUPS) if smart else compute + exchange
    return _attention_seconds(case) + total / DRAWS


def gain(case: Case, shadow: bool, smart: bool, over_shadow: bool = False) -> float:
    """Speedup over FastMoE, or over shadowing alone."""
    return seconds(case, over_shadow, False) / seconds(case, shadow, smart)


def _row(name: str, figure: Figure, shadow: bool, smart: bool, over: bool = False, **more: object) -> Row:
    return Row(
        "FasterMoE",
        name,
        figure,
        lambda case: gain(case, shadow, smart, over),
        "training",
        "Placement(shadow) + Timeline(pairwise groups)",
        hardware="64x V100, 16 nodes, 100 Gb/s each",
        workload="MoE-GPT, H = 2048, 64 experts of width 2 H, top-2, forward and backward",
        assumed=(SKEW, TOKENS),
        routing="drawn: lognormal loads",
        **more,  # type: ignore[arg-type]
    )


def _part(value: float, what: str, baseline: str) -> Figure:
    return Figure(
        f"speedup from {what}", "x", value, baseline=baseline, grade="S", source=SOURCE, locator="Sec 6"
    )


WHICH = "which model, batch and step of training the largest gain is of is not held; loads are drawn"

ROWS = (
    _row(
        "end-to-end",
        headline("FasterMoE"),
        True,
        True,
        headline=True,
        reason=WHICH,
        cause="missing specification",
    ),
    _row(
        "shadowing",
        _part(4.74, "shadowing", "FastMoE"),
        True,
        False,
        reason=WHICH,
        cause="missing specification",
    ),
    _row(
        "schedule",
        _part(1.40, "the schedule", "without it"),
        True,
        True,
        over=True,
        reason=WHICH,
        cause="missing specification",
    ),
)
