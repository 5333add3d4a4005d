"""From model, hardware, layout, traffic and routing to latency and throughput."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.bounds import bounds_of
from moesim.engine.deployment import OVERLAPS, Deployment
from moesim.engine.memory import UTILISATION, MemoryUse, cache_per_sequence, memory_use
from moesim.engine.routing import Array, source_of
from moesim.engine.steady import Load, Steady, steady
from moesim.errors import ConfigError, Fault, InfeasibleError, TraceError
from moesim.hardware.types import Hardware
from moesim.interval import interval_of
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.metrics import e2el_s, output_throughput, request_throughput, total_token_throughput
from moesim.model.types import Model
from moesim.ops import Precision
from moesim.result import Prediction
from moesim.trace.types import LoadCounts, RoutingTrace
from moesim.units import show


@dataclass(frozen=True, slots=True)
class Workload:
    """Traffic in a closed loop.

    Parameters
    ----------
    input_len, output_len
        Tokens per request.
    concurrency
        Requests in the system of the whole deployment.
    """

    input_len: float
    output_len: float
    concurrency: float

    def faults(self) -> list[Fault]:
        """What is wrong with the numbers."""
        return [
            Fault("must be at least 1", f"--{name.replace('_', '-')}", value, "1 or more")
            for name in ("input_len", "output_len", "concurrency")
            if not (value := getattr(self, name)) >= 1
        ]


@dataclass(frozen=True, slots=True)
class Engine:
    """Settings of the serving engine.

    Parameters
    ----------
    dtype, kv_cache_dtype
        Data types of weights and cache; ``auto`` is the checkpoint's, and 16 bits.
    overlap
        ``none`` or ``two-batch``.
    chunk_tokens
        Tokens a data-parallel rank prefills in one step (``--max-num-batched-tokens``).
    max_sequences
        Sequences a data-parallel rank decodes at most (``--max-num-seqs``).
    memory_utilisation
        Fraction of device memory the engine may use (``--gpu-memory-utilization``).
    """

    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    overlap: str = "none"
    chunk_tokens: float = 8192
    max_sequences: float = 1024
    memory_utilisation: float = UTILISATION

    def faults(self) -> list[Fault]:
        """What is wrong with the settings."""
        found = []
        if self.overlap not in OVERLAPS:
            found.append(Fault("unknown overlap", "--overlap", self.overlap, ", ".join(OVERLAPS)))
        if self.chunk_tokens < 1:
            found.append(Fault("must be at least 1", "--max-num-batched-tokens", self.chunk_tokens))
        if self.max_sequences < 1:
            found.append(Fault("must be at least 1", "--max-num-seqs", self.max_sequences))
        if not 0 < self.memory_utilisation <= 1:
            found.append(
                Fault("is a fraction", "--gpu-memory-utilization", self.memory_utilisation, "0 to 1")
            )
        return found


def predict(
    model: Model,
    hardware: Hardware,
    layout: Parallelism,
    workload: Workload,
    *,
    trace: RoutingTrace | LoadCounts | None = None,
    plan: ExpertMap | None = None,
    engine: Engine | None = None,
    seed: int = 0,
) -> Prediction:
    """Predict latency and throughput of one configuration.

    Parameters
    ----------
    model, hardware, layout, workload
        What is served, on what, how, to whom.
    trace
        Real routing, token by token or as loads; without it every expert is equally likely.
    plan
        Expert placement; without it experts are contiguous and not replicated.
    engine
        Settings of the serving engine.
    seed
        Of the routing draws.

    Returns
    -------
    Prediction

    Raises
    ------
    ConfigError
        With every fault of layout, workload and settings.
    TraceError
        If the trace is of another model.
    InfeasibleError
        If the weights, or one request's cache, do not fit.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> answer = predict(
    ...     load_model("gpt-oss-20b"),
    ...     load_hardware("h100-sxm-8"),
    ...     Parallelism(dp=8, ep=8),
    ...     Workload(input_len=1024, output_len=1024, concurrency=256),
    ... )
    >>> answer.bounds["tpot_s"] < answer.tpot_s
    True
    """
    engine = engine or Engine()
    check(model, hardware, layout, [workload], trace, plan, engine)
    deployment = _deployment(model, hardware, layout, engine, trace, plan, seed)
    load = _load([workload], engine)
    memory = deployment.memory(engine.chunk_tokens, engine.memory_utilisation)
    _check_room(deployment, load, memory, engine)
    state = steady(deployment, load, memory)
    answers = _throughput(state, load, layout)
    limits = bounds_of(state, load)
    cached = _cached(deployment, state, load)
    unknown = _warnings(model, layout, workload, state)
    values = {name: float(np.asarray(value)[0]) for name, value in answers.items()}
    moe = model.moe is not None
    return Prediction(
        model=model.name,
        hardware=hardware.name,
        layout=layout,
        input_len=workload.input_len,
        output_len=workload.output_len,
        concurrency=workload.concurrency,
        **values,
        memory_bytes=memory.weights_bytes + memory.workspace_bytes + float(cached[0]),
        memory_capacity_bytes=memory.capacity_bytes,
        load_imbalance=float(state.decode.expert_mean("load_imbalance")[0]) if moe else None,
        running=float(state.running[0]),
        prefill_s=float(state.prefill_s[0]),
        bounds={
            name: float(np.asarray(getattr(limits, name))[0])
            for name in ("ttft_s", "tpot_s", "e2el_s", "request_throughput", "output_throughput")
        },
        interval=interval_of(hardware, values["ttft_s"], values["tpot_s"], limits),
        experts=_expert_facts(model, layout, plan, state) if moe else {},
        memory={
            "weights_bytes": memory.weights_bytes,
            "workspace_bytes": memory.workspace_bytes,
            "cache_bytes": float(cached[0]),
            "budget_bytes": memory.budget_bytes,
        },
        warnings=unknown,
        decode=state.decode,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Answers to many configurations, arrays ``[layouts, workloads]``.

    Infeasible configurations hold NaN.
    """

    layouts: tuple[Parallelism, ...]
    workloads: tuple[Workload, ...]
    feasible: np.ndarray[Any, np.dtype[np.bool_]]
    metrics: dict[str, Array]

    def __getitem__(self, metric: str) -> Array:
        """One metric."""
        return self.metrics[metric]


