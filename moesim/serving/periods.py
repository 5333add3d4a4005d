"""Experts' load that drifts while requests are served: a table of the experts for every window of routing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from moesim.engine.deployment import Deployment
from moesim.engine.routing import source_of
from moesim.errors import ConfigError, Fault
from moesim.layout.expert_map import ExpertMap
from moesim.serving.kernel.price import Prices
from moesim.serving.parts import Parts
from moesim.serving.pricing import experts_of, on_lines
from moesim.serving.tables import packed, unpacked
from moesim.trace.types import LoadCounts, RoutingTrace

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Routing as it is for a while.

    Parameters
    ----------
    routing
        Which experts tokens choose meanwhile.
    tokens
        Tokens served, read and decoded, until the next window.
    plan
        Placement in force; None is the deployment's.
    stall_s
        Seconds for which every replica stands still when it begins: copies of experts, for one.
    """

    routing: RoutingTrace | LoadCounts
    tokens: float
    plan: ExpertMap | None = None
    stall_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Periods:
    """Tables of the experts, one after the other as tokens are served.

    Parameters
    ----------
    tokens
        Tokens served by all replicas when each period begins, rising from 0, ``[periods]``.
    total
        Tokens of all periods together.
    everyone, experts_s
        As in `moesim.serving.tables.Tables`, ``[m]`` and ``[periods, 2, 3, m]``.
    stall_s
        Seconds that the beginning of each costs, ``[periods]``.
    """

    tokens: F8
    total: float
    everyone: F8
    experts_s: F8
    stall_s: F8

    def on(self, prices: Prices) -> Prices:
        """Prices of the same deployment with these experts; the last period goes on for ever."""
        step = unpacked(prices)._replace(everyone=self.everyone, experts_s=self.experts_s)
        found = packed(step, unpacked(prices, of_draft=True))
        return prices._replace(
            data=found.data, where=found.where, period_tokens=self.tokens, period_stall_s=self.stall_s
        )

    def repeated(self, times: int) -> Periods:
        """The same again and again: traffic that is longer than the recording."""
        return replace(
            self,
            tokens=np.concatenate([self.tokens + i * self.total for i in range(times)]),
            total=self.total * times,
            experts_s=np.tile(self.experts_s, (times, 1, 1, 1)),
            stall_s=np.tile(self.stall_s, times),
        )


def windows_of(
    routing: RoutingTrace | LoadCounts, many: int, tokens: float | None = None, top_k: int | None = None
) -> list[Window]:
    """A recording in equal windows, in the order in which it was recorded.

    Parameters
    ----------
    routing
        Tokens, or loads of several steps.
    many
        Windows.
    tokens
        Tokens served that each stands for; as many as it holds by default.
    top_k
        Experts per token, where loads do not say.

    Raises
    ------
    ConfigError
        If the recording has fewer tokens or steps, or does not say how many tokens it has.
    """
    parts = routing.num_tokens if isinstance(routing, RoutingTrace) else len(routing.counts)
    if not 1 <= many <= parts:
        raise ConfigError(Fault("has too few parts", "--routing-windows", many, f"1 to {parts}"))
    edges = np.linspace(0, parts, many + 1).astype(np.int64)
    found = []
    for start, stop in pairwise(edges.tolist()):
        part = part_of(routing, start, stop)
        held = tokens
        if held is None:
            held = tokens_of(part, top_k)
        found.append(Window(part, held))
    return found


def part_of(routing: RoutingTrace | LoadCounts, start: int, stop: int) -> RoutingTrace | LoadCounts:
    """Some of the tokens, or of the steps, of a recording."""
    if isinstance(routing, LoadCounts):
        return replace(routing, counts=routing.counts[start:stop])
    names = ("topk_ids", "request", "position", "phase", "topk_weights", "token_id")
    arrays = {name: getattr(routing, name) for name in names}
    return replace(routing, **{name: a[start:stop] for name, a in arrays.items() if a is not None})


def tokens_of(routing: RoutingTrace | LoadCounts, top_k: int | None = None) -> float:
    """Tokens of a recording.

    Raises
    ------
    ConfigError
        If loads do not say how many experts a token chose.
    """
    if isinstance(routing, RoutingTrace):
        return float(routing.num_tokens)
    each = routing.top_k or top_k
    if each is None:
        raise ConfigError(Fault("does not say how many experts a token chooses", routing.source or "trace"))
    return float(routing.totals.sum(axis=1).max() / each)


def periods_of(deployment: Deployment, windows: Sequence[Window], budget: int, most: int) -> Periods:
    """Tables of the experts for windows of routing.

    Parameters
    ----------
    deployment
        What serves; its own routing is put aside.
    windows
        One after the other.
    budget, most
        Tokens and sequences of a lane in one step, at most.

    Raises
    ------
    ConfigError
        If there is no window, or the model has no routed experts.
    """
    if not windows or deployment.model.moe is None:
        raise ConfigError(Fault("needs routing of a model with experts", "--trace", deployment.model.name))
    lanes, scale = deployment.layout.dp, Parts(deployment).smallest()
    decoded = min(most * (1.0 + deployment.speculation.tokens), budget) * lanes
    known: dict[tuple[int, int], tuple[F8, F8]] = {}
    for window in windows:
        key = id(window.routing), id(window.plan)
        if key not in known:
            source = source_of(window.routing, deployment.model.top_k)
            plan = window.plan if window.plan is not None else deployment.plan
            one = replace(deployment, source=source, plan=plan)
            known[key] = experts_of(one, decoded, float(budget * lanes), scale)
    tables = [known[id(window.routing), id(window.plan)] for window in windows]
    everyone = np.unique(np.concatenate([grid for grid, _ in tables]))
    on_all = [on_lines(everyone, grid, values.reshape(6, -1)).reshape(2, 3, -1) for grid, values in tables]
    tokens = np.array([window.tokens for window in windows], dtype=np.float64)
    return Periods(
        np.concatenate([[0.0], np.cumsum(tokens)[:-1]]),
        float(tokens.sum()),
        everyone,
        np.stack(on_all),
        np.array([window.stall_s for window in windows], dtype=np.float64),
    )
