"""From loads to a plan that is judged, priced and written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moesim.errors import ConfigError, Fault, InfeasibleError, TraceError
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model.types import Model
from moesim.placement.files import EmittedFile, emission_faults, write
from moesim.placement.problem import Problem
from moesim.placement.solution import Imbalance, Solution, evaluate
from moesim.placement.solve import method_faults, solve
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.prediction import Engine, Workload, check_routing, predict
from moesim.provenance import provenance
from moesim.result import Prediction
from moesim.trace.types import LoadCounts, RoutingTrace

#: Tokens per rank and step at which a plan is priced beside the workload itself.
PRICED_TOKENS = (4, 16, 64, 256)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Imbalance of one placement on the loads it was fitted to, and on others."""

    fitted: Imbalance
    evaluated: Imbalance | None


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


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A plan, its proof, its price.

    Parameters
    ----------
    solution
        The plan and its certificate.
    moe_layer_ids
        Decoder index of each row of the plan.
    judged
        By placement: ``contiguous``, ``greedy``, ``plan``.
    lower_bound
        Of max/mean, ``[layers]``: no placement with these slots is more even; NaN for a layer without load.
    predicted
        ``before`` (experts in order, none redundant), ``greedy``, ``balanced`` (the best plan found without
        redundant experts) and ``after`` (the plan); empty without hardware.
    prices
        The same over batch sizes.
    verdict
        What the price says, in sentences.
    emitted
        Files written.
    """

    solution: Solution
    moe_layer_ids: tuple[int, ...]
    judged: Mapping[str, Judged]
    lower_bound: FloatArray
    predicted: Mapping[str, Prediction]
    prices: tuple[PricePoint, ...]
    verdict: tuple[str, ...]
    emitted: tuple[EmittedFile, ...]
    warnings: tuple[str, ...]

    @property
    def expert_map(self) -> ExpertMap:
        """The plan."""
        return self.solution.expert_map

    @property
    def physical_to_logical_map(self) -> IntArray:
        """The plan as int64 ``[moe_layers, slots]``."""
        return self.expert_map.physical_to_logical

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; imbalance and bound are max/mean, gaps are fractions."""
        return {
            "load_imbalance": {
                name: {
                    "fitted": _imbalance(judged.fitted),
                    "evaluated": None if judged.evaluated is None else _imbalance(judged.evaluated),
                }
                for name, judged in self.judged.items()
            },
            "lower_bound": {"mean": _mean(self.lower_bound), "per_layer": self.lower_bound.tolist()},
            "bound_kind": list(self.solution.bound_kind),
            "gap": {"mean": _mean(self.solution.gap), "worst": float(np.nanmax(self.solution.gap))},
            "predicted": {name: _price(answer) for name, answer in self.predicted.items()},
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
            "ranks": self.expert_map.ranks,
            "slots": self.expert_map.slots,
            "redundant": self.expert_map.redundant,
            "moe_layer_ids": list(self.moe_layer_ids),
            "seconds": self.solution.seconds,
            "emitted": [file.to_dict() for file in self.emitted],
            "warnings": list(self.warnings),
        }