def sweep(
    model: Model,
    hardware: Hardware,
    layouts: Sequence[Parallelism],
    workloads: Sequence[Workload],
    *,
    trace: RoutingTrace | LoadCounts | None = None,
    engine: Engine | None = None,
    seed: int = 0,
) -> Sweep:
    """Predict every workload on every layout.

    Parameters
    ----------
    layouts, workloads
        The configurations are all pairs.

    Returns
    -------
    Sweep
        Equal to calling `predict` on each pair.
    """
    engine = engine or Engine()
    load = _load(workloads, engine)
    rows: dict[str, list[Array]] = {}
    feasible = np.zeros((len(layouts), len(workloads)), dtype=bool)
    for i, layout in enumerate(layouts):
        check(model, hardware, layout, workloads if i == 0 else [], trace, None, engine)
        deployment = _deployment(model, hardware, layout, engine, trace, None, seed)
        memory = deployment.memory(engine.chunk_tokens, engine.memory_utilisation)
        whole = cache_per_sequence(
            deployment.kinds, layout, deployment.precision, load.input_len + load.output_len
        )
        fits = np.asarray(memory.cache_budget_bytes >= whole)
        feasible[i] = fits
        values = _empty(len(workloads))
        if fits.any():
            part = load.part(fits)
            found = _throughput(steady(deployment, part, memory), part, layout)
            for name, value in found.items():
                values[name][fits] = value
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    return Sweep(tuple(layouts), tuple(workloads), feasible, {n: np.array(v) for n, v in rows.items()})


_ANSWERS = (
    "ttft_s",
    "tpot_s",
    "e2el_s",
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "output_throughput_per_device",
)


def _empty(size: int) -> dict[str, Array]:
    return {name: np.full(size, np.nan) for name in _ANSWERS}


