"""From model, hardware, layout, traffic and routing to latency and throughput."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from moesim.bounds import Bounds, bounds_of
from moesim.correction import Calibration, Corrected, shipped
from moesim.cost import Spent, idle_energy
from moesim.engine.energy import step_energy
from moesim.engine.load import Load
from moesim.engine.routing import Array
from moesim.engine.steady import Steady
from moesim.errors import InfeasibleError, OutOfDomainWarning
from moesim.hardware.types import Hardware
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.prediction.calibrated import interval_of, kept_up, widened
from moesim.prediction.question import Engine, Workload, check, load_of
from moesim.prediction.room import check_room
from moesim.prediction.served import Served
from moesim.result import Prediction, first
from moesim.trace.types import LoadCounts, RoutingTrace


def predict(
    model: Model,
    hardware: Hardware,
    layout: Parallelism | Disaggregated,
    workload: Workload,
    *,
    trace: RoutingTrace | LoadCounts | None = None,
    plan: ExpertMap | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> Prediction:
    """Predict latency and throughput of one configuration.

    Parameters
    ----------
    model, hardware, layout, workload
        What is served, on what, how (as one deployment, or in two pools), to whom.
    trace
        Real routing, token by token or as loads; without it experts are loaded as `Engine.routing` says.
    plan
        Expert placement; without it experts are contiguous and not replicated.
    engine
        Settings of the serving engine.
    seed
        Of the routing draws.
    calibration
        What measured runs taught; the shipped one by default, `moesim.correction.calibration_of("none")` for
        physics alone.

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
        If the weights, or one request's cache, do not fit, or if the requests come faster than they can be
        answered.

    Warns
    -----
    OutOfDomainWarning
        If no measured run is on this machine.

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
    calibration = shipped() if calibration is None else calibration
    check(model, hardware, layout, [workload], trace, plan, engine)
    served = Served.of(model, hardware, layout, engine, calibration, trace, plan, seed)
    load = settle(served, workload)
    state, found = served.answer(load)
    limits = _limits(served, load, state)
    values = {name: float(np.asarray(value)[0]) for name, value in served.metrics(state, load).items()}
    # Little's law.
    concurrency = workload.concurrency or values["request_throughput"] * values["e2el_s"]
    running = min(float(state.running[0]), concurrency)
    cached = running * float(served.decode.cache_bytes(load.input_len + load.output_len / 2.0)[0])
    cached /= served.decode.layout.dp * served.decoders.count
    memory, device = served.memory, served.decode.hardware.device
    elsewhere = device.kv_memory.capacity_bytes if memory.apart_bytes is not None else 0.0
    moe = model.moe is not None
    notes = _notes(served, workload, load, state, found)
    if found is not None and not found.known_system:
        warnings.warn(_not_measured(served), OutOfDomainWarning, stacklevel=2)
    return Prediction(
        model=model.name,
        hardware=hardware.name,
        layout=served.decode.layout,
        input_len=workload.input_len,
        output_len=workload.output_len,
        concurrency=concurrency,
        ttft_s=values["ttft_s"],
        tpot_s=values["tpot_s"],
        e2el_s=values["e2el_s"],
        request_throughput=values["request_throughput"],
        output_throughput=values["output_throughput"],
        total_token_throughput=values["total_token_throughput"],
        output_throughput_per_device=values["output_throughput_per_device"],
        memory_bytes=memory.weights_bytes + memory.workspace_bytes + cached,
        memory_capacity_bytes=memory.capacity_bytes + elsewhere,
        load_imbalance=float(state.decode.step.expert_mean("load_imbalance")[0]) if moe else None,
        running=running,
        prefill_s=float(state.prefill_s[0]),
        bounds={
            name: float(np.asarray(getattr(limits, name))[0])
            for name in ("ttft_s", "tpot_s", "e2el_s", "request_throughput", "output_throughput")
        },
        interval=_interval(served, load, values, found, limits, state.limit),
        experts=_expert_facts(model, served, plan, state) if moe else {},
        memory={
            "weights_bytes": memory.weights_bytes,
            "workspace_bytes": memory.workspace_bytes,
            "cache_bytes": cached,
            "budget_bytes": memory.budget_bytes,
        },
        warnings=notes,
        decode=state.decode.step,
        draft_s=float(state.decode.draft_s[0]),
        tokens_per_step=state.decode.tokens,
        calibration={}
        if found is None
        else {
            "tpot_factor": float(np.asarray(state.tpot_factor)[0]),
            "ttft_factor": float(np.asarray(state.ttft_factor)[0]),
            "novelty": found.novelty,
            "digest": calibration.provenance.get("digest", ""),
        },
        request_rate=workload.request_rate,
        pools=served.pools,
        energy=_energy(served, state, engine),
    )


def settle(served: Served, workload: Workload) -> Load:
    """Where a workload settles.

    Raises
    ------
    InfeasibleError
        As `predict`.
    """
    load = load_of([workload], served.engine)
    for deployment in served.deployments:
        check_room(deployment, load, served.memory_of(deployment), served.engine)
    load, stable = served.settled(load)
    if not stable[0]:
        raise _too_fast(served, workload, float(served.most_rate(load)[0]))
    return load


