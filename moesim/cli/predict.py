"""`moesim predict`: latency and throughput of one configuration."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, Seed, print_json, print_table, stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moesim.errors import Fault
    from moesim.layout import Disaggregated, ExpertMap, Parallelism
    from moesim.model import Model
    from moesim.result import Prediction


def predict(
    model: opt.ModelName,
    hardware: opt.HardwareName,
    concurrency: Annotated[
        float | None, typer.Option(help="Requests in the system of the whole deployment: a closed loop.")
    ] = None,
    request_rate: Annotated[
        float | None, typer.Option(help="Requests per second instead, answered or not: an open loop.")
    ] = None,
    nodes: opt.Nodes = None,
    tp: opt.Tp = 1,
    pp: opt.Pp = 1,
    dp: opt.Dp = 1,
    ep: opt.Ep = 1,
    input_len: opt.InputLen = 1024,
    output_len: opt.OutputLen = 1024,
    trace: opt.TracePath = None,
    num_experts: opt.NumExperts = None,
    plan: Annotated[
        str | None, typer.Option(help="Expert placement, in any format `moesim place` writes.")
    ] = None,
    redundant: Annotated[
        int,
        typer.Option(min=0, help="Physical experts beyond one of each, placed as engines do without a plan."),
    ] = 0,
    dtype: opt.Dtype = "auto",
    kv_cache_dtype: opt.KvDtype = "auto",
    overlap: opt.Overlap = "none",
    max_num_batched_tokens: opt.Chunk = 8192,
    max_num_seqs: opt.MaxSeqs = 1024,
    gpu_memory_utilization: opt.Utilisation = 0.9,
    scheduler_recv_interval: opt.RecvInterval = 1.0,
    backend: opt.Backend = "vllm",
    speculative_tokens: opt.SpeculativeTokens = None,
    acceptance_rate: opt.AcceptanceRate = None,
    enforce_eager: opt.EnforceEager = False,
    assumed_routing: opt.AssumedRouting = "typical",
    dispatch: opt.Dispatch = "even",
    prefill_workers: Annotated[
        int | None,
        typer.Option(help="Workers that only prefill: disaggregated. --tp and others are then of a worker."),
    ] = None,
    decode_workers: Annotated[int, typer.Option(help="Workers that only decode, beside those.")] = 1,
    prefill_tp: Annotated[int | None, typer.Option(help="Of a prefill worker, if not as --tp.")] = None,
    prefill_pp: Annotated[int | None, typer.Option(help="Of a prefill worker, if not as --pp.")] = None,
    prefill_dp: Annotated[int | None, typer.Option(help="Of a prefill worker, if not as --dp.")] = None,
    prefill_ep: Annotated[int | None, typer.Option(help="Of a prefill worker, if not as --ep.")] = None,
    calibration: opt.CalibrationPath = None,
    timeline: Annotated[
        Path | None,
        typer.Option(help="Write a step of prefill and one of decode here, for Perfetto: .json or .json.gz."),
    ] = None,
    timeline_ranks: Annotated[int, typer.Option(min=1, help="Ranks that are drawn at most.")] = 32,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Predict latency and throughput of one configuration."""
    from moesim.chrome import path_faults
    from moesim.correction import calibration_of
    from moesim.errors import InfeasibleError, OutOfDomainWarning
    from moesim.layout import Parallelism
    from moesim.prediction import Engine, Workload, step_timeline
    from moesim.prediction import predict as run

    found_model, found_hardware, (routing,) = opt.read_all(
        model, hardware, nodes, trace, num_experts=num_experts
    )
    assert found_hardware is not None
    layout = Parallelism(tp, pp, dp, ep)
    own = {"tp": prefill_tp, "pp": prefill_pp, "dp": prefill_dp, "ep": prefill_ep}
    whole = pools_of(layout, prefill_workers, decode_workers, own)
    learnt = None if calibration is None else calibration_of(calibration)
    engine = Engine(
        dtype,
        kv_cache_dtype,
        overlap,
        max_num_batched_tokens,
        max_num_seqs,
        gpu_memory_utilization,
        scheduler_recv_interval,
        backend,
        speculative_tokens,
        acceptance_rate,
        enforce_eager,
        assumed_routing,
        dispatch,
    )
    workload = Workload(input_len, output_len, concurrency, request_rate)
    faults = engine.faults() + workload.faults()
    if timeline is not None:
        faults += path_faults(timeline)
    if plan is None:
        faults += whole.faults(found_model, found_hardware, redundant)
    placed = placement_of(found_model, layout, plan, redundant, faults)
    taught = None if calibration == "none" else calibration
    inputs = [p for p in (found_model.path, found_hardware.path, trace, plan, taught) if p]
    # What is outside the calibrated domain is among the answer's warnings, which are printed below.
    warnings.simplefilter("ignore", OutOfDomainWarning)
    question = found_model, found_hardware, whole, workload
    settings: dict[str, Any] = {
        "trace": routing,
        "plan": placed,
        "engine": engine,
        "seed": seed,
        "calibration": learnt,
    }
    try:
        answer = run(*question, **settings)
    except InfeasibleError as error:
        if json:
            print_json(infeasible(error), kind="prediction", inputs=inputs, seed=seed)
        raise
    if timeline is not None:
        step_timeline(*question, **settings).write(timeline, timeline_ranks)
    notes = [*(routing.warnings if routing is not None else ()), *answer.warnings]
    if json:
        print_json(answer.to_dict() | {"warnings": notes}, kind="prediction", inputs=inputs, seed=seed)
        return
    show(answer)
    for note in notes:
        stderr(f"note: {note}")


