"""Seconds of the MoE layers of a step under a plan, and of copying experts: the engine's own cost model."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from moesim.correction import shipped
from moesim.cost import all_to_all_seconds
from moesim.engine.deployment import Deployment
from moesim.engine.experts import FIELDS, ExpertStep
from moesim.engine.routing import DECODE, PREFILL, Draw
from moesim.hardware.types import Hardware
from moesim.layout import ExpertMap, Parallelism, slot_shares
from moesim.layout.sharing import hosts_of
from moesim.model.types import Model
from moesim.ops import Batch
from moesim.placement.migration import Moves, expert_bytes
from moesim.prediction import Engine, Workload
from moesim.prediction.calibrated import traits_of
from moesim.prediction.kept import deployment_of
from moesim.prediction.question import load_of
from moesim.prediction.room import check_room

FloatArray = npt.NDArray[np.float64]
_AT = {name: i for i, name in enumerate(FIELDS)}
#: Of the draws of replicas.
SEED = 0
#: Plans whose timers are kept: those in force, and those that are weighed against them.
_PLANS = 16


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of one step, and what lies behind them.

    Parameters
    ----------
    experts_s, exchange_s
        Of the slowest rank's experts, and of dispatch and combine, summed over layers.
    even_s
        Experts' seconds, did every rank take the mean.
    rest_s
        Everything else: attention, dense layers, the host.
    """

    experts_s: float
    exchange_s: float
    even_s: float
    rest_s: float

    @property
    def moe_s(self) -> float:
        """Of the MoE layers."""
        return self.experts_s + self.exchange_s

    @property
    def seconds(self) -> float:
        """Of the step."""
        return self.moe_s + self.rest_s


@dataclass(slots=True, eq=False)
class StepPricer:
    """Prices steps of one model on one cluster, attention data-parallel over the expert ranks.

    Parameters
    ----------
    model, hardware
        What is served, on what.
    ranks
        Expert-parallel ranks.
    engine
        Settings of the serving engine.
    phase
        ``DECODE``: every token is one sequence's; ``PREFILL``: every rank reads one prompt.
    context
        Tokens that each sequence looks back on.
    """

    model: Model
    hardware: Hardware
    ranks: int
    engine: Engine = field(default_factory=Engine)
    phase: int = DECODE
    context: float = 1024.0
    _deployment: Deployment = field(init=False)
    _steps: OrderedDict[int, tuple[ExpertMap, list[ExpertStep]]] = field(default_factory=OrderedDict)
    _rest: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layout = Parallelism(dp=self.ranks, ep=self.ranks)
        traits = traits_of(shipped(), self.engine.backend)
        plan = ExpertMap.contiguous(
            len(self.model.moe_layer_ids),
            self.model.num_experts,
            self.ranks,
            -self.model.num_experts % self.ranks,
        )
        self._deployment = deployment_of(
            self.model, self.hardware, layout, self.engine, None, plan, 0, traits
        )

    def on(self, ranks: int) -> StepPricer:
        """The same with another number of ranks."""
        return StepPricer(self.model, self.hardware, ranks, self.engine, self.phase, self.context)

    @property
    def domain(self) -> int:
        """Ranks per scale-up domain."""
        return min(self.hardware.domain, self.ranks)

    @property
    def hosts(self) -> int:
        """Hosts that the ranks fill."""
        return hosts_of(self.ranks, self.hardware)

    @property
    def expert_bytes(self) -> FloatArray:
        """Bytes of one expert of each MoE layer."""
        return expert_bytes(self.model, self.engine.dtype)

    def check_memory(self, plan: ExpertMap) -> None:
        """Raise `InfeasibleError` unless a device holds the weights of a plan, workspace and one request."""
        deployment = replace(self._deployment, plan=plan)
        engine = self.engine
        memory = deployment.memory(engine.chunk_tokens, engine.memory_utilisation)
        check_room(deployment, load_of([Workload(self.context, 1.0, 1.0)], engine), memory, engine)

    def price(self, plan: ExpertMap, draw: Draw) -> StepCost:
        """Seconds of one step under a plan."""
        experts = exchange = even = 0.0
        # Replicas that a rule draws are drawn alike for every plan.
        rng = np.random.default_rng([SEED, draw.tokens])
        for (group, _), step in zip(
            self._deployment.expert_steps(self.phase), self._timers(plan), strict=True
        ):
            chosen = list(group.layers)
            # A layer that no token reaches has no imbalance; its seconds are 0.
            with np.errstate(invalid="ignore"):
                ids = None if draw.ids is None else draw.ids[:, chosen]
                values = step.values_of(Draw(ids, draw.counts[chosen], draw.tokens), rng)
            experts += float(values[_AT["experts_s"]])
            even += float(values[_AT["balanced_s"]])
            exchange += float(values[_AT["dispatch_s"]] + values[_AT["combine_s"]])
        return StepCost(
            experts, self._deployment.traits.communication * exchange, even, self._rest_of(draw.tokens)
        )

    def imbalance(self, plan: ExpertMap, counts: FloatArray) -> float:
        """Largest over mean rank load under the engine's dispatch rule, averaged over layers with load."""
        rule, rows = self.engine.dispatch, self.model.moe_layer_ids
        shares = slot_shares(plan, rule, self.hosts, loads=counts, rows=rows)
        return float(np.nanmean(plan.load_imbalance(counts, shares)))

    def copy_seconds(self, moved: Moves) -> FloatArray:
        """Seconds of the copies of each layer with all links to themselves, ``[layers]``."""
        busy = moved.experts > 0
        found = np.zeros(len(busy))
        if busy.any():
            found[busy] = all_to_all_seconds(moved.up[busy], moved.out[busy], self.hardware, moved.domain)
        return found

    def _timers(self, plan: ExpertMap) -> list[ExpertStep]:
        known = self._steps.get(id(plan))
        if known is None:
            steps = replace(self._deployment, plan=plan).expert_steps(self.phase)
            timers = [step for _, step in steps]
            # The plan is held as well: an id stays its own as long as it lives.
            known = self._steps[id(plan)] = (plan, timers)
            if len(self._steps) > _PLANS:
                self._steps.popitem(last=False)
        return known[1]

    def _rest_of(self, tokens: int) -> float:
        known = self._rest.get(tokens)
        if known is None:
            per_rank = tokens / self.ranks
            batch = (
                Batch.decode_over(float(tokens), self.context, self.ranks)
                if self.phase == DECODE
                else Batch.prefill(1.0, per_rank)
            )
            times = self._deployment.step(batch)
            moe = sum(times.expert_mean(name) for name in ("dispatch_s", "combine_s"))
            moe = times.expert_mean("experts_s") + self._deployment.traits.communication * moe
            known = self._rest[tokens] = float((times.seconds - moe)[0])
        return known


__all__ = ["DECODE", "PREFILL", "StepCost", "StepPricer"]
