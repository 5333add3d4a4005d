"""EdgeMoE (arXiv:2308.14352): experts in storage, in few bits, loaded while the layer before computes.

A MoE layer with everything before it computes for ``c`` and loads an expert of 4 bits in 1. On demand it
takes ``c + 1``, and with FP32 experts ``c + 8``. EdgeMoE finds part of the experts in its buffer and has
guessed part of the others; a guess loads while the layer computes, hidden as far as ``c`` reaches:

    t = c + missed w + guessed max(w - c, 0),    missed = (1 - hits) (1 - recall)

with ``w`` for its own mean width. The paper prints the gain over FP32 experts too, which gives ``c``; the
gain over 4-bit experts follows.
"""

from __future__ import annotations

from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Row

#: GB of Switch-Base-8 in storage: all in 4 bits, and in the widths that EdgeMoE finds (Table II).
STORED_4, STORED = 0.85, 0.81
#: Least gain over FP32 experts on demand on Jetson TX2 (Sec IV-B), an input.
OVER_FP32 = 2.64

ASSUMED = (
    Assumption(
        "recall", 0.87, 0.6, 0.95, "of experts by the two layers before; 87.1 % is the one example given"
    ),
    Assumption("hits", 0.2, 0.1, 0.6, "of a buffer of 10 experts out of 96; more with skewed loads"),
)


def layer(case: Case, run: float, width: float = STORED / STORED_4) -> float:
    """Seconds of a layer with guesses and a buffer, over the load of a 4-bit expert."""
    absent = 1.0 - case["hits"]
    missed = absent * (1.0 - case["recall"]) * width
    return float(run + missed + absent * case["recall"] * max(width - run, 0.0))


def over(case: Case, run: float, bits: float) -> float:
    """Time per token with every expert loaded on demand in so many bits, over EdgeMoE's."""
    return (run + bits / 4.0) / layer(case, run)


def speedup(case: Case) -> float:
    """Gain over 4-bit experts on demand, on the board where that over FP32 experts is as printed."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if over(case, middle, 32.0) > OVER_FP32 else (low, middle)
    return over(case, low, 4.0)


ROWS = (
    Row(
        "EdgeMoE",
        "speedup",
        headline("EdgeMoE"),
        speedup,
        "storage",
        "Precision(static per expert) + Predictor(last two layers) + Residency(frequency, nearness)",
        hardware="Jetson TX2",
        workload="Switch-Base, batch 1, against 4-bit experts on demand; 2.64 over FP32 experts is an input",
        assumed=ASSUMED,
        headline=True,
        claims=("EdgeMoE/1",),
    ),
)