def place(
    trace: RoutingTrace | LoadCounts,
    model: Model,
    hardware: Hardware | None = None,
    *,
    ep: int,
    redundant: int = 0,
    method: str = "search",
    evaluate_on: RoutingTrace | LoadCounts | None = None,
    workload: Workload | None = None,
    engine: Engine | None = None,
    emit: Sequence[str] = (),
    seed: int = 0,
    inputs: Sequence[str | os.PathLike[str]] = (),
    served: str = "",
) -> Placed:
    """Place experts so that ranks share a real load evenly, judge the plan, price it, write it.

    Parameters
    ----------
    trace
        Routing the plan is fitted to.
    model, hardware
        What is served and where; without hardware nothing is priced.
    ep, redundant
        Expert-parallel ranks, and physical experts beyond one of each per layer.
    method
        One of `moesim.placement.METHODS`.
    evaluate_on
        Routing the plan is judged on besides; it never influences the plan.
    workload
        What the plan is priced for; without it 64 requests per rank of 1024 tokens in and out.
    engine
        Settings of the serving engine.
    emit
        Files to write, as ``sglang:plan.json``.
    seed
        Of search and pricing.
    inputs
        Files the loads came from; their hashes go beside the plans that are written.
    served
        Folder or Hugging Face id of the checkpoint, for the command lines of engines.

    Returns
    -------
    Placed

    Raises
    ------
    ConfigError, TraceError
        With every fault, before any work is done.
    """
    problem = _check(trace, model, hardware, ep, redundant, method, evaluate_on, emit)
    loads = problem.totals
    layers, experts = loads.shape
    solution = solve(problem, method, seed=seed)
    # Engines start with experts in order; where these do not divide over the ranks, only with spares.
    plans = {
        "contiguous": ExpertMap.contiguous(layers, experts, ep, redundant if experts % ep else 0),
        "greedy": solve(problem, "greedy").expert_map,
        "plan": solution.expert_map,
    }
    other = evaluate_on.load_counts().totals if evaluate_on is not None else None
    judged = {
        name: Judged(evaluate(plan, loads), evaluate(plan, other) if other is not None else None)
        for name, plan in plans.items()
    }
    mean = loads.sum(axis=1) / ep
    lower = np.divide(solution.bound, mean, out=np.full(layers, np.nan), where=mean > 0)
    predicted: dict[str, Prediction] = {}
    prices: tuple[PricePoint, ...] = ()
    verdict: tuple[str, ...] = ()
    warnings = list(trace.warnings)
    if hardware is not None:
        workload = workload or Workload(1024, 1024, 64 * ep)
        # Without spare slots to compare with, the plan is the balanced one.
        priced = {"before": plans["contiguous"], "greedy": plans["greedy"]}
        if redundant and experts % ep == 0:
            priced["balanced"] = solve(replace(problem, redundant=0), method, seed=seed).expert_map
        priced["after"] = plans["plan"]
        asked = _Pricing(model, hardware, ep, trace, engine or Engine(), seed)
        predicted = {name: asked.price(plan, workload) for name, plan in priced.items()}
        prices = tuple(asked.point(priced, workload, tokens) for tokens in PRICED_TOKENS)
        verdict = _verdict(predicted, prices, redundant)
        warnings += [w for answer in predicted.values() for w in answer.warnings if w not in warnings]
    ids = model.moe_layer_ids
    record = _record(solution, judged["plan"].fitted, lower, seed, inputs) if emit else {}
    emitted = tuple(
        write(
            solution.expert_map,
            spec,
            model,
            nodes=problem.nodes,
            dispatch=problem.dispatch,
            served=served,
            record=record,
        )
        for spec in emit
    )
    return Placed(
        solution, ids, judged, lower, predicted, prices, verdict, emitted, tuple(dict.fromkeys(warnings))
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Pricing:
    """Prices plans of one model on one cluster with attention data-parallel over the expert ranks."""

    model: Model
    hardware: Hardware
    ep: int
    trace: RoutingTrace | LoadCounts
    engine: Engine
    seed: int

    def price(self, plan: ExpertMap, workload: Workload) -> Prediction:
        return predict(
            self.model,
            self.hardware,
            Parallelism(dp=self.ep, ep=self.ep),
            workload,
            trace=self.trace,
            plan=plan,
            engine=self.engine,
            seed=self.seed,
        )

    def point(self, plans: Mapping[str, ExpertMap], workload: Workload, tokens: int) -> PricePoint:
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


def _record(
    solution: Solution,
    fitted: Imbalance,
    lower: FloatArray,
    seed: int,
    inputs: Sequence[str | os.PathLike[str]],
) -> dict[str, Any]:
    """What is written beside a plan: how it was found, how well it does, and from what."""
    return {
        "method": solution.method,
        "fitted": {"mean": fitted.mean, "worst": fitted.worst},
        "lower_bound": _mean(lower),
        "gap": {"mean": _mean(solution.gap), "worst": float(np.nanmax(solution.gap))},
        "provenance": provenance(inputs, seed),
    }


def _verdict(
    predicted: Mapping[str, Prediction], prices: Sequence[PricePoint], redundant: int
) -> tuple[str, ...]:
    after = predicted["after"]
    found = []
    for name, what in (
        ("before", "the engine's own placement"),
        ("balanced", "the best plan found without redundant experts"),
    ):
        if name not in predicted:
            continue
        gain = after.output_throughput / predicted[name].output_throughput - 1.0
        word = "gains" if gain >= 0 else "LOSES"
        tpot_ms = (predicted[name].tpot_s * 1e3, after.tpot_s * 1e3)
        found.append(
            f"At {after.concurrency:g} concurrent requests the plan {word} {abs(gain):.1%} of output "
            f"throughput against {what} (TPOT {tpot_ms[0]:.2f} -> {tpot_ms[1]:.2f} ms)."
        )
    if redundant:
        lost = [p.tokens_per_rank for p in prices if p.after_s is not None and _best_other(p) < p.after_s]
        if lost:
            sizes = ", ".join(map(str, lost))
            found.append(
                f"The weights of the {redundant} redundant experts per layer cost more than they save at "
                f"{sizes} tokens per rank and step: use fewer there, or none."
            )
    return tuple(found)


def _best_other(point: PricePoint) -> float:
    return min(s for s in (point.before_s, point.balanced_s, float("inf")) if s is not None)


def _check(
    trace: RoutingTrace | LoadCounts,
    model: Model,
    hardware: Hardware | None,
    ep: int,
    redundant: int,
    method: str,
    evaluate_on: RoutingTrace | LoadCounts | None,
    emit: Sequence[str],
) -> Problem:
    """The problem; or raise with every fault before anything is solved or written."""
    found: list[Fault] = []
    if model.moe is None:
        raise ConfigError(
            Fault(f"{model.name} has no experts to place", "--model", model.name, "a MoE model")
        )
    found += emission_faults(emit)
    if hardware is not None and ep >= 1:
        layout = Parallelism(dp=ep, ep=ep)
        found += [f for f in layout.faults(None, hardware) if f.where == "layout"]
    for routing in (trace, evaluate_on):
        if routing is not None:
            try:
                check_routing(routing, model)
            except TraceError as error:
                found += [Fault(str(f), error.source) for f in error.faults]
    try:
        loads = trace.load_counts().totals
        problem = Problem(loads, ep, redundant, nodes=_nodes(hardware, ep), groups=_groups(model))
        found += method_faults(problem, method)
    except ConfigError as error:
        found += error.faults
    if found:
        raise ConfigError(found)
    return problem


def _nodes(hardware: Hardware | None, ep: int) -> int:
    return 1 if hardware is None else max(1, ep // hardware.domain)


def _groups(model: Model) -> int:
    return model.moe.groups if model.moe is not None else 1


def _imbalance(judged: Imbalance) -> dict[str, Any]:
    return {"mean": judged.mean, "worst": judged.worst, "per_layer": judged.per_layer.tolist()}


def _mean(values: FloatArray) -> float:
    return float(np.nanmean(values))


def _price(answer: Prediction) -> dict[str, Any]:
    return {
        "ttft_s": answer.ttft_s,
        "tpot_s": answer.tpot_s,
        "output_throughput": answer.output_throughput,
        "load_imbalance": answer.load_imbalance,
        "concurrency": answer.concurrency,
        "running": answer.running,
        "memory_bytes": answer.memory_bytes,
    }
