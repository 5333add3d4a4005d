"""Compare a generated trace with the statistics it should have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moesim.analysis import statistics
from moesim.trace import Routing

#: What is compared, and the relative difference that passes.
TOLERANCES = {
    "max_over_mean": 0.1,
    "entropy_normalised": 0.1,
    "gini": 0.1,
    "top20_share": 0.1,
    "random_pair_overlap": 0.1,
    "consecutive_overlap": 0.1,
    "lag_overlap.2": 0.1,
    "lag_overlap.4": 0.1,
    "lag_overlap.16": 0.1,
    "lag_overlap.64": 0.1,
    "next_layer_entropy": 0.1,
    "next_layer_information_bits": 0.2,
    "recall_k": 0.12,
    "next_layer_cover": 0.1,
    "next_token_cover": 0.1,
    "top10_pair_share": 0.1,
    "distinct_fraction.8": 0.1,
    "distinct_fraction.32": 0.1,
    "distinct_fraction.128": 0.1,
    "distinct_fraction_mixed.8": 0.1,
    "distinct_fraction_mixed.32": 0.1,
    "distinct_fraction_mixed.128": 0.1,
    "segment_cover_k.16": 0.1,
    "segment_cover_2k.16": 0.1,
    "lru_hit_ratio.0.25": 0.08,
    "lru_hit_ratio.0.5": 0.05,
    "rank_max_over_mean.8": 0.03,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One statistic, mean over layers.

    Parameters
    ----------
    name
        As in `trace stats`; a dot separates what is nested there.
    target, generated
        Its two values.
    tolerance
        The relative difference that passes.
    """

    name: str
    target: float
    generated: float
    tolerance: float

    @property
    def error(self) -> float:
        """Relative difference, signed."""
        return self.generated / self.target - 1 if self.target else float("inf") * (self.generated != 0)

    @property
    def passes(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.error) <= self.tolerance


def measure(trace: Routing | str | os.PathLike[str], seed: int = 0) -> dict[str, float]:
    """The compared statistics of a trace or file, mean over layers; what it does not have is left out."""
    found = flat(statistics(trace, seed=seed).overall)
    return {name: found[name] for name in TOLERANCES if name in found}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a nested mapping by dotted name; what is no finite number is left out.

    >>> flat({"a": 1.0, "b": {"2": 3.0, "4": None}})
    {'a': 1.0, 'b.2': 3.0}
    """
    numbers: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            numbers |= flat(value, f"{prefix}{key}.")
        elif value is not None and value == value and abs(value) != float("inf"):
            numbers[f"{prefix}{key}"] = float(value)
    return numbers


def compare(target: Mapping[str, float], generated: Mapping[str, float]) -> list[Row]:
    """Statistics that both have, in the order of `TOLERANCES`."""
    both = [name for name in TOLERANCES if name in target and name in generated]
    return [Row(name, target[name], generated[name], TOLERANCES[name]) for name in both]
