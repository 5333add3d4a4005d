"""`moesim place`: an expert placement from real load, proven, priced, written."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, Seed, print_json
from moesim.cli.place_check import check_file
from moesim.cli.place_output import attempt, number_of, output_faults, served_as
from moesim.cli.place_show import show, show_progress


def place(
    model: opt.ModelName,
    ep: Annotated[int, typer.Option("--expert-parallel-size", "--ep", help="Expert-parallel ranks.")],
    trace: Annotated[
        str | None, typer.Argument(help="Routing trace or load counts the plan is fitted to.")
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", help="Catalogue name or YAML file; without it nothing is priced."),
    ] = None,
    nodes: opt.Nodes = None,
    redundant: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            help="Physical experts beyond one of each, per layer; auto: the number that serves fastest. "
            "If not given: that of --current or --rank-slots, else 0; with --check any.",
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="search, exact, greedy, greedy-hierarchical, contiguous, round-robin.")
    ] = "search",
    exact: Annotated[
        bool, typer.Option("--exact", help="--method exact: integer programmes until 0.5 % is proven.")
    ] = False,
    time_limit: Annotated[float, typer.Option(help="Seconds that integer programmes may take.")] = 600.0,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="TERMS",
            help="max-load, expected-max, remote-nodes, transitions, layer-time, migration; "
            "'a + 0.1 b' weighs, 'a, b' orders them. [default: max-load; expected-max with --robust]",
        ),
    ] = None,
    dispatch: Annotated[
        str,
        typer.Option(
            "--dispatch",
            "--ep-dispatch-algorithm",
            help="How the engine chooses among replicas; the plan is made and judged under this rule.",
        ),
    ] = "even",
    robust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE...", help="More routing the plan has to hold for; the mean over all is minimised."
        ),
    ] = None,
    current: Annotated[
        str | None, typer.Option(metavar="PLAN", help="The plan that is loaded now, for migration.")
    ] = None,
    rank_speeds: Annotated[
        str | None, typer.Option(metavar="S,S,...", help="Relative speed of each rank; not priced.")
    ] = None,
    rank_slots: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Slots of each rank, if they differ; not priced.")
    ] = None,
    evaluate_on: Annotated[
        str | None, typer.Option(help="Other routing to judge the plan on; it never influences the plan.")
    ] = None,
    emit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT:FILE",
            help="Write the plan: sglang:plan.json, tensorrt-llm:plan.yaml, vllm-ascend:map.json, "
            "vllm:plan.json or eplb:plan.npz; again for more files.",
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="PLAN", help="Place nothing; say what is wrong with this plan, in any format of --emit."
        ),
    ] = None,
    report: Annotated[str | None, typer.Option(help="Write an HTML report.")] = None,
    concurrency: Annotated[
        float | None, typer.Option(help="Requests the plan is priced for; 64 per rank if not given.")
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of a batch for expected-max and layer-time; --concurrency if not given."
        ),
    ] = None,
    batch_run: Annotated[
        int, typer.Option(min=1, help="Neighbouring tokens of a request that a batch takes together.")
    ] = 1,
    input_len: opt.InputLen = 1024,
    output_len: opt.OutputLen = 1024,
    num_experts: opt.NumExperts = None,
    dtype: opt.Dtype = "auto",
    kv_cache_dtype: opt.KvDtype = "auto",
    overlap: opt.Overlap = "none",
    backend: opt.Backend = "vllm",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Place experts so that ranks share a real load evenly; judge, price and write the plan."""
    from moesim.errors import ConfigError, Fault, OutOfDomainWarning
    from moesim.placement import place as run
    from moesim.placement import read_plan
    from moesim.placement.files import emission_faults
    from moesim.prediction import Engine, Workload

    workload = Workload(input_len, output_len, 64 * max(ep, 1) if concurrency is None else concurrency)
    engine = Engine(dtype, kv_cache_dtype, overlap, backend=backend)
    fitted = list(dict.fromkeys([*([trace] if trace is not None else []), *(robust or [])]))
    faults = output_faults(emit or (), report, [*fitted, evaluate_on, current, model, hardware])
    try:
        found_model, found_hardware, (other, *routings) = opt.read_all(
            model, hardware, nodes, evaluate_on, *fitted, num_experts=num_experts
        )
        if check is None and not fitted:
            raise ConfigError(Fault("is needed, except with --check", "TRACE"))
    except ConfigError as error:
        unseen = [*faults, *emission_faults(emit or ()), *workload.faults(), *engine.faults()]
        raise ConfigError([*error.faults, *unseen]) from None
    wanted = [routing for routing in routings if routing is not None]
    if check is not None:
        named = zip([evaluate_on, *fitted], [other, *routings], strict=True)
        judged_on = {path: routing for path, routing in named if path is not None and routing is not None}
        written = [*(emit or ()), *([report] if report is not None else [])]
        check_file(check, found_model, ep, redundant, judged_on, dispatch, found_hardware, written, json=json)
        return
    speeds = attempt(faults, opt.numbers, rank_speeds, "--rank-speeds", float)
    rooms = attempt(faults, opt.numbers, rank_slots, "--rank-slots", int)
    loaded = attempt(faults, read_plan, current, found_model, ep) if current is not None else None
    spare = sum(rooms) - found_model.num_experts if rooms else loaded.redundant if loaded else 0
    # What is outside the calibrated domain is among the plan's warnings, which are printed below.
    warnings.simplefilter("ignore", OutOfDomainWarning)
    placed = run(
        wanted[0],
        found_model,
        found_hardware,
        ep=ep,
        nodes=nodes,
        redundant=number_of(redundant) if redundant is not None else spare,
        method="exact" if exact else method,
        objective=objective,
        dispatch=dispatch,
        current=loaded,
        speeds=speeds,
        rooms=rooms,
        robust=wanted[1:],
        evaluate_on=other,
        workload=workload,
        engine=engine,
        emit=emit or (),
        seed=seed,
        time_limit_s=time_limit,
        batch_tokens=batch_tokens,
        batch_run=batch_run,
        progress=show_progress,
        inputs=[p for p in (*fitted, evaluate_on) if p],
        served=served_as(model, found_model.name),
        also=faults,
    )
    if report is not None:
        from moesim.reporting import write_placement_report

        read = [p for p in (*fitted, evaluate_on) if p is not None]
        write_placement_report(placed, wanted[0], found_model, found_hardware, report, seed=seed, inputs=read)
    if json:
        paths = [
            p for p in (*fitted, evaluate_on, found_model.path, found_hardware and found_hardware.path) if p
        ]
        document = placed.to_dict() | ({"report": report} if report else {})
        print_json({"model": found_model.name, **document}, kind="placement", inputs=paths, seed=seed)
        return
    show(placed)
    if report is not None:
        typer.echo(f"report: {report}")