def placement_of(
    model: Model, layout: Parallelism, path: str | None, redundant: int, beside: Sequence[Fault] = ()
) -> ExpertMap | None:
    """The placement that was asked for: from a file, or contiguous with spares.

    Parameters
    ----------
    model, layout
        What is placed on the ranks of what.
    path
        File of a placement, which has its own spares.
    redundant
        Spares where there is no file.
    beside
        What else is wrong with the question, to be said at once.
    """
    from moesim.errors import ConfigError, Fault
    from moesim.prediction.spares import spare_faults, with_spares

    faults = list(beside)
    if path is not None and redundant:
        faults.append(Fault("comes with the plan", "--redundant", redundant, "--plan or --redundant"))
    elif path is not None and not model.moe:
        faults.append(Fault(f"{model.name} has no experts to place", "--model"))
    else:
        faults += spare_faults(model, layout, redundant)
    plan = None
    if path is not None and model.moe:
        # With it comes scipy's optimisation, which is slow to load.
        from moesim.placement import read_plan

        try:
            plan = read_plan(path, model, layout.ep)
        except ConfigError as error:
            faults += [Fault(f"{error.source}: {fault}") for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return plan if plan is not None else with_spares(model, layout, redundant)


def pools_of(
    layout: Parallelism, prefill: int | None, decode: int, own: dict[str, int | None]
) -> Parallelism | Disaggregated:
    """One deployment, or the two pools that were asked for."""
    from dataclasses import replace

    from moesim.errors import ConfigError, Fault
    from moesim.layout import Disaggregated, Workers

    given = {name: value for name, value in own.items() if value is not None}
    if prefill is None:
        faults = [
            Fault("is of disaggregated serving, which --prefill-workers asks for", f"--prefill-{name}", value)
            for name, value in given.items()
        ]
        if decode != 1:
            faults.append(Fault("needs --prefill-workers beside it", "--decode-workers", decode))
        if faults:
            raise ConfigError(faults)
        return layout
    return Disaggregated(Workers(replace(layout, **given), prefill), Workers(layout, decode))


def infeasible(error: Any) -> dict[str, Any]:  # noqa: ANN401 - imported lazily
    """The JSON document of an infeasible question."""
    return {
        "feasible": False,
        "reason": str(error),
        "resource": error.resource,
        "needed": error.needed,
        "available": error.available,
        **error.details,
    }


def show(answer: Prediction) -> None:
    """Print an answer for people: the numbers, their bounds and intervals, and where the time goes."""
    interval = answer.interval or {}
    level = f"{interval['level']:.0%} interval" if interval else "no interval"

    def row(title: str, name: str, scale: float, digits: int = 4) -> list[str]:
        def text(value: float) -> str:
            return f"{value * scale:.{digits}g}"

        span = " to ".join(map(text, interval[name])) if interval else ""
        bound = text(answer.bounds[name]) if name in answer.bounds else ""
        return [title, text(getattr(answer, name)), span, bound]

    print_table(
        ["metric", "predicted", level, "bound"],
        [
            row("TTFT, ms", "ttft_s", 1e3),
            row("TPOT, ms", "tpot_s", 1e3),
            row("end to end, s", "e2el_s", 1.0),
            row("output tokens/s", "output_throughput", 1.0, 5),
            row("output tokens/s per device", "output_throughput_per_device", 1.0, 5),
        ],
        title=answer.title,
    )
    typer.echo()
    lines = [
        (
            "memory per device, GB",
            f"{answer.memory_bytes / 1e9:.4g} of {answer.memory_capacity_bytes / 1e9:.4g}",
        ),
        ("running requests", f"{answer.running:.5g}"),
    ]
    if answer.tokens_per_step != 1.0:
        lines.append(("tokens per sequence and step", f"{answer.tokens_per_step:.4g}"))
    if answer.load_imbalance is not None:
        lines += [
            ("expert load, largest over mean rank", f"{answer.load_imbalance:.3f}"),
            ("distinct experts per layer and step", f"{answer.experts['distinct_experts']:.4g}"),
            (
                "expert slots hit per rank",
                f"{answer.experts['hit_slots_per_rank']:.4g} of {answer.experts['slots_per_rank']:.4g}",
            ),
        ]
    print_table(["", ""], lines)
    typer.echo()
    total = answer.tpot_s
    print_table(
        ["TPOT is spent on", "ms", "share", "bound by"],
        [
            [line.op, f"{line.seconds * 1e3:.4f}", f"{line.seconds / total:.1%}", line.bound_by]
            for line in answer.breakdown
            if abs(line.seconds) >= 0.005 * total
        ],
    )
