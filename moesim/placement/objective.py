"""What makes one plan better than another: terms, weighed against each other or taken in order.

``max-load``
    Largest over mean rank load, on the totals.
``expected-max``
    The same of every step, averaged: of batches, or of several kinds of traffic.
``remote-nodes``
    Other nodes that a token must reach, on average.
``transitions``
    Share of the transitions between experts of neighbouring layers that leave their node; their rank, where
    there is one node. Counted in the later of the two layers.
``layer-time``
    Predicted milliseconds of an MoE layer in a decode batch: dispatch, slowest rank, combine.
``migration``
    Share of the slots that have to be filled by a copy, from the plan that is loaded now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, nearest
from moesim.layout import ExpertMap
from moesim.placement.migration import moves
from moesim.placement.problem import Problem
from moesim.placement.solution import Imbalance, evaluate
from moesim.placement.solvers.greedy import FloatArray
from moesim.placement.traffic import leaving, remote_nodes, transitions
from moesim.trace.types import RoutingTrace

TERMS = ("max-load", "expected-max", "remote-nodes", "transitions", "layer-time", "migration")
#: How much worse an earlier term of an ordered objective may get for a later one, relative to its best.
WITHIN = 1e-3
#: Tokens that traffic is counted on.
SAMPLE = 16384


@dataclass(frozen=True, slots=True)
class Objective:
    """A sum of weighed terms, or terms in order of importance.

    Parameters
    ----------
    terms
        Some of `TERMS`.
    weights
        Of each term in the sum.
    ordered
        Whether each term only decides between plans that are equal, to `WITHIN`, in those before it.

    Examples
    --------
    >>> Objective.parse("max-load + 0.1 remote-nodes")
    Objective(terms=('max-load', 'remote-nodes'), weights=(1.0, 0.1), ordered=False)
    >>> Objective.parse("max-load, migration").ordered
    True
    """

    terms: tuple[str, ...] = ("max-load",)
    weights: tuple[float, ...] = (1.0,)
    ordered: bool = False

    @classmethod
    def parse(cls, text: str, option: str = "objective") -> Objective:
        """Read ``term + 0.5 term`` or ``term, term``.

        Raises
        ------
        ConfigError
            With every part that is no weight and term.
        """
        ordered = "," in text
        parts = [part.split() for part in text.replace("*", " ").split("," if ordered else "+")]
        found: list[Fault] = []
        terms, weights = [], []
        for words in parts:
            weight = _number(words[0]) if len(words) == 2 else 1.0
            term = words[-1].replace("_", "-") if words else ""
            if len(words) not in (1, 2) or weight is None or not (math.isfinite(weight) and weight > 0):
                wanted = "a term, or a positive weight and a term"
                found.append(Fault("is no part of an objective", option, " ".join(words), wanted))
            elif term not in TERMS:
                near = nearest(term, TERMS)
                hint = f"nearest: {', '.join(near)}; " if near else ""
                found.append(Fault("is no term of an objective", option, term, hint + ", ".join(TERMS)))
            elif term in terms:
                found.append(Fault("is named twice", option, term))
            else:
                terms.append(term)
                weights.append(weight)
        if ordered and any(weight != 1.0 for weight in weights):
            found.append(Fault("terms in order have no weights", option, text))
        if found:
            raise ConfigError(found)
        return cls(tuple(terms), tuple(weights), ordered)

    def __str__(self) -> str:
        if self.ordered:
            return ", ".join(self.terms)
        return " + ".join(
            term if weight == 1.0 else f"{weight:g} {term}"
            for term, weight in zip(self.terms, self.weights, strict=True)
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def objective_faults(problem: Problem, objective: Objective) -> list[Fault]:
    """What a problem lacks for an objective."""
    wants = {
        "remote-nodes": (problem.tokens is not None and problem.nodes > 1, "token-level routing and nodes"),
        "transitions": (problem.tokens is not None, "token-level routing"),
        "layer-time": (problem.clock is not None, "hardware"),
        "migration": (problem.current is not None, "the plan that is loaded now"),
    }
    return [
        Fault(f"{term} needs {what}", "objective", str(objective))
        for term in objective.terms
        for has, what in [wants.get(term, (True, ""))]
        if not has
    ]


def term_values(problem: Problem, plan: ExpertMap, term: str) -> FloatArray:
    """Value of one term for a plan, float64 ``[layers]``; NaN for a layer without load."""
    match term:
        case "max-load":
            found = judge(problem, plan, problem.totals).per_layer
        case "expected-max":
            found = judge(problem, plan, problem.loads).per_layer
        case "remote-nodes" | "transitions":
            found = _traffic(problem, plan, term)
        case "layer-time":
            found = _seconds(problem, plan)
        case _:
            found = _copied(problem, plan)
    return np.where(problem.idle, np.nan, found)


def objective_value(problem: Problem, plan: ExpertMap, objective: Objective) -> FloatArray:
    """Value of the whole objective, float64 ``[layers]``; of terms in order, that of the first."""
    if objective.ordered:
        return term_values(problem, plan, objective.terms[0])
    weighed = [
        weight * term_values(problem, plan, term)
        for term, weight in zip(objective.terms, objective.weights, strict=True)
    ]
    return np.asarray(sum(weighed))


def judge(problem: Problem, plan: ExpertMap, loads: FloatArray) -> Imbalance:
    """Largest over mean rank load under loads, on the ranks and by the rule of a problem."""
    return evaluate(plan, loads, problem.dispatch, problem.nodes, problem.speeds, problem.rows)


def _traffic(problem: Problem, plan: ExpertMap, term: str) -> FloatArray:
    tokens = problem.tokens
    assert tokens is not None  # by `objective_faults`
    if term == "remote-nodes":
        rule = "nearest" if problem.dispatch.startswith("sglang") else "even"
        return remote_nodes(plan, sample(tokens), problem.nodes, rule)
    parts = problem.nodes if problem.nodes > 1 else problem.ranks
    return np.concatenate([[0.0], leaving(plan, flow_of(tokens), parts)])


@lru_cache(maxsize=2)
def flow_of(tokens: RoutingTrace) -> FloatArray:
    """Transitions of a trace, kept for the next plan."""
    return transitions(tokens.topk_ids, tokens.num_experts)


def sample(tokens: RoutingTrace) -> npt.NDArray[np.unsignedinteger]:
    """Tokens of a trace, evenly thinned where there are more than can be looked at for each plan."""
    return tokens.topk_ids[:: max(1, tokens.num_tokens // SAMPLE)]


def _seconds(problem: Problem, plan: ExpertMap) -> FloatArray:
    assert problem.clock is not None  # by `objective_faults`
    return problem.clock.seconds(plan) * 1e3


def _copied(problem: Problem, plan: ExpertMap) -> FloatArray:
    assert problem.current is not None  # by `objective_faults`
    return moves(plan, problem.current).experts / plan.slots
