"""A model on a cluster in a layout: its step times, for any batch, sequential or overlapped."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from moesim.cost import Choice, ExpertShape, Rates
from moesim.engine.experts import SAMPLES, ExpertStep
from moesim.engine.memory import MemoryUse, memory_use
from moesim.engine.routing import DECODE, PREFILL, Array, Draw, RoutingSource, TokenSource, assumed
from moesim.engine.step import StepTimes, step_times
from moesim.engine.timeline import makespan, two_batch_layers
from moesim.engine.traits import Traits
from moesim.hardware.types import Hardware
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.ops import Batch, ExpertWork, LayerKinds, Precision, step_work
from moesim.ops.precision import input_bytes
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.ops.table import OpTable

OVERLAPS = ("none", "two-batch")
#: Serving engines whose kernels were measured.
BACKENDS = ("vllm", "sglang", "trtllm")


@dataclass(slots=True, eq=False)
class Deployment:
    """What steps cost on one layout. Draws of routing are kept between calls.

    Parameters
    ----------
    model, hardware, layout, precision
        What is served, on what, how.
    source
        Routing; None is what `routing` says.
    plan
        Placement; None is contiguous without replicas.
    overlap
        ``none`` runs one operation after the other, ``two-batch`` hides communication of one half batch
        behind the computation of the other.
    seed
        Of the routing draws.
    backend
        Whose measured kernels apply: one of `BACKENDS`, or empty for those that the device has.
    traits
        What the engine adds to its kernels.
    routing
        What is assumed without a source: one of `moesim.engine.routing.ASSUMED`.
    """

    model: Model
    hardware: Hardware
    layout: Parallelism
    precision: Precision
    source: RoutingSource | None = None
    plan: ExpertMap | None = None
    overlap: str = "none"
    seed: int = 0
    backend: str = ""
    traits: Traits = field(default_factory=Traits)
    routing: str = "typical"
    kinds: LayerKinds = field(init=False)
    choice: Choice = field(init=False)
    _experts: dict[tuple[int, int], ExpertStep] = field(default_factory=dict, init=False)
    _rates: dict[tuple[tuple[str, str, str], ...], Rates] = field(default_factory=dict, init=False)
    _memory: dict[tuple[float, float], MemoryUse] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.kinds = LayerKinds.of(self.model)
        self.choice = Choice(self.backend, self.precision.block_scaled)

    def memory(self, chunk_tokens: float, utilisation: float) -> MemoryUse:
        """What the fullest device holds before any sequence is cached."""
        key = (chunk_tokens, utilisation)
        if key not in self._memory:
            self._memory[key] = memory_use(
                self.model,
                self.kinds,
                self.layout,
                self.precision,
                self.hardware,
                redundant=self.plan.redundant if self.plan is not None else 0,
                chunk_tokens=chunk_tokens,
                utilisation=utilisation,
            )
        return self._memory[key]

    def step(self, batch: Batch) -> StepTimes:
        """Seconds of one step for every alternative of `batch`."""
        phase = PREFILL if np.any(batch.prefill_tokens > 0) else DECODE
        whole = self._sequential(batch, phase)
        if self.overlap == "none" or not whole.groups:
            return whole
        overlapped = self._overlapped(self._sequential(batch.half(), phase))
        # An engine switches overlap off where it does not pay.
        return replace(whole, seconds=np.minimum(whole.seconds, overlapped))

    def _sequential(self, batch: Batch, phase: int) -> StepTimes:
        work = step_work(self.model, self.layout, batch, self.precision, self.kinds)
        groups = [self._expert_step(group, phase, i) for i, group in enumerate(work.experts)]
        return step_times(work, groups, self.hardware, self._rates_of(work.table), self.traits, self.backend)

    def _rates_of(self, table: OpTable) -> Rates:
        key = tuple((op.name, op.kind, op.dtype) for op, _ in table.ops)
        known = self._rates.get(key)
        if known is None:
            known = self._rates[key] = Rates.of(table, self.hardware.device, self.choice)
        return known

    def _overlapped(self, half: StepTimes) -> Array:
        layers = len(self.model.moe_layer_ids)
        blocks = half.block_seconds()
        # Attention is spread evenly over all layers; without experts, both halves run one after the other.
        per_layer = blocks["attention"] / self.model.num_layers
        dense = 2.0 * per_layer * (self.model.num_layers - layers)
        moe = makespan(
            two_batch_layers(
                layers, per_layer, *(blocks[name] / layers for name in ("dispatch", "experts", "combine"))
            )
        )
        # Both halves belong to one step, for which the host works once.
        return np.asarray(dense + moe + 2.0 * blocks["other"] - self.traits.host_s)

    def _expert_step(self, group: ExpertWork, phase: int, index: int) -> ExpertStep:
        known = self._experts.get((index, phase))
        if known is None:
            known = self._experts[index, phase] = self._new_expert_step(group, phase)
        return known

    def _new_expert_step(self, group: ExpertWork, phase: int) -> ExpertStep:
        moe, layers = group.moe, len(group.layers)
        source, plan, repeat = self.source, self.plan, 1.0
        if source is None:
            # Layers differ only if their placement does; else as many are drawn as make a sample.
            many = layers if plan is not None else SAMPLES
            source = assumed(self.routing, moe.num_experts, moe.top_k, many)
        elif layers < source.layers:
            source = _Layers(source, group.layers)
        if plan is None:
            plan = ExpertMap.contiguous(source.layers, moe.num_experts, self.layout.ep)
            repeat = layers / source.layers
        elif layers < plan.layers:
            plan = ExpertMap(plan.physical_to_logical[list(group.layers)], plan.num_experts, plan.ranks)
        each = input_bytes(group.dtype) if group.dtype in ("fp8", "int8") else ACTIVATION_BYTES
        shape = ExpertShape(group.hidden, group.shard, moe.matrices, group.dtype)
        return ExpertStep(
            source,
            plan,
            repeat,
            shape,
            self.layout,
            self.hardware,
            group.hidden * each,
            phase,
            self.seed,
            self.backend,
            # A recording shows by itself which experts go together; loads do not.
            (1, 1) if isinstance(self.source, TokenSource) else (moe.groups, moe.top_groups),
            self.choice,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Layers:
    """Some layers of a source, for models whose MoE layers are not all alike."""

    whole: RoutingSource
    chosen: tuple[int, ...]

    @property
    def layers(self) -> int:
        return len(self.chosen)

    @property
    def num_experts(self) -> int:
        return self.whole.num_experts

    @property
    def top_k(self) -> int:
        return self.whole.top_k

    def draw(self, tokens: int, phase: int, rng: np.random.Generator) -> Draw:
        drawn = self.whole.draw(tokens, phase, rng)
        ids = None if drawn.ids is None else drawn.ids[:, list(self.chosen)]
        return Draw(ids, drawn.counts[list(self.chosen)], tokens)
