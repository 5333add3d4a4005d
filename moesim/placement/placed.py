"""A plan with its proof, its price and its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesim.layout import ExpertMap
from moesim.placement.files import EmittedFile
from moesim.placement.migration import Moves
from moesim.placement.price import Gain, PricePoint, price_dict
from moesim.placement.redundancy import Redundancy
from moesim.placement.solution import Imbalance, Solution
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.result import Prediction
from moesim.shown import block, table
from moesim.tabular import Tabular


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Imbalance of one placement on the loads it was fitted to, and on others."""

    fitted: Imbalance
    evaluated: Imbalance | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "fitted": _imbalance(self.fitted),
            "evaluated": None if self.evaluated is None else _imbalance(self.evaluated),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Placed(Tabular):
    """A plan, its proof, its price.

    Parameters
    ----------
    solution
        The plan and its certificate.
    moe_layer_ids
        Decoder index of each row of the plan.
    dispatch
        How the engine chooses among replicas, which all imbalance here assumes.
    judged
        By placement: ``contiguous``, ``greedy``, ``plan``.
    lower_bound
        Of max/mean, ``[layers]``: no placement with these slots is more even; NaN for a layer without load.
    predicted
        ``before`` (experts in order, none redundant), ``greedy``, ``balanced`` (the best plan found without
        redundant experts) and ``after`` (the plan); empty without hardware.
    predicted_elsewhere
        The same on other traffic, which did not influence the plan.
    gains, gains_elsewhere
        Of the plan against ``before`` and ``balanced``, on either traffic.
    prices
        Predictions over batch sizes.
    verdict
        What the price says, in sentences.
    redundancy
        Numbers of redundant experts beside each other, where the best was asked for.
    moves
        Copies that lead to it from the plan that was said to be loaded.
    emitted
        Files written.
    """

    solution: Solution
    moe_layer_ids: tuple[int, ...]
    dispatch: str
    judged: Mapping[str, Judged]
    lower_bound: FloatArray
    predicted: Mapping[str, Prediction] = field(default_factory=dict)
    predicted_elsewhere: Mapping[str, Prediction] = field(default_factory=dict)
    gains: Mapping[str, Gain] = field(default_factory=dict)
    gains_elsewhere: Mapping[str, Gain] = field(default_factory=dict)
    prices: tuple[PricePoint, ...] = ()
    verdict: tuple[str, ...] = ()
    redundancy: Redundancy | None = None
    moves: Moves | None = None
    emitted: tuple[EmittedFile, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def expert_map(self) -> ExpertMap:
        """The plan."""
        return self.solution.expert_map

    @property
    def physical_to_logical_map(self) -> IntArray:
        """The plan as int64 ``[moe_layers, slots]``."""
        return self.expert_map.physical_to_logical

    def columns(self) -> dict[str, Any]:
        """A row per MoE layer: largest over mean rank load by placement, bound and gap of the plan."""
        found: dict[str, Any] = {"layer_id": list(self.moe_layer_ids)}
        for name, judged in self.judged.items():
            found[name] = judged.fitted.per_layer
            if judged.evaluated is not None:
                found[f"{name}_evaluated"] = judged.evaluated.per_layer
        return found | {"lower_bound": self.lower_bound, "gap": self.solution.gap}

    def _repr_html_(self) -> str:
        plan = self.expert_map
        elsewhere = self.judged["plan"].evaluated is not None
        head = ["placement", "mean", "worst layer", *(["mean, other traffic", "worst"] if elsewhere else [])]
        rows: list[tuple[str | float | None, ...]] = []
        for name, judged in self.judged.items():
            sides = [judged.fitted, *([judged.evaluated] if judged.evaluated is not None else [])]
            rows.append((name, *(_four(value) for side in sides for value in (side.mean, side.worst))))
        bound = _four(_mean(self.lower_bound)), _four(_worst(self.lower_bound))
        rows.append(("no placement below", *bound, *[None] * (len(head) - 3)))
        parts = [table(head, rows)]
        if self.predicted:
            seconds = [
                (name, 1e3 * found.tpot_s, found.output_throughput, found.load_imbalance)
                for name, found in self.predicted.items()
            ]
            parts.append(table(["predicted", "TPOT, ms", "output tokens/s", "imbalance of steps"], seconds))
        return block(
            f"{plan.num_experts} experts and {plan.redundant} redundant on {plan.ranks} ranks, "
            f"{plan.layers} layers: largest over mean rank load",
            *parts,
            notes=[*self.verdict, *self.warnings],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; imbalance and bound are max/mean, gaps are fractions."""
        return {
            "load_imbalance": {name: judged.to_dict() for name, judged in self.judged.items()},
            "lower_bound": {"mean": _mean(self.lower_bound), "per_layer": self.lower_bound.tolist()},
            "bound_kind": list(self.solution.bound_kind),
            "gap": {"mean": _mean(self.solution.gap), "worst": _worst(self.solution.gap)},
            "gap_per_layer": self.solution.gap.tolist(),
            "method": self.solution.method,
            "objective": {
                "terms": self.solution.objective,
                "mean": _mean(self.solution.value),
                "per_layer": self.solution.value.tolist(),
                "bound_per_layer": self.solution.bound.tolist(),
            },
            "dispatch": self.dispatch,
            "predicted": {name: price_dict(answer) for name, answer in self.predicted.items()},
            "predicted_elsewhere": {
                name: price_dict(answer) for name, answer in self.predicted_elsewhere.items()
            },
            "gain": {name: _gain(gain) for name, gain in self.gains.items()},
            "gain_elsewhere": {name: _gain(gain) for name, gain in self.gains_elsewhere.items()},
            "prices": [
                {
                    "tokens_per_rank": p.tokens_per_rank,
                    "before_tpot_s": p.before_s,
                    "balanced_tpot_s": p.balanced_s,
                    "after_tpot_s": p.after_s,
                }
                for p in self.prices
            ],
            "verdict": list(self.verdict),
            "redundancy": self.redundancy.to_dict(self.moe_layer_ids) if self.redundancy else None,
            "migration": None
            if self.moves is None
            else {
                "experts": int(self.moves.experts.sum()),
                "bytes": self.moves.total_bytes,
                "bytes_between_domains": float(self.moves.out.sum()),
            },
            "ranks": self.expert_map.ranks,
            "slots": self.expert_map.slots,
            "redundant": self.expert_map.redundant,
            "moe_layer_ids": list(self.moe_layer_ids),
            "seconds": self.solution.seconds,
            "emitted": [file.to_dict() for file in self.emitted],
            "warnings": list(self.warnings),
        }

    def record(self) -> dict[str, Any]:
        """How the plan was found and how well it does: what is kept beside its files."""
        return {
            "method": self.solution.method,
            "dispatch": self.dispatch,
            "load_imbalance": self.judged["plan"].to_dict(),
            "lower_bound": {"mean": _mean(self.lower_bound), "per_layer": self.lower_bound.tolist()},
            "gap": {"mean": _mean(self.solution.gap), "worst": float(np.nanmax(self.solution.gap))},
        }


def _imbalance(judged: Imbalance) -> dict[str, Any]:
    return {"mean": judged.mean, "worst": judged.worst, "per_layer": judged.per_layer.tolist()}


def _gain(gain: Gain) -> dict[str, float]:
    return {"mean": gain.mean, "low": gain.low, "high": gain.high}


def _mean(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _worst(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else math.nan


def _four(ratio: float) -> str | None:
    """Ratios near 1 differ in their third digit."""
    return None if math.isnan(ratio) else f"{ratio:.4f}"
