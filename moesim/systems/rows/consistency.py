"""Not All Models Suit Expert Offloading: how large a cache local routing consistency suggests."""

from __future__ import annotations

from statistics import geometric_mean

import numpy as np

from moesim.residency import consistency
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Row
from moesim.systems.traces import routing

#: Profiles of models with fine-grained experts whose persistence is measured.
PROFILES = ("gpt-oss", "deepseek-v2-lite")
LENGTHS = (4, 16, 64, 256)


def cache_ratio(case: Case) -> float:
    """Experts that a cache should hold per active expert: what SRP implies, mean over window lengths."""
    found = []
    for profile in PROFILES if case.trace is None else ("",):
        trace = routing(case, profile, 12000, 24)
        measured = consistency(trace, lengths=LENGTHS, pool_samples=0, draws=0, seed=case.seed)
        ratios = measured.cache_ratio.model
        weights = np.arange(len(LENGTHS)) <= round(case["longest"])
        found += [float(r) for r, w in zip(ratios, weights, strict=True) if w and np.isfinite(r)]
    return geometric_mean(found)


ROWS = (
    Row(
        "Local routing consistency",
        "cache-size",
        headline("Local routing consistency"),
        cache_ratio,
        "routing",
        "Residency(layer, size by SRP)",
        workload="cache ratio of the best segment prediction, mean over windows of 4 to 256 tokens",
        assumed=(
            Assumption(
                "longest", 3, 1, 3, "last window length that counts: 1 to 3 are 16, 64 and 256 tokens"
            ),
        ),
        routing="drawn from the profiles gpt-oss and deepseek-v2-lite, whose persistence is measured",
        headline=True,
        claims=("Local routing consistency/1",),
        cause="disagreement",
        reason="the paper balances cost and hits over 20 models; here it is the ratio that SRP implies",
    ),
)