def _energy(served: Served, state: Steady, engine: Engine) -> dict[str, Any]:
    """Joules per token of a decode step, by part; null with what is missing where no source says."""
    decode, layout = state.decode, served.decode.layout
    # A step is one microbatch's: each pipeline stage works on another.
    tokens = float(state.running[0]) / served.decoders.count / layout.pp * decode.tokens
    spent = step_energy(decode.step, backend=engine.backend).times(1.0 / tokens)
    if served.decode.draft is not None:
        spent = spent + Spent(missing=("drafting is not counted",))
    device = served.decode.hardware.device
    waiting = layout.world / layout.pp * decode.seconds / tokens
    whole = spent + idle_energy(device, waiting)
    joules = whole.joules
    return {
        "joules_per_token": None if joules is None else first(joules),
        "scope": whole.scope,
        "of": "decode steps",
        "parts": [
            {"name": part.name, "joules_per_token": first(part.joules), "scope": part.scope}
            for part in whole.parts
        ],
        "missing": list(whole.missing),
    }


def _limits(served: Served, load: Load, state: Steady) -> Bounds:
    """What cannot be beaten, whatever nobody said of the settings."""
    limits = bounds_of(state, load)
    fastest = served.extremes()[:1]
    return limits.loosened(bounds_of(fastest[0].physical(load), load)) if fastest else limits


def _interval(
    served: Served,
    load: Load,
    values: dict[str, float],
    found: Corrected | None,
    limits: Bounds,
    most: Array,
) -> dict[str, Any] | None:
    """Interval of an answer, over all that nobody said of its settings."""
    own = interval_of(values, found, limits, served.calibration)
    if own is None:
        return None
    for other in served.extremes():
        state, known = other.answer(load)
        answers = {name: float(np.asarray(value)[0]) for name, value in other.metrics(state, load).items()}
        own = widened(own, interval_of(answers, known, limits, served.calibration))
    if load.request_rate is None:
        return own
    return kept_up(own, values, float(load.request_rate[0]), float(most[0]))


def _too_fast(served: Served, workload: Workload, most: float) -> InfeasibleError:
    rate = workload.request_rate or 0.0
    return InfeasibleError(
        f"{served.decode.model.name} on {served.world} devices of {served.decode.hardware.name} answers at "
        f"most {most:.4g} requests/s of {workload.input_len:g} tokens in and {workload.output_len:g} out; "
        f"at {rate:g} requests/s the queue grows without end",
        resource="request rate",
        needed=rate,
        available=most,
        details={"most_request_rate": most},
    )


def _expert_facts(model: Model, served: Served, plan: ExpertMap | None, state: Steady) -> dict[str, float]:
    layout, step = served.decode.layout, state.decode.step
    layers = sum(len(group.layers) for group in step.work.experts)
    return {
        "tokens_per_step": float(step.work.experts[0].tokens[0]),
        "distinct_experts": float(step.expert_mean("distinct_fraction")[0]) * model.num_experts,
        "hit_slots_per_rank": float(step.expert_mean("mean_hit_slots")[0]) / layers,
        "slots_per_rank": (plan.slots if plan else model.num_experts) / layout.ep,
        "redundant": float(plan.redundant) if plan else 0.0,
    }


def _not_measured(served: Served) -> str:
    device = served.decode.hardware.device.name
    return f"no measured run is on {device}: the interval is that of machines nobody measured"


def _notes(
    served: Served, workload: Workload, load: Load, state: Steady, found: Corrected | None
) -> tuple[str, ...]:
    model, layout, concurrency = served.decode.model, served.decode.layout, float(load.concurrency[0])
    notes = list(model.warnings)
    if state.limit[0] < concurrency:
        notes.append(
            f"cache and --max-num-seqs let {state.limit[0]:.0f} of {concurrency:.0f} concurrent "
            "requests run; the others wait, and their waiting is in TTFT"
        )
    longest = workload.input_len + workload.output_len
    if model.max_context is not None and longest > model.max_context:
        notes.append(
            f"{longest:.0f} tokens per request exceed the {model.max_context} positions of {model.name}"
        )
    ranks = layout.dp * served.decoders.count
    if workload.concurrency is not None and concurrency < ranks:
        notes.append(f"{concurrency:.0f} requests keep no more of {ranks} data-parallel ranks busy")
    device = served.decode.hardware.device
    if device.kv_memory is not device.memory:
        notes.append(f"the KV cache is in memory {device.kv_memory.name}, where decode steps are faster")
    measured_on = device.processor.measured_on
    if measured_on != device.name:
        stand = f"those of {measured_on}" if measured_on else "efficiencies of its family"
        notes.append(f"kernels of {device.name} were not measured, {stand} stand for them")
    if found is None:
        notes.append("physics alone, without an interval: the calibration is of no such deployment")
        return tuple(notes)
    if not found.known_system:
        notes.append(_not_measured(served))
    elif found.why:
        notes.append(f"{found.why}: the interval is that of such cases")
    if not found.known_system and found.beyond:
        notes.append(f"no measured run has such {found.beyond}")
    return tuple(notes)
