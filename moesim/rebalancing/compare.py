"""Several policies on the same steps, beside what hindsight would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model.types import Model
from moesim.placement.problem import Problem
from moesim.placement.solve import solve
from moesim.prediction import Engine
from moesim.rebalancing.copying import Copying
from moesim.rebalancing.policies import Policy, Static, policy_faults, policy_of
from moesim.rebalancing.price import DECODE, StepPricer
from moesim.rebalancing.replay import Loss, Replayed, replay
from moesim.rebalancing.steps import Stepwise

#: Columns of the table of steps.
COLUMNS = (
    "step",
    "policy",
    "seconds",
    "moe_s",
    "even_s",
    "rest_s",
    "stall_s",
    "copy_s",
    "imbalance",
    "moved_bytes",
)


@dataclass(frozen=True, slots=True)
class Rules:
    """How often policies look, and at what.

    Parameters
    ----------
    interval, window
        Steps between two looks, and steps looked back on.
    trigger, horizon, most
        Of `Triggered` and `Incremental`.
    copying
        What a change costs.

    Raises
    ------
    ConfigError
        With every value that is out of range.
    """

    interval: int = 50
    window: int = 100
    trigger: float = 1.0
    horizon: int | None = None
    most: int | None = None
    copying: Copying = field(default_factory=Copying)

    def __post_init__(self) -> None:
        numbers: tuple[tuple[str, float | None], ...] = (
            ("--interval", self.interval),
            ("--window", self.window),
            ("--trigger", self.trigger),
            ("--horizon", self.horizon),
            ("--most", self.most),
        )
        found = [
            Fault("must be at least 1", name, value, "1 or more")
            for name, value in numbers
            if value is not None and not 1 <= value < float("inf")
        ]
        if found:
            raise ConfigError(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("interval", "window", "trigger", "horizon", "most")
        return {name: getattr(self, name) for name in names} | {"copying": self.copying.to_dict()}


@dataclass(frozen=True, slots=True, eq=False)
class Rebalanced:
    """Policies on the same steps.

    Parameters
    ----------
    runs
        By policy, in the order asked for.
    hindsight
        The best fixed plan for the sum of all steps, loaded from the start: no policy may know it.
    rules
        How they looked, and what a change cost.
    ranks, slots
        Expert-parallel ranks and physical experts per layer, at the start.
    tokens
        Tokens of all steps.
    source
        Where the steps come from.
    """

    runs: dict[str, Replayed]
    hindsight: Replayed
    rules: Rules
    ranks: int
    slots: int
    tokens: int
    source: str

    @property
    def even_s(self) -> float:
        """Mean seconds of a step, did no rank wait for a slower one's experts, and nothing for copies.

        Of all runs the least: what better plans and free copies could still gain, and no more, with what the
        exchange of tokens takes under these plans.
        """
        return min(float((run.even_s + run.rest_s).mean()) for run in (*self.runs.values(), self.hindsight))

    @property
    def best(self) -> str:
        """The policy with the least total time; the first of equals."""
        return min(self.runs, key=lambda name: float(self.runs[name].seconds.sum()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "policies": {name: run.to_dict() for name, run in self.runs.items()},
            "hindsight": self.hindsight.summary(),
            "even_s": self.even_s,
            "best": self.best,
            "rules": self.rules.to_dict(),
            "ranks": self.ranks,
            "slots": self.slots,
            "tokens": self.tokens,
            "source": self.source,
        }

    def columns(self) -> dict[str, list[Any]]:
        """The steps of all policies as columns, those of `COLUMNS`."""
        found: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for name, run in self.runs.items():
            number = len(run.seconds)
            found["step"] += range(number)
            found["policy"] += [name] * number
            for column in COLUMNS[2:]:
                found[column] += getattr(run, column).tolist()
        return found


def rebalance(
    steps: Stepwise,
    model: Model,
    hardware: Hardware,
    *,
    ep: int,
    redundant: int = 0,
    policies: Sequence[str] = ("static", "eplb", "search", "incremental", "ours"),
    rules: Rules | None = None,
    losses: Sequence[Loss] = (),
    engine: Engine | None = None,
    phase: int = DECODE,
    context: float = 1024.0,
    start: ExpertMap | None = None,
    seed: int = 0,
) -> Rebalanced:
    """Run the same steps under several policies.

    Parameters
    ----------
    steps
        What comes.
    model, hardware, ep, redundant
        What is served, on what, over how many ranks, with how many physical experts beyond one of each.
    policies
        Of `POLICIES`.
    rules
        How they look, and what a change costs.
    losses
        Ranks that are lost on the way.
    engine, phase, context
        Of the cost model; see `StepPricer`.
    start
        The plan at the start; experts in order if None, as engines start.
    seed
        Of the searches.

    Raises
    ------
    ConfigError
        With everything that is wrong.
    InfeasibleError
        If the weights do not fit, or after a loss the slots cannot hold all experts.
    """
    rules = rules or Rules()
    engine = engine or Engine()
    groups = model.moe.groups if model.moe is not None else 1
    _check(steps, model, hardware, ep, redundant, policies, engine, losses, start)
    pricer = StepPricer(model, hardware, ep, engine, phase, context)
    plan = start or ExpertMap.contiguous(steps.counts.shape[1], model.num_experts, ep, redundant)
    pricer.check_memory(plan)

    def run(policy: Policy, plan: ExpertMap) -> Replayed:
        return replay(steps, pricer, policy, plan, rules.copying, losses)

    runs = {
        name: run(
            policy_of(
                name,
                interval=rules.interval,
                window=rules.window,
                groups=groups,
                trigger=rules.trigger,
                horizon=rules.horizon,
                most=rules.most,
                seed=seed,
            ),
            plan,
        )
        for name in dict.fromkeys(policies)
    }
    whole = solve(Problem(steps.counts.sum(axis=0), ep, redundant), seed=seed).expert_map
    return Rebalanced(
        runs,
        run(Static("hindsight"), whole),
        rules,
        ep,
        plan.slots,
        int(steps.tokens.sum()),
        steps.source,
    )


def _check(
    steps: Stepwise,
    model: Model,
    hardware: Hardware,
    ep: int,
    redundant: int,
    policies: Sequence[str],
    engine: Engine,
    losses: Sequence[Loss],
    start: ExpertMap | None,
) -> None:
    """Raise with everything that is wrong."""
    if model.moe is None:
        raise ConfigError(Fault(f"{model.name} has no experts", "--model", model.name, "a MoE model"))
    found = engine.faults()
    found += [f for f in Parallelism(dp=ep, ep=ep).faults(None, hardware) if f.where in ("layout", "--ep")]
    found += policy_faults(policies)
    wanted = (len(model.moe_layer_ids), model.num_experts)
    has = steps.counts.shape[1:]
    if has != wanted:
        found.append(Fault(f"(layers, experts) are not those of {model.name}", "TRACE", has, str(wanted)))
    else:
        try:
            Problem(np.ones(wanted), ep, redundant, current=start)
        except ConfigError as error:
            found += error.faults
    at = [loss.step for loss in losses]
    for step in at:
        if not 0 <= step < len(steps):
            found.append(Fault("is no step", "--lose-rank", step, f"0 to {len(steps) - 1}"))
    if len(set(at)) < len(at):
        found.append(Fault("name the same step twice; name all ranks lost there together", "--lose-rank"))
    if found:
        raise ConfigError(found)
