"""From loads to a plan that is judged, priced and written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.errors import ConfigError, Fault, TraceError
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.layout.sharing import hosts_of, rule_of
from moesim.model.types import Model
from moesim.placement.certificate import load_bound
from moesim.placement.files import emission_faults, write
from moesim.placement.objective import Objective, judge, objective_faults
from moesim.placement.placed import Judged, Placed
from moesim.placement.price import AGAINST, PRICED_TOKENS, Gain, Pricing, verdict
from moesim.placement.problem import Problem
from moesim.placement.redundancy import Redundancy, plan_redundancy
from moesim.placement.solution import Solution
from moesim.placement.solve import method_faults, name_faults, solve
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.prediction import Engine, Workload, check_routing
from moesim.provenance import provenance
from moesim.result import Prediction
from moesim.trace.types import LoadCounts, RoutingTrace

Routing = RoutingTrace | LoadCounts
AUTO = "auto"


def place(
    trace: Routing,
    model: Model,
    hardware: Hardware | None = None,
    *,
    ep: int,
    redundant: int | str = 0,
    method: str = "search",
    objective: str | None = None,
    dispatch: str = "even",
    robust: Sequence[Routing] = (),
    current: ExpertMap | None = None,
    speeds: Sequence[float] | None = None,
    rooms: Sequence[int] | None = None,
    evaluate_on: Routing | None = None,
    workload: Workload | None = None,
    engine: Engine | None = None,
    emit: Sequence[str] = (),
    seed: int = 0,
    inputs: Sequence[str | os.PathLike[str]] = (),
    served: str = "",
    also: Sequence[Fault] = (),
) -> Placed:
    """Place experts so that ranks share a real load evenly, judge the plan, price it, write it.

    Parameters
    ----------
    trace
        Routing the plan is fitted to.
    model, hardware
        What is served and where; without hardware nothing is priced.
    ep, redundant
        Expert-parallel ranks, and physical experts beyond one of each per layer; ``auto`` for the number
        that serves the workload fastest, which needs hardware.
    method
        One of `moesim.placement.METHODS`.
    objective
        What is minimised, see `moesim.placement.objective`; ``max-load`` if None, or ``expected-max`` with
        `robust`.
    dispatch
        How the engine chooses among replicas, one of `moesim.layout.DISPATCH`.
    robust
        More routing the plan has to hold for: the mean over all of it, each counting alike, is minimised.
    current
        The plan that is loaded now, for objectives with ``migration``.
    speeds, rooms
        Relative speed, and slots, of each rank; equal ones if None. Others are not priced.
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
        Files the routing came from; their hashes are kept beside the plans that are written.
    served
        Folder or Hugging Face id of the checkpoint, for the command lines of engines.
    also
        Faults the caller has found, to be told with those found here.

    Returns
    -------
    Placed

    Raises
    ------
    ConfigError, TraceError
        With every fault, before any work is done.
    InfeasibleError
        If the deployment that is to be priced does not fit.
    """
    fitted = (trace, *robust)
    dispatch = rule_of(dispatch)
    asked = _Asked(
        model,
        hardware,
        ep,
        method,
        objective or ("expected-max" if robust else "max-load"),
        dispatch,
        current,
        np.array(speeds, dtype=np.float64) if speeds is not None else None,
        np.array(rooms) if rooms is not None else None,
        seed,
    )
    workload = workload or Workload(1024, 1024, 64 * max(ep, 1))
    engine = engine or Engine()
    known = [*also, *workload.faults(), *engine.faults()]
    engine = replace(engine, dispatch=dispatch)
    problem = _check(asked, fitted, redundant, evaluate_on, emit, known)
    pricings: tuple[Pricing, ...] = ()
    if hardware is not None:
        pricings = tuple(Pricing(model, hardware, ep, routing, engine, seed) for routing in fitted)
    numbers: Redundancy | None = None
    if redundant == AUTO:
        numbers = plan_redundancy(
            problem.experts,
            ep,
            lambda spare: asked.solve(replace(problem, redundant=spare)),
            lambda plan: [pricing.price(plan, workload) for pricing in pricings],
        )
        problem = replace(problem, redundant=numbers.best.redundant)
    solution = (numbers and numbers.best.solution) or asked.solve(problem)
    other = evaluate_on.load_counts().totals if evaluate_on is not None else None
    plans = asked.beside(problem, solution)
    judged = {
        name: Judged(
            judge(problem, plan, problem.loads), other if other is None else judge(problem, plan, other)
        )
        for name, plan in plans.items()
        if name != "balanced"
    }
    placed = Placed(
        solution,
        model.moe_layer_ids,
        dispatch,
        judged,
        load_bound(problem, problem.totals).values,
        redundancy=numbers,
        warnings=tuple(dict.fromkeys(w for routing in fitted for w in routing.warnings)),
    )
    if pricings:
        elsewhere = replace(pricings[0], traffic=evaluate_on) if evaluate_on is not None else None
        placed = _priced(placed, plans, pricings[0], elsewhere, workload)
    record = placed.record() | {"provenance": provenance(inputs, seed)} if emit else None
    emitted = tuple(
        write(solution.expert_map, spec, model, problem.nodes, dispatch, served=served, record=record)
        for spec in emit
    )
    return replace(placed, emitted=emitted)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """What a plan is for, and how it is found."""

    model: Model
    hardware: Hardware | None
    ep: int
    method: str
    objective: str
    dispatch: str
    current: ExpertMap | None
    speeds: FloatArray | None
    rooms: IntArray | None
    seed: int

    def problem(self, loads: FloatArray, redundant: int, tokens: RoutingTrace | None) -> Problem:
        """Loads to place on the ranks."""
        return Problem(
            loads,
            self.ep,
            redundant,
            nodes=1 if self.hardware is None else hosts_of(self.ep, self.hardware),
            groups=self.model.moe.groups if self.model.moe is not None else 1,
            dispatch=self.dispatch,
            speeds=self.speeds,
            rooms=self.rooms,
            current=self.current,
            tokens=tokens,
            rows=self.model.moe_layer_ids,
        )

    def solve(self, problem: Problem) -> Solution:
        """Find a plan."""
        return solve(problem, self.method, self.objective, seed=self.seed)

    def beside(self, problem: Problem, solution: Solution) -> dict[str, ExpertMap]:
        """The plan, and what it is compared with."""
        layers, experts = problem.layers, problem.experts
        # Engines start with experts in order; where these do not divide over the ranks, only with spares.
        spare = problem.redundant if experts % self.ep else 0
        plans = {"greedy": solve(problem, "greedy").expert_map}
        if problem.rooms is None:
            plans = {"contiguous": ExpertMap.contiguous(layers, experts, self.ep, spare)} | plans
        # Without spare slots to compare with, the plan is the balanced one.
        if self.hardware is not None and problem.redundant and experts % self.ep == 0:
            plans["balanced"] = self.solve(replace(problem, redundant=0)).expert_map
        return plans | {"plan": solution.expert_map}


def _priced(
    placed: Placed,
    plans: dict[str, ExpertMap],
    pricing: Pricing,
    elsewhere: Pricing | None,
    workload: Workload,
) -> Placed:
    names = {"contiguous": "before", "plan": "after"}
    priced = {names.get(name, name): plan for name, plan in plans.items()}

    def predictions(of: Pricing) -> dict[str, Prediction]:
        return {name: of.price(plan, workload) for name, plan in priced.items()}

    def gains(of: Pricing) -> dict[str, Gain]:
        return {name: of.gain(priced["after"], priced[name], workload) for name in AGAINST if name in priced}

    predicted, gained = predictions(pricing), gains(pricing)
    prices = tuple(pricing.point(priced, workload, tokens) for tokens in PRICED_TOKENS)
    there, gained_there = (predictions(elsewhere), gains(elsewhere)) if elsewhere is not None else ({}, {})
    notes = [w for answer in (*predicted.values(), *there.values()) for w in answer.warnings]
    return replace(
        placed,
        predicted=predicted,
        predicted_elsewhere=there,
        gains=gained,
        gains_elsewhere=gained_there,
        prices=prices,
        verdict=verdict(predicted, gained, gained_there, prices, placed.expert_map.redundant),
        warnings=tuple(dict.fromkeys((*placed.warnings, *notes))),
    )


def _check(
    asked: _Asked,
    fitted: Sequence[Routing],
    redundant: int | str,
    evaluate_on: Routing | None,
    emit: Sequence[str],
    known: Sequence[Fault],
) -> Problem:
    """The problem; or raise with every fault before anything is solved or written."""
    found = [*known, *emission_faults(emit)]
    model, hardware, ep = asked.model, asked.hardware, asked.ep
    if model.moe is None:
        found.append(Fault(f"{model.name} has no experts to place", "--model", model.name, "a MoE model"))
        raise ConfigError(found)
    if hardware is not None and ep >= 1:
        layout = Parallelism(dp=ep, ep=ep)
        found += [f for f in layout.faults(None, hardware) if f.where == "layout"]
    for routing in (*fitted, evaluate_on):
        if routing is not None:
            try:
                check_routing(routing, model)
            except TraceError as error:
                found += [Fault(str(f), error.source) for f in error.faults]
    if isinstance(redundant, str):
        if redundant != AUTO:
            found.append(Fault("is no number", "--redundant", redundant, f"0 or more, or {AUTO}"))
        elif hardware is None:
            found.append(Fault("needs a price", "--hardware", None, "a machine"))
    if hardware is not None and (asked.speeds is not None or asked.rooms is not None):
        found.append(Fault("are priced with equal speed and room alone", "ranks", None, "no --hardware"))
    if emit and asked.rooms is not None and len(set(asked.rooms.tolist())) > 1:
        found.append(Fault("no engine loads a plan whose ranks differ in room", "--emit", None, "equal room"))
    spare = redundant if isinstance(redundant, int) else -model.num_experts % max(ep, 1)
    try:
        problem = asked.problem(
            _loads(fitted), spare, fitted[0] if isinstance(fitted[0], RoutingTrace) else None
        )
        found += method_faults(problem, asked.method)
        found += objective_faults(problem, Objective.parse(asked.objective, "--objective"))
        if problem.idle.any():
            idle = [model.moe_layer_ids[row] for row in np.flatnonzero(problem.idle)]
            found.append(
                Fault(
                    f"{len(idle)} layer(s) have no load at all", "loads", idle[:8], "load in every MoE layer"
                )
            )
    except ConfigError as error:
        found += [*error.faults, *name_faults(asked.method)]
    if found:
        raise ConfigError(found)
    return problem


def _loads(fitted: Sequence[Routing]) -> FloatArray:
    """Totals ``[layers, experts]`` of one routing, or those of several, each layer of each counting alike."""
    totals = [routing.load_counts().totals for routing in fitted]
    if len(totals) == 1:
        return totals[0]
    if len({t.shape for t in totals}) > 1:
        # Each is named by the check of routing against the model.
        return totals[0]
    loads = np.stack(totals)
    whole = loads.sum(axis=2, keepdims=True)
    return np.asarray(np.divide(loads, whole, out=np.zeros_like(loads), where=whole > 0))
