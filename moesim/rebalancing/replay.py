"""Run steps under a policy: what each takes, what is moved when, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.layout import ExpertMap
from moesim.placement.migration import Moves, moves
from moesim.rebalancing.copying import Change, Copying
from moesim.rebalancing.elastic import Restored, restored
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

    @classmethod
    def of(cls, step: int, moving: Moves, copy_s: float, solve_s: float) -> Rebalance:
        """Of what it moves."""
        return cls(
            step,
            int(moving.experts.sum()),
            moving.total_bytes,
            float(moving.out.sum()),
            copy_s,
            moving.staging_bytes,
            solve_s,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Loss:
    """Ranks that are gone from a step on.

    Parameters
    ----------
    step
        The first step without them.
    ranks
        By their numbers at the start.
    slots_per_rank
        Of the plan for the others; as many as before if None.
    storage_bytes_per_s
        Of the storage, per node, that lost experts are loaded from; from host memory if None.
    """

    step: int
    ranks: tuple[int, ...]
    slots_per_rank: int | None = None
    storage_bytes_per_s: float | None = None


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
    losses
        Ranks lost on the way, and what was done about it.
    plan
        The plan in force at the end.
    solve_s
        CPU seconds of all decisions on this machine, those against a change included.
    plans
        Steps at which plans had taken effect in all layers, and these plans.
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
    losses: tuple[tuple[int, Restored], ...]
    plan: ExpertMap
    solve_s: float
    plans: tuple[tuple[int, ExpertMap], ...] = ()

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
        return {
            **self.summary(),
            "changes": [r.to_dict() for r in self.rebalances],
            "losses": [{"step": step, **found.to_dict()} for step, found in self.losses],
        }


def replay(
    steps: Stepwise,
    pricer: StepPricer,
    policy: Policy,
    start: ExpertMap,
    copying: Copying | None = None,
    losses: Sequence[Loss] = (),
) -> Replayed:
    """Run steps under a policy.

    After every step the policy is asked, unless a change is under way. It sees the steps that are over. A
    change takes effect between steps: all at once after a stall, or layer by layer as its copies arrive. When
    ranks are lost, a change under way is given up and the others stall until every expert is there again;
    ranks behind a lost one move up, and so does the border of their domain.

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
    losses
        Ranks that are lost on the way.

    Raises
    ------
    ConfigError
        If a rank that is lost does not exist.
    InfeasibleError
        If what is left cannot hold all experts.
    """
    run = _Run(steps, pricer, policy, start, copying or Copying())
    lost = {loss.step: loss for loss in losses}
    for step in range(len(steps)):
        if step in lost:
            run.lose(step, lost[step])
        run.step(step)
    return run.result()


class _Run:
    """A replay under way."""

    def __init__(
        self, steps: Stepwise, pricer: StepPricer, policy: Policy, start: ExpertMap, copying: Copying
    ) -> None:
        self.steps, self.pricer, self.policy, self.copying = steps, pricer, policy, copying
        self.plan, self.since, self.solve_s = start, 0, 0.0
        self.change: Change | None = None
        self.target = start
        self.ranks = np.arange(start.ranks)
        self.rebalances: list[Rebalance] = []
        self.losses: list[tuple[int, Restored]] = []
        self.plans: list[tuple[int, ExpertMap]] = []
        names = ("moe", "rest", "even", "copy", "stall", "imbalance", "moved")
        self.of = {name: np.zeros(len(steps)) for name in names}

    def step(self, step: int) -> None:
        """Run one step, then ask the policy."""
        if self.change is not None and (ready := self.change.ready()) > 0:
            self.plan, self.since = _mixed(self.plan, self.target, ready), step
            if self.change.over:
                self.plan, self.change = self.target, None
                self.plans.append((step, self.plan))
        of = self.of
        cost = self.pricer.price(self.plan, self.steps.draw(step))
        of["moe"][step], of["rest"][step] = cost.moe_s, cost.rest_s
        of["even"][step] = cost.even_s + cost.exchange_s
        of["imbalance"][step] = self.pricer.imbalance(self.plan, self.steps.counts[step])
        if self.change is not None:
            of["copy"][step] = self.change.step(cost)
        elif step + 1 < len(self.steps):
            self.ask(step)

    def ask(self, step: int) -> None:
        """Let the policy decide, and begin what it wants."""
        past = self.steps.part(0, step + 1)
        before = time.process_time()
        found = self.policy.decide(History(past, self.plan, self.since, self.pricer, self.copying))
        spent = time.process_time() - before
        self.solve_s += spent
        if found is None:
            return
        moving = moves(found, self.plan, self.pricer.expert_bytes, self.pricer.domain)
        copy_s = self.pricer.copy_seconds(moving)
        self.of["moved"][step] = moving.total_bytes
        self.rebalances.append(Rebalance.of(step, moving, float(copy_s.sum()), spent))
        if self.copying.synchronous:
            self.of["stall"][step + 1] += self.copying.host_s + copy_s.sum()
            self.plan, self.since = found, step + 1
            self.plans.append((step + 1, found))
        else:
            self.change, self.target = Change(copy_s, self.copying), found

    def lose(self, step: int, loss: Loss) -> None:
        """Go on with the ranks that are left."""
        self.change = None
        if gone := sorted(set(loss.ranks) - set(self.ranks.tolist())):
            raise ConfigError(Fault("is not there to be lost", "--lose-rank", gone[0]))
        # By what was seen so far; before the first step all experts count alike.
        loads = self.steps.counts[:step].sum(axis=0) if step else np.ones_like(self.steps.counts[0])
        found = restored(
            self.plan,
            loads,
            self.pricer,
            lost=np.flatnonzero(np.isin(self.ranks, loss.ranks)).tolist(),
            slots_per_rank=loss.slots_per_rank,
            storage_bytes_per_s=loss.storage_bytes_per_s,
        )
        self.losses.append((step, found))
        self.ranks = self.ranks[found.ranks]
        self.pricer = self.pricer.on(found.plan.ranks)
        self.plan, self.since = found.plan, step
        self.plans.append((step, found.plan))
        self.of["stall"][step] += self.copying.host_s + found.seconds
        self.of["moved"][step] += found.copied.total_bytes + found.loaded_bytes

    def result(self) -> Replayed:
        """What was seen."""
        of = self.of
        return Replayed(
            policy=self.policy.name,
            moe_s=of["moe"],
            rest_s=of["rest"],
            even_s=of["even"],
            copy_s=of["copy"],
            stall_s=of["stall"],
            imbalance=of["imbalance"],
            moved_bytes=of["moved"],
            rebalances=tuple(self.rebalances),
            losses=tuple(self.losses),
            plan=self.plan,
            solve_s=self.solve_s,
            plans=tuple(self.plans),
        )


def _mixed(plan: ExpertMap, target: ExpertMap, layers: int) -> ExpertMap:
    """The plan with the first layers of another."""
    table = np.concatenate([target.physical_to_logical[:layers], plan.physical_to_logical[layers:]])
    return ExpertMap(table, plan.num_experts, plan.ranks)
