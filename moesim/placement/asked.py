"""What a plan is asked for: the problem it poses, and every fault of the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.errors import ConfigError, Fault, TraceError
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model.types import Model
from moesim.placement.clock import LayerClock
from moesim.placement.files import emission_faults
from moesim.placement.ilp.answer import Listener
from moesim.placement.objective import Objective
from moesim.placement.problem import Problem
from moesim.placement.sampled import steps_of
from moesim.placement.solution import Solution
from moesim.placement.solve import method_faults, name_faults, solve
from moesim.placement.solvers.greedy import FloatArray, IntArray
from moesim.prediction import Engine, check_routing
from moesim.trace.types import LoadCounts, RoutingTrace

Routing = RoutingTrace | LoadCounts
AUTO = "auto"


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a plan is for, and how it is found; see `moesim.placement.place`."""

    model: Model
    hardware: Hardware | None
    ep: int
    nodes: int
    method: str
    objective: str
    dispatch: str
    current: ExpertMap | None
    speeds: FloatArray | None
    rooms: IntArray | None
    seed: int
    time_limit_s: float
    batch_tokens: int
    batch_run: int
    engine: Engine
    progress: Listener | None

    def problem(
        self, fitted: Sequence[Routing], redundant: int, objective: Objective
    ) -> tuple[Problem, tuple[str, ...]]:
        """Loads to place on the ranks, and what makes them poor evidence."""
        first, loads, folds = fitted[0], _loads(fitted), None
        notes: tuple[str, ...] = ()
        if len(fitted) == 1 and "expected-max" in objective.terms:
            steps = steps_of(first, self.batch_tokens, self.batch_run, self.seed)
            loads, folds, notes = steps.loads, steps.folds, steps.warnings
        clock = None
        if self.hardware is not None and "layer-time" in objective.terms:
            clock = LayerClock(
                self.model, self.hardware, self.ep, self.engine, first, self.batch_tokens, self.seed
            )
        problem = Problem(
            loads,
            self.ep,
            redundant,
            nodes=self.nodes,
            groups=self.model.moe.groups if self.model.moe is not None else 1,
            dispatch=self.dispatch,
            speeds=self.speeds,
            rooms=self.rooms,
            current=self.current,
            tokens=first if isinstance(first, RoutingTrace) else None,
            clock=clock,
            rows=self.model.moe_layer_ids,
            folds=folds,
        )
        return problem, notes

    def solve(self, problem: Problem) -> Solution:
        """Find a plan."""
        return solve(
            problem,
            self.method,
            self.objective,
            seed=self.seed,
            time_limit_s=self.time_limit_s,
            progress=self.progress,
        )


def checked(
    asked: Asked,
    fitted: Sequence[Routing],
    redundant: int | str,
    evaluate_on: Routing | None,
    emit: Sequence[str],
    known: Sequence[Fault],
) -> tuple[Problem, tuple[str, ...]]:
    """The problem, and what to note about it; or raise with every fault before any work is done."""
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
    if asked.current is not None and isinstance(redundant, str):
        found.append(Fault("must be a number: that of the plan that is loaded", "--redundant", redundant))
    try:
        objective = Objective.parse(asked.objective, "--objective")
        problem, notes = asked.problem(fitted, spare, objective)
        found += method_faults(problem, asked.method, objective, time_limit_s=asked.time_limit_s)
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
    return problem, notes


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