def check(
    model: Model,
    hardware: Hardware,
    layout: Parallelism,
    workloads: Sequence[Workload],
    trace: RoutingTrace | LoadCounts | None,
    plan: ExpertMap | None,
    engine: Engine,
) -> None:
    """Raise with every fault of a question before it is answered."""
    redundant = plan.redundant if plan is not None else 0
    found = layout.faults(model, hardware, redundant) + engine.faults()
    for workload in workloads:
        found += workload.faults()
    if plan is not None and plan.ranks != layout.ep:
        found.append(Fault(f"the placement is for {plan.ranks} ranks", "--ep", layout.ep, str(plan.ranks)))
    if found:
        raise ConfigError(found)
    if trace is not None:
        check_routing(trace, model)


def check_routing(trace: RoutingTrace | LoadCounts, model: Model) -> None:
    """Raise `TraceError` naming everything in which a trace is not the model's."""
    wanted = {"MoE layers": len(model.moe_layer_ids), "experts": model.num_experts, "top-k": model.top_k}
    has = {"MoE layers": len(trace.moe_layer_ids), "experts": trace.num_experts, "top-k": trace.top_k}
    found = [
        Fault(f"the trace has {has[name]} {name}, {model.name} has {wanted[name]}")
        for name in wanted
        if has[name] is not None and has[name] != wanted[name]
    ]
    if found:
        raise TraceError(found, trace.source or "trace")


_KEPT: OrderedDict[tuple[object, ...], tuple[Deployment, tuple[object, ...]]] = OrderedDict()
_KEEP = 64


def _deployment(
    model: Model,
    hardware: Hardware,
    layout: Parallelism,
    engine: Engine,
    trace: RoutingTrace | LoadCounts | None,
    plan: ExpertMap | None,
    seed: int,
) -> Deployment:
    """A deployment with its draws of routing, kept for the next question about the same objects."""
    objects = (model, hardware, trace, plan)
    key = (*map(id, objects), layout, engine.dtype, engine.kv_cache_dtype, engine.overlap, seed)
    if key in _KEPT:
        _KEPT.move_to_end(key)
        return _KEPT[key][0]
    deployment = Deployment(
        model,
        hardware,
        layout,
        Precision.of(model, engine.dtype, engine.kv_cache_dtype),
        source_of(trace, model.top_k) if trace is not None else None,
        plan,
        engine.overlap,
        seed,
    )
    # The objects are held as well: an id stays theirs as long as they live.
    _KEPT[key] = (deployment, objects)
    if len(_KEPT) > _KEEP:
        _KEPT.popitem(last=False)
    return deployment


def _load(workloads: Sequence[Workload], engine: Engine) -> Load:
    columns = np.array([(w.input_len, w.output_len, w.concurrency) for w in workloads], dtype=np.float64).T
    return Load(columns[0], columns[1], columns[2], engine.chunk_tokens, engine.max_sequences)


def _throughput(state: Steady, load: Load, layout: Parallelism) -> dict[str, Array | float]:
    whole = e2el_s(state.ttft_s, state.tpot_s, load.output_len)
    requests = request_throughput(load.concurrency, whole)
    output = output_throughput(requests, load.output_len)
    return {
        "ttft_s": state.ttft_s,
        "tpot_s": state.tpot_s,
        "e2el_s": whole,
        "request_throughput": requests,
        "output_throughput": output,
        "total_token_throughput": total_token_throughput(requests, load.input_len, load.output_len),
        "output_throughput_per_device": output / layout.world,
    }


def _cached(deployment: Deployment, state: Steady, load: Load) -> Array:
    mean = cache_per_sequence(
        deployment.kinds, deployment.layout, deployment.precision, load.input_len + load.output_len / 2.0
    )
    return np.asarray(mean * state.running / deployment.layout.dp)


def _expert_facts(
    model: Model, layout: Parallelism, plan: ExpertMap | None, state: Steady
) -> dict[str, float]:
    layers = len(model.moe_layer_ids)
    return {
        "tokens_per_step": float(state.running[0]) / layout.pp,
        "distinct_experts": float(state.decode.expert_mean("distinct_fraction")[0]) * model.num_experts,
        "hit_slots_per_rank": float(state.decode.expert_mean("mean_hit_slots")[0]) / layers,
        "slots_per_rank": (plan.slots if plan else model.num_experts) / layout.ep,
    }


