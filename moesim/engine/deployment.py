"""A model on a cluster in a layout: its step times, for any batch, sequential or overlapped."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np

from moesim.cost import Choice, ExpertShape, Rates, kv_memory_of
from moesim.engine.dispatch import Replicas
from moesim.engine.eager import launches
from moesim.engine.experts import SAMPLES, ExpertStep
from moesim.engine.memory import MemoryUse, cached_bytes, cached_layers, memory_use, weights_per_device
from moesim.engine.prefill import prefill_times
from moesim.engine.routing import DECODE, PREFILL, Array, Draw, RoutingSource, TokenSource, assumed
from moesim.engine.speculation import Speculation, draft_model
from moesim.engine.step import StepTimes, step_times
from moesim.engine.streams import SPLITS, two_stream_layers, with_cores
from moesim.engine.timeline import Task, makespan, two_batch_layers
from moesim.engine.traits import Traits
from moesim.hardware.types import Hardware
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.layout.sharing import hosts_of
from moesim.model.cache import CacheShape
from moesim.model.types import Model
from moesim.ops import Batch, ExpertWork, LayerKinds, Precision, step_work
from moesim.ops.precision import input_bytes
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.ops.table import OpTable

#: Prompt lengths whose prefill is kept.
MOST_LENGTHS = 100_000

#: Sequences per rank and tokens of each, for which the memory of the cache is chosen where there are several.
USUAL = (64.0, 4096.0)

OVERLAPS = ("none", "two-batch", "streams")
#: Serving engines whose kernels were measured.
BACKENDS = ("vllm", "sglang", "trtllm")


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """A decode step; arrays are ``[batches]``.

    Parameters
    ----------
    step
        Times of the step that checks what was drafted, or of a plain one.
    draft_s
        Seconds of drafting.
    tokens
        Tokens that the step yields per sequence.
    """

    step: StepTimes
    draft_s: Array
    tokens: float

    @property
    def seconds(self) -> Array:
        """Of the whole step."""
        return self.step.seconds + self.draft_s

    @property
    def token_s(self) -> Array:
        """Seconds per token of a sequence."""
        return self.seconds / self.tokens

    @property
    def bound_s(self) -> Array:
        """What no schedule can beat, per token of a sequence."""
        return self.step.bound_s / self.tokens


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
        behind the computation of the other, ``streams`` runs attention of one half beside the experts of the
        other, each on its share of the cores.
    seed
        Of the routing draws.
    backend
        Whose measured kernels apply: one of `BACKENDS`, or empty for those that the device has.
    traits
        What the engine adds to its kernels.
    speculation
        Drafts of every decode step.
    launch_s
        Seconds for which the host is busy with every kernel; 0 with CUDA graphs.
    routing
        What is assumed without a source: one of `moesim.engine.routing.ASSUMED`.
    dispatch
        How tokens choose among the replicas of an expert: one of `moesim.layout.DISPATCH`.
    samples
        Layer batches that are drawn for each size; fewer where many layouts are only to be ranked.
    splits
        Shares of the cores that attention may have under ``streams``; each batch takes the best.
    fused
        Operations that start with the one before them, as one kernel.
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
    speculation: Speculation = field(default_factory=Speculation)
    launch_s: float = 0.0
    routing: str = "typical"
    dispatch: str = "even"
    samples: int = SAMPLES
    splits: tuple[float, ...] = SPLITS
    fused: frozenset[str] = frozenset()
    kinds: LayerKinds = field(init=False)
    choice: Choice = field(init=False)
    draft: Deployment | None = field(init=False, default=None)
    _cached: tuple[tuple[float, CacheShape], ...] = field(init=False)
    _experts: dict[tuple[int, int], ExpertStep] = field(default_factory=dict, init=False)
    _rates: dict[tuple[object, ...], Rates] = field(default_factory=dict, init=False)
    _weights: dict[Parallelism, float] = field(default_factory=dict, init=False)
    _memory: dict[tuple[float, float], MemoryUse] = field(default_factory=dict, init=False)
    _prompts: dict[tuple[float, float], Array] = field(default_factory=dict, init=False)
    _parts: dict[float, Deployment] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.kinds = LayerKinds.of(self.model)
        self.traits = self.traits.on(self.hardware.scale_up)
        self._cached = cached_layers(self.kinds, self.layout)
        self.choice = Choice(self.backend, self.precision.block_scaled)
        self.hardware = self._with_cache_placed()
        if self.speculation.tokens:
            head = draft_model(self.model)
            self.draft = replace(
                self,
                model=head,
                layout=replace(self.layout, pp=1),
                # What stands for every layer stands for the one that drafts as well.
                source=self.source if self.source is not None and self.source.layers == 1 else None,
                plan=self._plan_of(head),
                traits=replace(self.traits, host_s=0.0),
                speculation=Speculation(),
            )

    def _with_cache_placed(self) -> Hardware:
        """The machine with its KV cache where decode steps are fastest, if nothing says where it is."""
        device, layout = self.hardware.device, self.layout
        if device.kv_in is not None or len(device.memories) == 1:
            return self.hardware
        spare = self.plan.mean_copies if self.plan is not None else 0.0
        weights = weights_per_device(self.model, layout, self.precision, spare)
        sequences, context = (np.array([each]) for each in USUAL)
        queries = 1.0 + self.speculation.tokens
        batch = Batch.decode_over(sequences * layout.dp, context, layout.dp, queries)
        table = step_work(self.model, layout, batch, self.precision, self.kinds).table
        found = kv_memory_of(table, device, self.choice, weights)
        return replace(self.hardware, device=replace(device, kv_in=found))

    def _plan_of(self, head: Model) -> ExpertMap | None:
        """Where a draft's experts lie: with as many spares as the model's, so that they divide as well."""
        if self.plan is None or head.moe is None:
            return None
        layers = len(head.moe_layer_ids)
        if self.plan.layers == layers:
            return self.plan
        return ExpertMap.contiguous(layers, head.num_experts, self.layout.ep, self.plan.redundant)

    def memory(self, chunk_tokens: float, utilisation: float) -> MemoryUse:
        """What the fullest device holds before any sequence is cached."""
        key = (chunk_tokens, utilisation)
        if key not in self._memory:
            spare = self.plan.mean_copies if self.plan is not None else 0.0
            if self.layout not in self._weights:
                self._weights[self.layout] = weights_per_device(
                    self.model,
                    self.layout,
                    self.precision,
                    spare,
                    self.draft.model if self.draft is not None else None,
                )
            self._memory[key] = memory_use(
                self.model,
                self.kinds,
                self.layout,
                self.precision,
                self.hardware,
                chunk_tokens=chunk_tokens,
                utilisation=utilisation,
                weights_bytes=self._weights[self.layout],
            )
        return self._memory[key]

    def cache_bytes(self, context: Array) -> Array:
        """Bytes that a sequence of `context` tokens keeps on one device, those of what drafts included."""
        own = cached_bytes(self._cached, self.precision, context)
        return own if self.draft is None else own + self.draft.cache_bytes(context)

    def but(self, acceptance: float | None = None, launch_s: float | None = None) -> Deployment:
        """The same, draws and all, but for how often drafts are accepted or what starting a kernel costs."""
        other = copy(self)
        if acceptance is not None:
            other.speculation = replace(self.speculation, acceptance=acceptance)
        if launch_s is not None:
            other.launch_s, other._prompts = launch_s, {}
            other.draft = self.draft.but(launch_s=launch_s) if self.draft is not None else None
        return other

    def share(self, draws: Deployment, weights: Deployment, rates: Deployment) -> None:
        """Keep what does not differ together with other deployments of the same model.

        Parameters
        ----------
        draws
            On equal stages of equal machines: all but the number of stages and the cache's type is the same.
        weights
            With weights in the same data types and as many spare experts.
        rates
            On the same device, with the same kernels.
        """
        self._experts, self._weights, self._rates = draws._experts, weights._weights, rates._rates

    def decode(self, sequences: Array, context: Array) -> Decode:
        """A step that decodes `sequences` sequences, all ranks together, drafts and all."""
        layout = self.layout
        # Pipeline stages work on a microbatch each, so a step of one microbatch passes all stages.
        checked = self.step(
            Batch.decode_over(sequences / layout.pp, context, layout.dp, 1.0 + self.speculation.tokens)
        )
        drafted = np.zeros(len(checked.seconds))
        if self.draft is not None:
            one = self.draft.step(Batch.decode_over(sequences / layout.pp, context, layout.dp))
            drafted = self.speculation.tokens * one.seconds
        return Decode(checked, drafted, self.speculation.per_step)

    def prompts(self, input_len: Array, chunk_tokens: float) -> Array:
        """Prefill seconds by prompt length, as `moesim.engine.prefill.prefill_times` returns them.

        Traffic repeats lengths and layouts far more often than it brings new ones: they are kept.
        """
        lengths, place = np.unique(input_len, return_inverse=True)
        if len(self._prompts) > MOST_LENGTHS:
            self._prompts.clear()
        new = [n for n in lengths.tolist() if (n, chunk_tokens) not in self._prompts]
        if new:
            found = prefill_times(self.step, self.layout, np.array(new), chunk_tokens)
            self._prompts.update(zip(((n, chunk_tokens) for n in new), found.T, strict=True))
        known = np.array([self._prompts[n, chunk_tokens] for n in lengths.tolist()])
        return np.asarray(known[place].T)

    def step(self, batch: Batch) -> StepTimes:
        """Seconds of one step for every alternative of `batch`."""
        phase = PREFILL if np.any(batch.prefill_tokens > 0) else DECODE
        whole = self.sequential(batch, phase)
        seconds = whole.seconds
        if self.overlap != "none" and whole.groups:
            # An engine switches overlap off where it does not pay.
            together = (
                self._streamed(whole, batch.half(), phase)
                if self.overlap == "streams"
                else self._overlapped(self.sequential(batch.half(), phase))
            )
            seconds = np.minimum(seconds, together)
        waiting = np.zeros(len(seconds))
        if self.launch_s:
            waiting = np.maximum(self.launch_s * launches(whole.work) - seconds, 0.0)
        return replace(whole, seconds=seconds + waiting, waiting_s=waiting)

    def sequential(self, batch: Batch, phase: int) -> StepTimes:
        """A step of a phase with one operation after the other, whatever the overlap."""
        work = step_work(
            self.model, self.layout, batch, self.precision, self.kinds, together=self.one_attention
        )
        if self.fused:
            work = replace(work, table=work.table.started_together(self.fused))
        groups = [self._expert_step(group, phase, i) for i, group in enumerate(work.experts)]
        return step_times(work, groups, self.hardware, self._rates_of(work.table), self.traits, self.backend)

    @property
    def one_attention(self) -> bool:
        """Whether decoding and prompts of a step share a kernel of attention: where it was measured so."""
        measured = self.hardware.device.processor.kernels
        return ("attention_mixed", self.precision.cache, self.backend) in measured

    def expert_steps(self, phase: int = DECODE) -> list[tuple[ExpertWork, ExpertStep]]:
        """What a batch asks of the routed experts of each group of equal layers, and what times it."""
        batch = Batch.decode(1.0, 1.0) if phase == DECODE else Batch.prefill(1.0, 1.0)
        work = step_work(self.model, self.layout, batch, self.precision, self.kinds)
        return [(group, self._expert_step(group, phase, i)) for i, group in enumerate(work.experts)]

    def _rates_of(self, table: OpTable) -> Rates:
        rows = tuple((op.name, op.kind, op.dtype, op.launches) for op, _ in table.ops)
        key = self.hardware.device.kv_in, rows
        known = self._rates.get(key)
        if known is None:
            known = self._rates[key] = Rates.of(table, self.hardware.device, self.choice)
        return known

    def _overlapped(self, half: StepTimes) -> Array:
        dense, other = self.around_layers(half, 2)
        return np.asarray(dense + makespan(self.two_batch_tasks(half)) + other)

    def two_batch_tasks(self, half: StepTimes) -> list[Task]:
        """The MoE layers of two half batches in turn; attention is spread evenly over all layers."""
        layers, blocks = len(self.model.moe_layer_ids), half.block_seconds()
        rest = (blocks[name] / layers for name in ("dispatch", "experts", "combine"))
        return list(two_batch_layers(layers, blocks["attention"] / self.model.num_layers, *rest))

    def around_layers(self, part: StepTimes, parts: int) -> tuple[Array, Array]:
        """Seconds of layers without experts and of what surrounds layers, of so many equal parts in a row."""
        blocks, layers = part.block_seconds(), len(self.model.moe_layer_ids)
        dense = parts * blocks["attention"] / self.model.num_layers * (self.model.num_layers - layers)
        # All belong to one step, for which the host works once.
        return dense, parts * blocks["other"] - (parts - 1) * self.traits.host_s

    def stream_seconds(self, half: Batch, split: float, phase: int = DECODE) -> tuple[Array, Array]:
        """Seconds of a MoE layer of a micro-batch: attention on a share of the cores, the rest beside it."""
        attention, dispatch, experts, combine = self.stream_parts(half, split, phase)
        return attention, dispatch + experts + combine

    def stream_parts(self, half: Batch, split: float, phase: int = DECODE) -> tuple[Array, ...]:
        """Attention, and dispatch, experts and combine beside it, as `stream_seconds` sums them."""
        layers = len(self.model.moe_layer_ids)
        attends = self._part(split).sequential(half, phase).block_seconds()
        computes = self._part(1.0 - split).sequential(half, phase).block_seconds()
        rest = (computes[name] / layers for name in ("dispatch", "experts", "combine"))
        return attends["attention"] / self.model.num_layers, *rest

    def _part(self, share: float) -> Deployment:
        """What a stream with a share of the cores sees."""
        known = self._parts.get(share)
        if known is None:
            known = self._parts[share] = replace(
                self, hardware=with_cores(self.hardware, share), overlap="none", speculation=Speculation()
            )
        return known

    def _streamed(self, whole: StepTimes, half: Batch, phase: int) -> Array:
        layers = len(self.model.moe_layer_ids)
        # Layers without experts, and what surrounds the layers, pass whole and with all cores.
        dense, other = self.around_layers(whole, 1)
        spans = [
            makespan(two_stream_layers(layers, *self.stream_seconds(half, split, phase)))
            for split in self.splits
        ]
        memory = 2.0 * self.sequential(half, phase).memory_seconds()
        return np.asarray(np.maximum(dense + np.min(spans, axis=0) + other, memory))

    def _expert_step(self, group: ExpertWork, phase: int, index: int) -> ExpertStep:
        known = self._experts.get((index, phase))
        if known is None:
            known = self._experts[index, phase] = self._new_expert_step(group, phase)
        return known

    def _new_expert_step(self, group: ExpertWork, phase: int) -> ExpertStep:
        moe, layers = group.moe, len(group.layers)
        source, plan, repeat = self.source, self.plan, 1.0
        replicas = self._replicas
        if source is None:
            # Layers differ only if their placement does; else as many are drawn as make a sample.
            many = min(layers, plan.layers) if plan is not None else SAMPLES
            source = assumed(self.routing, moe.num_experts, moe.top_k, many)
        elif layers < source.layers:
            source = _Layers(source, group.layers)
        if plan is None:
            plan = ExpertMap.contiguous(source.layers, moe.num_experts, self.layout.ep)
            repeat = layers / source.layers
        elif layers < plan.layers:
            plan = ExpertMap(plan.physical_to_logical[list(group.layers)], plan.num_experts, plan.ranks)
            replicas = replicas.only(group.layers)
        else:
            # A placement of some layers stands for all, as a source of some does.
            repeat = layers / plan.layers
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
            replicas,
            self.samples,
        )

    @property
    def _replicas(self) -> Replicas:
        """How tokens choose among replicas; without data parallelism all ranks see all tokens and agree."""
        if self.plan is None or self.layout.dp == 1:
            return Replicas()
        nodes = hosts_of(self.layout.ep * self.layout.moe_tp, self.hardware)
        return Replicas.of(self.plan, self.dispatch, nodes, self.model.moe_layer_ids)


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
        sample = None if drawn.sample is None else drawn.sample[:, list(self.chosen)]
        return Draw(ids, drawn.counts[list(self.chosen)], tokens, sample)
