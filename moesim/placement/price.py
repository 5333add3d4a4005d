"""What a plan is worth in seconds: predicted before and after, on one traffic or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moesim.errors import InfeasibleError
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model.types import Model
from moesim.prediction import Engine, Workload, predict
from moesim.result import Prediction
from moesim.trace.types import LoadCounts, RoutingTrace

#: Tokens per rank and step at which a plan is priced beside the workload itself.
PRICED_TOKENS = (4, 16, 64, 256)
#: Draws of batches over which a gain is looked at.
DRAWS = 5

#: Placements that are priced, by name, and what they are called in a sentence.
AGAINST = {
    "before": "the engine's own placement",
    "balanced": "the best plan found without redundant experts",
}


@dataclass(frozen=True, slots=True)
class PricePoint:
    """Time per output token at one batch size; None where it does not fit.

    Parameters
    ----------
    tokens_per_rank
        Sequences each rank decodes.
    before_s, after_s
        With the engine's own placement, and with the plan.
    balanced_s
        With the best plan found without redundant experts.
    """

    tokens_per_rank: int
    before_s: float | None
    after_s: float | None
    balanced_s: float | None


@dataclass(frozen=True, slots=True)
class Gain:
    """Output throughput of a plan over that of another placement, less one, on the same drawn batches.

    What measured runs take beyond physics is the same for both and cancels.

    Parameters
    ----------
    mean, low, high
        Over `DRAWS` draws of batches.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Pricing:
    """Prices plans of one model on one cluster, attention data-parallel over the expert ranks.

    Parameters
    ----------
    model, hardware, ep, engine, seed
        As in `moesim.placement.place`.
    traffic
        Routing that batches are drawn from.
    """

    model: Model
    hardware: Hardware
    ep: int
    traffic: RoutingTrace | LoadCounts
    engine: Engine
    seed: int

    def price(self, plan: ExpertMap, workload: Workload) -> Prediction:
        """Predict the deployment with a plan.

        Raises
        ------
        InfeasibleError
            If it does not fit.
        """
        return predict(
            self.model,
            self.hardware,
            Parallelism(dp=self.ep, ep=self.ep),
            workload,
            trace=self.traffic,
            plan=plan,
            engine=self.engine,
            seed=self.seed,
        )

    def point(self, plans: Mapping[str, ExpertMap], workload: Workload, tokens: int) -> PricePoint:
        """Price plans at `tokens` sequences per rank."""
        load = Workload(workload.input_len, workload.output_len, tokens * self.ep)
        found: dict[str, float | None] = {}
        for name in ("before", "after", "balanced"):
            plan = plans.get(name)
            try:
                answer = self.price(plan, load) if plan is not None else None
            except InfeasibleError:
                answer = None
            # A batch that the cache does not hold would be a price for a smaller one.
            whole = answer is not None and answer.running >= answer.concurrency
            found[name] = answer.tpot_s if answer is not None and whole else None
        return PricePoint(tokens, found["before"], found["after"], found["balanced"])

    def gain(self, plan: ExpertMap, other: ExpertMap, workload: Workload) -> Gain:
        """Compare two plans over several draws of batches."""
        ratios = []
        for seed in range(self.seed, self.seed + DRAWS):
            drawn = replace(self, seed=seed)
            new, old = (drawn.price(p, workload).output_throughput for p in (plan, other))
            ratios.append(new / old - 1.0)
        return Gain(sum(ratios) / DRAWS, min(ratios), max(ratios))


def verdict(
    predicted: Mapping[str, Prediction],
    gains: Mapping[str, Gain],
    elsewhere: Mapping[str, Gain],
    prices: Sequence[PricePoint],
    redundant: int,
) -> tuple[str, ...]:
    """What the price says, in sentences."""
    after = predicted["after"]
    found = []
    for name, what in AGAINST.items():
        if name not in predicted:
            continue
        tpot_ms = (predicted[name].tpot_s * 1e3, after.tpot_s * 1e3)
        found.append(
            f"At {after.concurrency:g} concurrent requests the plan {_says(gains[name])} of output "
            f"throughput against {what} (TPOT {tpot_ms[0]:.2f} -> {tpot_ms[1]:.2f} ms)."
        )
        if name in elsewhere:
            found.append(f"On the other traffic it {_says(elsewhere[name])} against {what}.")
    if redundant:
        lost = [p.tokens_per_rank for p in prices if p.after_s is not None and _best_other(p) < p.after_s]
        if lost:
            sizes = ", ".join(map(str, lost))
            found.append(
                f"The weights of the {redundant} redundant experts per layer cost more than they save at "
                f"{sizes} tokens per rank and step: use fewer there, or none."
            )
    return tuple(found)


def _says(gain: Gain) -> str:
    word = "gains" if gain.mean >= 0 else "LOSES"
    low, high = sorted((abs(gain.low), abs(gain.high)))
    span = f"{low:.1%} to {high:.1%}" if gain.low * gain.high >= 0 else f"{gain.low:+.1%} to {gain.high:+.1%}"
    return f"{word} {abs(gain.mean):.1%} ({span} over {DRAWS} draws of batches)"


def _best_other(point: PricePoint) -> float:
    return min(s for s in (point.before_s, point.balanced_s, float("inf")) if s is not None)


def price_dict(answer: Prediction) -> dict[str, Any]:
    """Plain values of a price for JSON."""
    return {
        "ttft_s": answer.ttft_s,
        "tpot_s": answer.tpot_s,
        "output_throughput": answer.output_throughput,
        "load_imbalance": answer.load_imbalance,
        "concurrency": answer.concurrency,
        "running": answer.running,
        "memory_bytes": answer.memory_bytes,
        "interval": answer.interval,
    }