def _warnings(model: Model, layout: Parallelism, workload: Workload, state: Steady) -> tuple[str, ...]:
    found = list(model.warnings)
    if state.running[0] < workload.concurrency:
        found.append(
            f"the cache holds {state.limit[0]:.0f} of {workload.concurrency:.0f} concurrent requests; "
            "the others wait, and their waiting is in TTFT"
        )
    longest = workload.input_len + workload.output_len
    if model.max_context is not None and longest > model.max_context:
        found.append(
            f"{longest:.0f} tokens per request exceed the {model.max_context} positions of {model.name}"
        )
    if workload.concurrency < layout.dp:
        found.append(
            f"{workload.concurrency:.0f} requests keep at most that many of {layout.dp} data-parallel ranks busy"
        )
    return tuple(found)


def _check_room(deployment: Deployment, load: Load, memory: MemoryUse, engine: Engine) -> None:
    """Raise `InfeasibleError` unless weights, workspace and one request fit."""
    one = cache_per_sequence(
        deployment.kinds, deployment.layout, deployment.precision, load.input_len + load.output_len
    )
    needed = memory.weights_bytes + memory.workspace_bytes + float(one[0])
    if needed <= memory.budget_bytes:
        return
    hardware, model = deployment.hardware, deployment.model
    name = hardware.device.memory.name
    out = fewest_nodes(deployment, load, engine)
    way = (
        f"the fewest such nodes that hold it: {out[0]}, laid out {out[1]}"
        if out
        else "no number of such nodes up to 64 holds it in a layout with these degrees"
    )
    raise InfeasibleError(
        f"{model.name} needs {show(needed, 'bytes')} of memory {name} per device "
        f"(weights {show(memory.weights_bytes, 'bytes')}, workspace {show(memory.workspace_bytes, 'bytes')}, "
        f"one request's cache {show(float(one[0]), 'bytes')}), {hardware.name} has "
        f"{show(memory.budget_bytes, 'bytes')} to use of {show(memory.capacity_bytes, 'bytes')}: "
        f"{show(needed - memory.budget_bytes, 'bytes')} short with {deployment.layout}; {way}",
        resource=f"memory {name}",
        needed=needed,
        available=memory.budget_bytes,
        details={
            "weights_bytes": memory.weights_bytes,
            "workspace_bytes": memory.workspace_bytes,
            "cache_bytes": float(one[0]),
            "short_bytes": needed - memory.budget_bytes,
            "fewest_nodes": out[0] if out else None,
            "fewest_nodes_layout": str(out[1]) if out else None,
        },
    )


def fewest_nodes(deployment: Deployment, load: Load, engine: Engine) -> tuple[int, Parallelism] | None:
    """Fewest nodes of the same kind that hold weights and one request, and the layout that does it.

    Layouts keep the tensor-parallel degree, and use all devices either by spreading experts over more
    data-parallel ranks or by more pipeline stages; the first that fits is taken, experts first.
    """
    model, hardware, given = deployment.model, deployment.hardware, deployment.layout
    redundant = deployment.plan.redundant if deployment.plan is not None else 0
    for nodes in range(1, 65):
        if hardware.max_nodes is not None and nodes > hardware.max_nodes:
            return None
        cluster = hardware.with_nodes(nodes)
        devices = cluster.num_devices
        ranks = devices // given.tp
        layouts = [Parallelism(given.tp, 1, ranks, devices if model.moe else 1)] if ranks else []
        layouts += [
            Parallelism(given.tp, pp, ranks // pp, ranks // pp * given.tp) for pp in _pipelines(ranks)
        ]
        layouts += [Parallelism(given.tp, pp, ranks // pp, 1) for pp in _pipelines(ranks)]
        for layout in layouts:
            if (
                layout.faults(model, cluster, redundant)
                or layout.world <= given.world
                and nodes < hardware.nodes
            ):
                continue
            use = memory_use(
                model,
                deployment.kinds,
                layout,
                deployment.precision,
                cluster,
                redundant=redundant,
                chunk_tokens=engine.chunk_tokens,
                utilisation=engine.memory_utilisation,
            )
            one = cache_per_sequence(
                deployment.kinds, layout, deployment.precision, load.input_len + load.output_len
            )
            if use.cache_budget_bytes >= float(one[0]):
                return nodes, layout
    return None


def _pipelines(ranks: int) -> list[int]:
    return [pp for pp in range(2, ranks + 1) if ranks % pp == 0]
