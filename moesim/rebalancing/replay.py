"""Run steps under a policy: what each takes, what is moved when, and what that costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.layout import ExpertMap
from moesim.placement.migration import moves
from moesim.rebalancing.copying import Change, Copying
from moesim.rebalancing.history import History
from moesim.rebalancing.policies import Policy
from moesim.rebalancing.price import StepPricer
from moesim.rebalancing.steps import Stepwise

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rebalance:
    """One change of plan.

    Parameters
    ----------
    step
        Step after which it was decided.
    experts, moved_bytes
        Copied between ranks, over all layers.
    out_bytes
        Of those, between scale-up domains.
    copy_s
        Seconds of the copies, layer after layer, with the links to themselves.
    staging_bytes
        Memory for the incoming experts of one layer, on the rank that receives most.
    solve_s
        CPU seconds that finding the plan took on this machine; they are in no other figure.
    """

    step: int
    experts: int
    moved_bytes: float
    out_bytes: float
    copy_s: float
    staging_bytes: float
    solve_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """Steps under one policy; arrays are ``[steps]``.

    Parameters
    ----------
    policy
        Its name.
    moe_s, rest_s
        Seconds of the MoE layers and of everything else, without what copies add.
    even_s
        Seconds of the MoE layers, did no rank wait for a slower one's experts.
    copy_s
        Seconds by which copies beside the step make it longer.
    stall_s
        Seconds for which the engine stands still before the step.
    imbalance
        Largest over mean rank load, averaged over layers with load.
    moved_bytes
        Copied for the change decided after the step.
    rebalances
        Changes of plan.
    plan
        The plan in force at the end.
    solve_s
        CPU seconds of all decisions on this machine, those against a change included.
    """

    policy: str
    moe_s: FloatArray
    rest_s: FloatArray
    even_s: FloatArray
    copy_s: FloatArray
    stall_s: FloatArray
    imbalance: FloatArray
    moved_bytes: FloatArray
    rebalances: tuple[Rebalance, ...]
    plan: ExpertMap
    solve_s: float

    @property
    def seconds(self) -> FloatArray:
        """Of each step, with everything that keeps its tokens waiting."""
        return np.asarray(self.moe_s + self.rest_s + self.copy_s + self.stall_s)

    def summary(self) -> dict[str, Any]:
        """Totals and quantiles; seconds are per step unless they are called total."""
        seconds = self.seconds
        return {
            "policy": self.policy,
            "steps": len(seconds),
            "total_s": float(seconds.sum()),
            "mean_s": float(seconds.mean()),
            "p50_s": float(np.quantile(seconds, 0.5)),
            "p99_s": float(np.quantile(seconds, 0.99)),
            "max_s": float(seconds.max()),
            "moe_s": float(self.moe_s.mean()),
            "even_s": float(self.even_s.mean()),
            "imbalance": float(np.nanmean(self.imbalance)),
            "rebalances": len(self.rebalances),
            "moved_experts": sum(r.experts for r in self.rebalances),
            "moved_bytes": float(self.moved_bytes.sum()),
            "stall_s": float(self.stall_s.sum()),
            "copy_s": float(self.copy_s.sum()),
            "staging_bytes": max((r.staging_bytes for r in self.rebalances), default=0.0),
            "solve_s": self.solve_s,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.summary(), "changes": [r.to_dict() for r in self.rebalances]}


def replay(
    steps: Stepwise, pricer: StepPricer, policy: Policy, start: ExpertMap, copying: Copying | None = None
) -> Replayed:
    """Run steps under a policy.

    After every step the policy is asked, unless a change is under way. It sees the steps that are over. A change
    takes effect between steps: all at once after a stall, or layer by layer as its copies arrive.

    Parameters
    ----------
    steps
        What comes.
    pricer
        What a step costs.
    policy
        Who decides.
    start
        The plan at the start.
    copying
        How experts are copied; synchronously by default.
    """
    copying = copying or Copying()
    number = len(steps)
    nodes = max(1, start.ranks // pricer.domain)
    moe, rest, even, longer, stall, uneven, moved = (np.zeros(number) for _ in range(7))
    plan, since, solve_s = start, 0, 0.0
    change: Change | None = None
    target = start
    rebalances: list[Rebalance] = []
    for step in range(number):
        if change is not None and (ready := change.ready()) > 0:
            plan, since = _mixed(plan, target, ready), step
            if change.over:
                plan, change = target, None
        cost = pricer.price(plan, steps.draw(step))
        moe[step], rest[step], even[step] = cost.moe_s, cost.rest_s, cost.even_s + cost.exchange_s
        uneven[step] = np.nanmean(plan.load_imbalance(steps.counts[step]))
        if change is not None:
            longer[step] = change.step(cost)
            continue
        if step + 1 == number:
            break
        before = time.process_time()
        found = policy.decide(
            History(steps.part(0, step + 1), plan, since, nodes, pricer, copying)
        )
        spent = time.process_time() - before
        solve_s += spent
        if found is None:
            continue
        moving = moves(found, plan, pricer.expert_bytes, pricer.domain)
        copy_s = pricer.copy_seconds(moving)
        moved[step] = moving.total_bytes
        rebalances.append(
            Rebalance(
                step,
                int(moving.experts.sum()),
                moving.total_bytes,
                float(moving.out.sum()),
                float(copy_s.sum()),
                moving.staging_bytes,
                spent,
            )
        )
        if copying.synchronous:
            stall[step + 1] = copying.host_s + copy_s.sum()
            plan, since = found, step + 1
        else:
            change, target = Change(copy_s, copying), found
    return Replayed(
        policy.name, moe, rest, even, longer, stall, uneven, moved, tuple(rebalances), plan, solve_s
    )


def _mixed(plan: ExpertMap, target: ExpertMap, layers: int) -> ExpertMap:
    """The plan with the first layers of another."""
    table = np.concatenate([target.physical_to_logical[:layers], plan.physical_to_logical[layers:]])
    return ExpertMap(table, plan.num_experts, plan.ranks)
