"""When to change the plan, and to which: small classes that see what is past and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from moesim.errors import ConfigError, Fault, nearest
from moesim.layout import ExpertMap
from moesim.layout.sharing import rule_of
from moesim.placement.migration import aligned
from moesim.placement.problem import Problem
from moesim.placement.solve import solve
from moesim.placement.solvers.exchange import exchanges
from moesim.rebalancing.history import FloatArray, History

#: One-sided 95 % quantile of the normal distribution: how sure a gain has to be.
SURE = 1.645
#: Parts of a window that a plan is fitted to one by one, so that what varies in it counts.
PARTS = 16
#: Dispatch rules under which labels of ranks do not matter.
LABELS_ARE_NAMES = ("even", "lp")
#: Steps that a look needs: two to fit to, and two to judge on.
LEAST_STEPS = 4


class Policy(Protocol):
    """Something that may change the plan between two steps."""

    @property
    def name(self) -> str:
        """What it is called in results."""

    def decide(self, history: History) -> ExpertMap | None:
        """The plan to change to, or None."""


@dataclass(frozen=True, slots=True)
class Static:
    """The plan at the start, for ever."""

    name: str = "static"

    def decide(self, history: History) -> ExpertMap | None:  # noqa: ARG002 - nothing could change its mind
        """Never."""
        return None


@dataclass(frozen=True, slots=True)
class Periodic:
    """A new plan every `interval` steps, fitted to the loads of the last `window`, whatever it moves.

    Parameters
    ----------
    method
        One of `moesim.placement.METHODS`.
    relabel
        Whether ranks are relabelled so that fewest experts move.
    once
        Whether the first new plan is the last.
    groups
        Expert groups, for the hierarchical method; where it does not fit the ranks, the flat one is used.
    """

    name: str
    method: str
    interval: int
    window: int
    relabel: bool = True
    once: bool = False
    groups: int = 1
    seed: int = 0

    def decide(self, history: History) -> ExpertMap | None:
        """At every `interval`-th step."""
        if history.now % self.interval or (self.once and history.now > self.interval):
            return None
        return refit(
            history,
            history.window(self.window).sum(axis=0),
            self.method,
            relabel=self.relabel,
            groups=self.groups,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class Incremental:
    """Every `interval` steps the exchanges that even out most, at most `most` moved experts per layer."""

    interval: int
    window: int
    most: int
    name: str = "incremental"

    def decide(self, history: History) -> ExpertMap | None:
        """At every `interval`-th step, if anything is worth moving."""
        if history.now % self.interval:
            return None
        plan = history.plan
        parts = _in_parts(history.window(self.window), PARTS)
        path = exchanges(parts, plan.ranks, plan.physical_to_logical, most=self.most)
        points = path.within(self.most)
        return _plan(path.at(points), plan) if points.any() else None


@dataclass(frozen=True, slots=True)
class Triggered:
    """A change when the cost model says that it pays.

    Every `interval` steps candidates are made from the plan in force by exchanges: for the loads of the last
    `window` steps and for those of the last `interval`, which follow a turn sooner; as many exchanges as
    there are up to `most` moves, and only those that gain more than a move costs. They are fitted to every
    other step and judged on the steps between, of the last `interval`. The best is taken if its gain per
    step, less what chance may have lent it, pays over the `horizon` for what the change costs.

    Parameters
    ----------
    interval, window
        Steps between two looks, and steps looked back on.
    trigger
        Largest over mean rank load, averaged over layers and the last `interval` steps, below which nothing
        is tried.
    horizon
        Steps for which a gain is expected to last; None for as many as the plan in force has been kept. Then
        a change is paid for by what has been lost without it (rent or buy).
    most
        Moved experts per layer; None for a quarter of the slots.
    """

    interval: int
    window: int
    trigger: float = 1.0
    horizon: int | None = None
    most: int | None = None
    name: str = "ours"

    def decide(self, history: History) -> ExpertMap | None:
        """When it pays."""
        recent = min(self.interval, history.now)
        if history.now % self.interval or recent < LEAST_STEPS:
            return None
        plan = history.plan
        if self.trigger > 1.0 and history.imbalance(recent) < self.trigger:
            return None
        kept = history.now - history.since if self.horizon is None else self.horizon
        judged = range(history.now - 1, history.now - 1 - recent, -2)
        now_s = history.seconds(plan, judged)
        best: tuple[float, ExpertMap | None] = (0.0, None)
        for candidate in self._candidates(history, recent, float(now_s.mean()), max(1, kept)):
            gains = now_s - history.seconds(candidate, judged)
            sure = float(gains.mean() - SURE * gains.std(ddof=1) / np.sqrt(len(gains)))
            best = max(best, (kept * sure - history.cost_of(candidate), candidate), key=lambda b: b[0])
        return best[1]

    def _candidates(self, history: History, recent: int, step_s: float, horizon: int) -> list[ExpertMap]:
        plan = history.plan
        most = max(1, plan.slots // 4) if self.most is None else self.most
        found = []
        for length in sorted({recent, min(self.window, history.now)}):
            loads = history.window(length)[-2::-2][::-1]
            path = exchanges(_in_parts(loads, PARTS), plan.ranks, plan.physical_to_logical, most=most)
            everything = path.within(most)
            if not everything.any():
                continue
            whole = _plan(path.at(everything), plan)
            moved = max(1, int(history.moves_to(whole).experts.sum()))
            # What one move costs, in units of a layer's imbalance over the horizon.
            price = history.cost_of(whole) / moved / (horizon * step_s / plan.layers)
            found.append(whole)
            if (few := path.priced(price)).any():
                found.append(_plan(path.at(few), plan))
        return found


def refit(
    history: History,
    loads: FloatArray,
    method: str,
    *,
    relabel: bool = True,
    groups: int = 1,
    seed: int = 0,
) -> ExpertMap:
    """A new plan for loads ``[layers, experts]``, of the shape of the one in force."""
    current, pricer = history.plan, history.pricer
    hosts, ranks = pricer.hosts, current.ranks
    hierarchical = method == "greedy-hierarchical"
    if hierarchical and (groups % hosts or ranks % hosts or current.slots % hosts):
        method, hierarchical = "greedy", False
    problem = Problem(
        loads,
        ranks,
        current.redundant,
        nodes=hosts if hierarchical or ranks % hosts == 0 else 1,
        groups=groups,
        dispatch=pricer.engine.dispatch,
        rows=pricer.model.moe_layer_ids,
    )
    plan = solve(problem, method, seed=seed).expert_map
    if not relabel:
        return plan
    if hierarchical:
        near = aligned(plan, current, hosts, keep_nodes=True)
    else:
        near = aligned(plan, current, ranks // pricer.domain if ranks % pricer.domain == 0 else 1)
    if rule_of(pricer.engine.dispatch) in LABELS_ARE_NAMES:
        return near
    # Where home ranks choose replicas, another label is another load.
    return near if pricer.imbalance(near, loads) <= pricer.imbalance(plan, loads) else plan


def policy_of(
    name: str,
    *,
    interval: int,
    window: int,
    groups: int = 1,
    trigger: float = 1.0,
    horizon: int | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Policy:
    """The policy of a name, one of `POLICIES`.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name == "static":
        return Static()
    if name == "once":
        return Periodic(name, "search", interval, window, once=True, seed=seed)
    if name == "eplb":
        return Periodic(name, "greedy", interval, window, relabel=False)
    if name == "eplb-hierarchical":
        return Periodic(name, "greedy-hierarchical", interval, window, relabel=False, groups=groups)
    if name == "search":
        return Periodic(name, "search", interval, window, seed=seed)
    if name == "incremental":
        return Incremental(interval, window, 8 if most is None else most)
    if name == "ours":
        return Triggered(interval, window, trigger, horizon, most)
    raise ConfigError(policy_faults([name]))


#: What `policy_of` knows.
POLICIES = ("static", "once", "eplb", "eplb-hierarchical", "search", "incremental", "ours")


def policy_faults(names: Sequence[str]) -> list[Fault]:
    """What keeps names from being policies."""
    if not names:
        return [Fault("names no policy", "--policy", allowed=", ".join(POLICIES))]
    found = []
    for name in names:
        if name not in POLICIES:
            near = nearest(name, POLICIES)
            hint = f"nearest: {', '.join(near)}; " if near else ""
            found.append(Fault("is no policy", "--policy", name, hint + ", ".join(POLICIES)))
    return found


def _plan(table: np.ndarray[tuple[int, ...], np.dtype[np.int64]], like: ExpertMap) -> ExpertMap:
    return ExpertMap(table, like.num_experts, like.ranks)


def _in_parts(loads: FloatArray, parts: int) -> FloatArray:
    """Sums over at most `parts` runs of neighbouring steps, float64 ``[parts, layers, experts]``."""
    edges = np.linspace(0, len(loads), min(parts, len(loads)) + 1).astype(np.int64)
    return np.asarray(np.add.reduceat(loads, edges[:-1], axis=0))
