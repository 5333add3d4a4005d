"""From loads to a plan that is judged, priced and written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moesim.errors import Fault
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap
from moesim.layout.sharing import hosts_of, rule_of
from moesim.model.types import Model
from moesim.placement.asked import AUTO, Asked, Routing, checked
from moesim.placement.certificate import imbalance_bound
from moesim.placement.files import write
from moesim.placement.ilp.answer import Listener
from moesim.placement.migration import expert_bytes, moves
from moesim.placement.objective import judge
from moesim.placement.placed import Judged, Placed
from moesim.placement.price import AGAINST, PRICED_TOKENS, Gain, Pricing, verdict
from moesim.placement.problem import Problem
from moesim.placement.redundancy import Redundancy, plan_redundancy
from moesim.placement.solution import Solution
from moesim.placement.solve import solve
from moesim.placement.solvers.greedy import FloatArray
from moesim.prediction import Engine, Workload
from moesim.provenance import provenance
from moesim.result import Prediction


def place(
    trace: Routing,
    model: Model,
    hardware: Hardware | None = None,
    *,
    ep: int,
    nodes: int | None = None,
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
    time_limit_s: float = 600.0,
    batch_tokens: int | None = None,
    batch_run: int = 1,
    progress: Listener | None = None,
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
    nodes
        Nodes the ranks lie on, where no hardware says it; for dispatch, groups and traffic.
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
    time_limit_s, progress
        Of integer programmes, as in `moesim.placement.solve`.
    batch_tokens, batch_run
        For ``expected-max`` on a trace, and for ``layer-time``: tokens of a batch, those the workload decodes
        in a step if None; and neighbours of a request that a batch takes together.
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
    workload = workload or Workload(1024, 1024, 64 * max(ep, 1))
    engine = engine or Engine()
    known = [*also, *workload.faults(), *engine.faults()]
    # A workload with faults has no number of tokens, and is never placed for.
    batch = 1 if known else max(1, round(workload.concurrency or 64 * ep))
    asked = Asked(
        model,
        hardware,
        ep,
        hosts_of(ep, hardware) if hardware is not None else nodes or 1,
        method,
        objective or ("expected-max" if robust else "max-load"),
        rule_of(dispatch),
        current,
        np.array(speeds, dtype=np.float64) if speeds is not None else None,
        np.array(rooms) if rooms is not None else None,
        seed,
        time_limit_s,
        batch if batch_tokens is None else batch_tokens,
        batch_run,
        replace(engine, dispatch=rule_of(dispatch)),
        progress,
    )
    fitted = (trace, *robust)
    problem, notes = checked(asked, fitted, redundant, evaluate_on, emit, known)
    pricings: tuple[Pricing, ...] = ()
    if hardware is not None:
        pricings = tuple(Pricing(model, hardware, ep, routing, asked.engine, seed) for routing in fitted)
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
    plans = _beside(problem, solution, asked)
    placed = Placed(
        solution,
        model.moe_layer_ids,
        asked.dispatch,
        {
            name: Judged(
                judge(problem, plan, problem.loads),
                judge(problem, plan, other) if other is not None else None,
            )
            for name, plan in plans.items()
            if name != "balanced"
        },
        _lower(problem, solution),
        redundancy=numbers,
        warnings=tuple(
            dict.fromkeys((*solution.notes, *notes, *(w for routing in fitted for w in routing.warnings)))
        ),
    )
    if current is not None:
        sizes = expert_bytes(model, asked.engine.dtype)
        domain = min(hardware.domain, ep) if hardware is not None else max(1, ep // asked.nodes)
        placed = replace(placed, moves=moves(solution.expert_map, current, sizes, domain))
    if pricings:
        elsewhere = replace(pricings[0], traffic=evaluate_on) if evaluate_on is not None else None
        placed = _priced(placed, plans, pricings[0], elsewhere, workload)
    record = placed.record() | {"provenance": provenance(inputs, seed)} if emit else None
    emitted = tuple(
        write(solution.expert_map, spec, model, problem.nodes, asked.dispatch, served=served, record=record)
        for spec in emit
    )
    return replace(placed, emitted=emitted)


def _beside(problem: Problem, solution: Solution, asked: Asked) -> dict[str, ExpertMap]:
    """The plan, and what it is compared with."""
    layers, experts, ranks = problem.layers, problem.experts, problem.ranks
    plans = {}
    if problem.rooms is None:
        # Engines start with experts in order; where these do not divide over the ranks, only with spares.
        spare = problem.redundant if experts % ranks else 0
        plans["contiguous"] = ExpertMap.contiguous(layers, experts, ranks, spare)
    plans["greedy"] = solve(problem, "greedy").expert_map
    # Without spare slots to compare with, the plan is the balanced one.
    if asked.hardware is not None and problem.redundant and experts % ranks == 0:
        bare = replace(problem, redundant=0, current=None)
        balance = "expected-max" if problem.loads.ndim == 3 else "max-load"
        plans["balanced"] = solve(bare, objective=balance, seed=asked.seed).expert_map
    return plans | {"plan": solution.expert_map}


def _lower(problem: Problem, solution: Solution) -> FloatArray:
    """Bound of the imbalance that plans are judged by, ``[layers]``."""
    judged_by = "expected-max" if problem.loads.ndim == 3 else "max-load"
    return solution.bound if solution.objective == judged_by else imbalance_bound(problem).values


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
