"""How many redundant experts: what they cost in memory for the cache, what they buy in throughput."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.errors import InfeasibleError
from moesim.layout import ExpertMap
from moesim.placement.solution import Solution
from moesim.result import Prediction

#: Numbers tried without a gain before the search for the best one ends.
PATIENCE = 2
#: Gain in throughput below which fewer copies are preferred: a tenth of what draws of batches differ by.
WORTH = 1e-3

Solve = Callable[[int], Solution]
Price = Callable[[ExpertMap], Sequence[Prediction]]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One number of redundant experts per layer.

    Parameters
    ----------
    redundant
        Experts beyond one of each, per layer.
    solution
        The plan with them; None if it does not fit.
    answers
        Predicted with the plan, for each traffic it is fitted to; empty if it does not fit.
    cache_tokens
        Tokens that the caches of all ranks hold beside the weights.
    why
        Why it does not fit.
    """

    redundant: int
    solution: Solution | None = None
    answers: tuple[Prediction, ...] = ()
    cache_tokens: float = 0.0
    why: str = ""

    @property
    def output_throughput(self) -> float:
        """Output tokens per second, averaged over traffic; 0 if it does not fit."""
        return float(np.mean([a.output_throughput for a in self.answers])) if self.answers else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        first = self.answers[0] if self.answers else None
        return {
            "redundant": self.redundant,
            "feasible": first is not None,
            "output_throughput": self.output_throughput if first else None,
            "ttft_s": first.ttft_s if first else None,
            "tpot_s": first.tpot_s if first else None,
            "interval": first.interval if first else None,
            "load_imbalance": first.load_imbalance if first else None,
            "weights_bytes": first.memory["weights_bytes"] if first else None,
            "cache_tokens": self.cache_tokens if first else None,
            "running": first.running if first else None,
            "why": self.why or None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class ByLayer:
    """Copies in some layers alone, where an engine could load them.

    Parameters
    ----------
    layers
        Rows of the layers that have them, those that gain most first.
    plan
        With empty slots in the other layers.
    output_throughput
        Predicted, averaged over traffic.
    cache_tokens
        Tokens that the caches of all ranks hold beside the weights.
    """

    layers: tuple[int, ...]
    plan: ExpertMap
    output_throughput: float
    cache_tokens: float

    def to_dict(self, moe_layer_ids: Sequence[int]) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layer_ids": sorted(moe_layer_ids[row] for row in self.layers),
            "output_throughput": self.output_throughput,
            "cache_tokens": self.cache_tokens,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Redundancy:
    """Numbers of redundant experts beside each other.

    Parameters
    ----------
    choices
        What was tried, fewest first.
    best
        The one with the highest throughput; fewer where more are not worth it.
    by_layer
        The best number, less in layers that do not need it; None if all or none need it.
    """

    choices: tuple[Choice, ...]
    best: Choice
    by_layer: ByLayer | None

    def to_dict(self, moe_layer_ids: Sequence[int]) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "choices": [choice.to_dict() for choice in self.choices],
            "best": self.best.redundant,
            "by_layer": self.by_layer.to_dict(moe_layer_ids) if self.by_layer is not None else None,
        }


def plan_redundancy(experts: int, ranks: int, solve: Solve, price: Price) -> Redundancy:
    """Find the number of redundant experts that serves fastest.

    Numbers that divide over the ranks are tried, fewest first, until `PATIENCE` of them in a row gain
    nothing, do not fit, or every rank holds every expert.

    Parameters
    ----------
    experts, ranks
        Logical experts per layer, and expert-parallel ranks.
    solve
        From a number of redundant experts to a plan.
    price
        From a plan to what is predicted with it, for each traffic.

    Raises
    ------
    InfeasibleError
        If not even the fewest fit.
    """
    fewest = -experts % ranks
    best = _choice(fewest, solve, price)
    choices = [best]
    missed = 0
    for redundant in range(fewest + ranks, experts * (ranks - 1) + 1, ranks):
        try:
            choice = _choice(redundant, solve, price)
        except InfeasibleError as error:
            choices.append(Choice(redundant, why=str(error)))
            break
        choices.append(choice)
        missed += 1
        if choice.output_throughput > best.output_throughput * (1 + WORTH):
            best, missed = choice, 0
        if missed == PATIENCE:
            break
    return Redundancy(tuple(choices), best, _by_layer(choices, best, price))


def _choice(redundant: int, solve: Solve, price: Price) -> Choice:
    solution = solve(redundant)
    answers = tuple(price(solution.expert_map))
    return Choice(redundant, solution, answers, _cache_tokens(answers[0]))


def _by_layer(choices: Sequence[Choice], best: Choice, price: Price) -> ByLayer | None:
    """Take the last copies from layers that gain least, as long as the whole gains."""
    before = [c.solution for c in choices if c.redundant < best.redundant]
    fewer, more = before[-1] if before else None, best.solution
    if fewer is None or more is None:
        return None
    width, layers = more.expert_map.slots_per_rank, more.expert_map.layers
    # The same weights are saved in every layer; what they buy differs.
    gain = np.nan_to_num(fewer.value - more.value)
    order = np.argsort(-gain, kind="stable")
    narrow = fewer.expert_map.physical_to_logical.reshape(layers, more.expert_map.ranks, -1)
    padded = np.full((layers, more.expert_map.ranks, width), -1)
    padded[:, :, : narrow.shape[2]] = narrow
    found: list[ByLayer] = []
    for share in (0.25, 0.5, 0.75, 0.9):
        chosen = order[: max(1, round(share * layers))]
        table = padded.reshape(layers, -1).copy()
        table[chosen] = more.expert_map.physical_to_logical[chosen]
        plan = ExpertMap(table, more.expert_map.num_experts, more.expert_map.ranks)
        answers = price(plan)
        throughput = float(np.mean([a.output_throughput for a in answers]))
        found.append(ByLayer(tuple(chosen.tolist()), plan, throughput, _cache_tokens(answers[0])))
    top = max(found, key=lambda f: f.output_throughput)
    return top if top.output_throughput > best.output_throughput * (1 + WORTH) else None


def _cache_tokens(answer: Prediction) -> float:
    """Tokens of context that fit beside the weights, on all ranks together."""
    memory, running = answer.memory, answer.running
    if not memory["cache_bytes"]:
        return 0.0
    room = memory["budget_bytes"] - memory["weights_bytes"] - memory["workspace_bytes"]
    return running * (answer.input_len + answer.output_len / 2.0) * room / memory["cache_bytes"]
