"""Seconds of MoE layers under a plan, by the engine's own model, on batches drawn once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from moesim.correction import shipped
from moesim.engine.dispatch import dispatch
from moesim.engine.experts import FIELDS, ExpertStep
from moesim.engine.routing import DECODE, Draw
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap, Parallelism
from moesim.model.types import Model
from moesim.placement.costs import cost_table, slot_cost
from moesim.placement.solvers.greedy import FloatArray
from moesim.prediction import Engine
from moesim.prediction.calibrated import traits_of
from moesim.prediction.kept import deployment_of
from moesim.trace.types import LoadCounts, RoutingTrace

#: Batches that seconds are averaged over.
BATCHES = 4
_EXPERTS, _EXCHANGE = FIELDS.index("experts_s"), (FIELDS.index("dispatch_s"), FIELDS.index("combine_s"))


@dataclass(frozen=True, slots=True, eq=False)
class LayerClock:
    """Times decode batches of one size, attention data-parallel over the expert ranks.

    Parameters
    ----------
    model, hardware, ranks, engine
        What is served, on what, and how.
    traffic
        Routing that batches are drawn from.
    tokens
        Tokens of a batch, on all ranks together.
    seed
        Of the draws.
    """

    model: Model
    hardware: Hardware
    ranks: int
    engine: Engine
    traffic: RoutingTrace | LoadCounts
    tokens: int
    seed: int = 0
    _draws: dict[int, list[Draw]] = field(default_factory=dict)

    def seconds(self, plan: ExpertMap) -> FloatArray:
        """Dispatch, slowest rank and combine of each MoE layer, mean over batches, ``[layers]``."""
        found = np.zeros(plan.layers)
        traits = traits_of(shipped(), self.engine.backend)
        rng = np.random.default_rng(self.seed)
        for layers, step in self._steps(plan):
            draws = self._drawn(layers, step)
            for i, layer in enumerate(layers):
                row = ExpertMap(step.plan.physical_to_logical[[i]], plan.num_experts, plan.ranks)
                alone = replace(step, plan=row, repeat=1.0, replicas=step.replicas.only([i]), _grid={})
                for draw in draws:
                    ids = None if draw.ids is None else draw.ids[:, [i]]
                    values = alone.values_of(Draw(ids, draw.counts[[i]], draw.tokens), rng)
                    exchange = sum(float(values[j]) for j in _EXCHANGE)
                    found[layer] += float(values[_EXPERTS]) + traits.communication * exchange
        return found / BATCHES

    def costs(self, plan: ExpertMap, copies: int) -> FloatArray:
        """What one replica adds to its rank, ``[layers, batches, experts, copies]``, in seconds.

        A tangent at the ranks of `plan`, see `moesim.placement.costs`.
        """
        found = np.zeros((plan.layers, BATCHES, plan.num_experts, copies))
        for layers, step in self._steps(plan):
            counts = np.stack([draw.counts for draw in self._drawn(layers, step)])
            near = np.stack([dispatch(Draw(None, c, self.tokens), step.plan).slot_tokens for c in counts])
            cost = slot_cost(step.shape, self.hardware.device, step.choice, near=near)
            found[list(layers)] = cost_table(cost, counts, copies)
        return found

    def _steps(self, plan: ExpertMap) -> list[tuple[tuple[int, ...], ExpertStep]]:
        layout = Parallelism(dp=self.ranks, ep=self.ranks)
        traits = traits_of(shipped(), self.engine.backend)
        deployment = deployment_of(
            self.model, self.hardware, layout, self.engine, self.traffic, plan, self.seed, traits
        )
        return [(tuple(group.layers), step) for group, step in deployment.expert_steps()]

    def _drawn(self, layers: tuple[int, ...], step: ExpertStep) -> list[Draw]:
        known = self._draws.get(layers[0])
        if known is None:
            rng = np.random.default_rng([self.seed, layers[0], self.tokens])
            known = [step.source.draw(self.tokens, DECODE, rng) for _ in range(BATCHES)]
            self._draws[layers[0]] = known
        return known
