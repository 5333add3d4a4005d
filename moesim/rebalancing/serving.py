"""Windows of routing with the placement that a policy has in force, for a simulation of serving."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from moesim.layout import ExpertMap
from moesim.rebalancing.copying import Copying
from moesim.rebalancing.policies import Policy
from moesim.rebalancing.price import StepPricer
from moesim.rebalancing.replay import Replayed, replay
from moesim.rebalancing.steps import Stepwise
from moesim.serving.periods import Window
from moesim.trace.types import LoadCounts, RoutingTrace


def rebalanced_windows(
    steps: Stepwise,
    pricer: StepPricer,
    policy: Policy,
    start: ExpertMap,
    *,
    copying: Copying | None = None,
    per_window: int = 0,
    tokens_per_step: float | None = None,
) -> tuple[list[Window], Replayed]:
    """Replay routing under a policy, and cut it where the placement changes.

    Parameters
    ----------
    steps
        Routing, step by step: what the policy sees.
    pricer, policy, start, copying
        As for `moesim.rebalancing.replay`.
    per_window
        Steps of a window at most, so that drift between changes is seen too; 0 for no limit.
    tokens_per_step
        Tokens served that a step stands for; as many as it holds by default.

    Returns
    -------
    tuple
        Windows for `moesim.serving.periods.periods_of`, and the replay they come from. A window begins with
        the stall of its change, and with what copies beside its steps cost.
    """
    replayed = replay(steps, pricer, policy, start, copying)
    edges = {0, *(step for step, _ in replayed.plans), *np.flatnonzero(replayed.stall_s).tolist()}
    if per_window:
        edges |= set(range(0, len(steps), per_window))
    cuts = [*sorted(edges), len(steps)]
    windows, plan, changes = [], start, dict(replayed.plans)
    for first, stop in pairwise(cuts):
        plan = changes.get(first, plan)
        held = float(steps.tokens[first:stop].sum())
        cost = replayed.stall_s[first:stop].sum() + replayed.copy_s[first:stop].sum()
        tokens = held if tokens_per_step is None else tokens_per_step * (stop - first)
        windows.append(Window(_routing(steps.part(first, stop), pricer), tokens, plan, float(cost)))
    return windows, replayed


def _routing(steps: Stepwise, pricer: StepPricer) -> RoutingTrace | LoadCounts:
    model = pricer.model
    if steps.trace is None or steps.rows is None:
        return LoadCounts(steps.counts, model.moe_layer_ids, model.top_k, source=steps.source)
    rows, trace = np.concatenate(steps.rows), steps.trace
    names = ("topk_ids", "request", "position", "phase", "topk_weights", "token_id")
    arrays = {name: getattr(trace, name) for name in names}
    return replace(trace, **{name: a[rows] for name, a in arrays.items() if a is not None})
