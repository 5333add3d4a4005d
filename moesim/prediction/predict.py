"""From model, hardware, layout, traffic and routing to latency and throughput."""

from __future__ import annotations

import warnings

import numpy as np

from moesim.bounds import bounds_of
from moesim.engine.deployment import Deployment
from moesim.engine.memory import cache_per_sequence
from moesim.engine.routing import Array
from moesim.engine.steady import Load, Steady, steady
from moesim.errors import OutOfDomainWarning
from moesim.hardware.types import Hardware
from moesim.interval import interval_of, outside_of
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.metrics import e2el_s, output_throughput, request_throughput, total_token_throughput
from moesim.model.types import Model
from moesim.prediction.kept import deployment_of
from moesim.prediction.question import Engine, Workload, check, load_of
from moesim.prediction.room import check_room
from moesim.result import Prediction
from moesim.trace.types import LoadCounts, RoutingTrace


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

    Warns
    -----
    OutOfDomainWarning
        If no public measurement is of this kind of machine.

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
    outside = outside_of(hardware)
    if outside:
        warnings.warn(outside, OutOfDomainWarning, stacklevel=2)
    check(model, hardware, layout, [workload], trace, plan, engine)
    deployment = deployment_of(model, hardware, layout, engine, trace, plan, seed)
    load = load_of([workload], engine)
    memory = deployment.memory(engine.chunk_tokens, engine.memory_utilisation)
    check_room(deployment, load, memory, engine)
    state = steady(deployment, load, memory)
    answers = throughput(state, load, deployment)
    limits = bounds_of(state, load)
    cached = _cached(deployment, state, load)
    notes = _notes(model, layout, workload, state) + ((outside,) if outside else ())
    values = {name: float(np.asarray(value)[0]) for name, value in answers.items()}
    moe = model.moe is not None
    return Prediction(
        model=model.name,
        hardware=hardware.name,
        layout=layout,
        input_len=workload.input_len,
        output_len=workload.output_len,
        concurrency=workload.concurrency,
        ttft_s=values["ttft_s"],
        tpot_s=values["tpot_s"],
        e2el_s=values["e2el_s"],
        request_throughput=values["request_throughput"],
        output_throughput=values["output_throughput"],
        total_token_throughput=values["total_token_throughput"],
        output_throughput_per_device=values["output_throughput_per_device"],
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
        warnings=notes,
        decode=state.decode,
    )


def throughput(state: Steady, load: Load, deployment: Deployment) -> dict[str, Array | float]:
    """Latencies and throughputs of a steady state, by metric."""
    whole = e2el_s(state.ttft_s, state.tpot_s, load.output_len, load.sent_first(deployment.traits))
    requests = request_throughput(load.concurrency, whole)
    output = output_throughput(requests, load.output_len)
    return {
        "ttft_s": state.ttft_s,
        "tpot_s": state.tpot_s,
        "e2el_s": whole,
        "request_throughput": requests,
        "output_throughput": output,
        "total_token_throughput": total_token_throughput(requests, load.input_len, load.output_len),
        "output_throughput_per_device": output / deployment.layout.world,
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


def _notes(model: Model, layout: Parallelism, workload: Workload, state: Steady) -> tuple[str, ...]:
    found = list(model.warnings)
    if state.running[0] < workload.concurrency:
        found.append(
            f"cache and --max-num-seqs let {state.limit[0]:.0f} of {workload.concurrency:.0f} concurrent "
            "requests run; the others wait, and their waiting is in TTFT"
        )
    longest = workload.input_len + workload.output_len
    if model.max_context is not None and longest > model.max_context:
        found.append(
            f"{longest:.0f} tokens per request exceed the {model.max_context} positions of {model.name}"
        )
    if workload.concurrency < layout.dp:
        found.append(
            f"{workload.concurrency:.0f} requests keep no more of {layout.dp} data-parallel ranks busy"
        )
    return tuple(found)
