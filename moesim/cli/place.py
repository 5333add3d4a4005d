"""`moesim place`: an expert placement from real load, proven, priced, written."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, Seed, print_json, print_table, stderr
from moesim.cli.place_check import check_file, served_as, show_files

if TYPE_CHECKING:
    from moesim.placement import Placed


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
        int | None, typer.Option(help="Physical experts beyond one of each, per layer; 0 if not given.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="search, greedy, greedy-hierarchical, contiguous, round-robin.")
    ] = "search",
    evaluate_on: Annotated[
        str | None, typer.Option(help="Other routing to judge the plan on; it never influences the plan.")
    ] = None,
    emit: Annotated[
        list[str] | None,
        typer.Option(
            help="Write the plan: sglang:plan.json, tensorrt-llm:plan.yaml, vllm-ascend:map.json, "
            "vllm:plan.json or eplb:plan.npz; again for more files."
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(help="Place nothing; say what is wrong with this plan, in any format --emit writes."),
    ] = None,
    report: Annotated[str | None, typer.Option(help="Write an HTML report.")] = None,
    concurrency: Annotated[
        float | None, typer.Option(help="Requests the plan is priced for; 64 per rank if not given.")
    ] = None,
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
    from moesim.files import check_writable
    from moesim.placement import place as run
    from moesim.prediction import Engine, Workload

    found_model, found_hardware, (routing, other) = opt.read_all(
        model, hardware, nodes, trace, evaluate_on, num_experts=num_experts
    )
    if check is not None:
        check_file(
            check,
            found_model,
            ep,
            redundant,
            {p: r for p, r in ((trace, routing), (evaluate_on, other)) if p is not None and r is not None},
            writes=[*(emit or ()), *([report] if report is not None else [])],
            json=json,
        )
        return
    if routing is None:
        raise ConfigError(Fault("is needed, except with --check", "TRACE"))
    if report is not None and (faults := check_writable(report, "--report")):
        raise ConfigError(faults)
    workload = Workload(input_len, output_len, 64 * ep if concurrency is None else concurrency)
    # What is outside the calibrated domain is among the plan's warnings, which are printed below.
    warnings.simplefilter("ignore", OutOfDomainWarning)
    placed = run(
        routing,
        found_model,
        found_hardware,
        ep=ep,
        redundant=redundant or 0,
        method=method,
        evaluate_on=other,
        workload=workload,
        engine=Engine(dtype, kv_cache_dtype, overlap, backend=backend),
        emit=emit or (),
        seed=seed,
        inputs=[p for p in (trace, evaluate_on) if p],
        served=served_as(model, found_model.name),
    )
    if report is not None:
        from moesim.reporting import write_placement_report

        read = [p for p in (trace, evaluate_on) if p is not None]
        write_placement_report(placed, routing, found_model, found_hardware, report, seed=seed, inputs=read)
    if json:
        paths = [
            p for p in (trace, evaluate_on, found_model.path, found_hardware and found_hardware.path) if p
        ]
        document = placed.to_dict() | ({"report": report} if report else {})
        print_json({"model": found_model.name, **document}, inputs=paths, seed=seed)
        return
    show(placed)
    if report is not None:
        typer.echo(f"report: {report}")


def show(placed: Placed) -> None:
    """Print a plan for people: imbalance before and after, proof, price, files."""
    plan = placed.expert_map
    evaluated = placed.judged["plan"].evaluated is not None
    columns = ["placement", "mean", "worst layer"] + (
        ["other load: mean", "worst layer"] if evaluated else []
    )
    rows = []
    for name, judged in placed.judged.items():
        row = [name, f"{judged.fitted.mean:.4f}", f"{judged.fitted.worst:.4f}"]
        if judged.evaluated is not None:
            row += [f"{judged.evaluated.mean:.4f}", f"{judged.evaluated.worst:.4f}"]
        rows.append(row)
    document = placed.to_dict()
    rows.append(["lower bound", f"{document['lower_bound']['mean']:.4f}", "", *([""] * 2 * evaluated)])
    print_table(
        columns,
        rows,
        title=f"largest over mean rank load, {plan.ranks} ranks, {plan.slots} slots "
        f"({plan.redundant} redundant), {plan.layers} MoE layers",
    )
    gap = document["gap"]
    typer.echo(
        f"gap to the bound: {gap['mean']:.3%} mean, {gap['worst']:.3%} worst layer; "
        f"solved in {placed.solution.seconds:.2f} s"
    )
    if placed.predicted:
        typer.echo()
        print_table(
            ["placement", "TTFT, ms", "TPOT, ms", "output tokens/s", "imbalance per step"],
            [
                [
                    _TITLES.get(name, name),
                    f"{p.ttft_s * 1e3:.4g}",
                    f"{p.tpot_s * 1e3:.4g}",
                    f"{p.output_throughput:.5g}",
                    f"{p.load_imbalance or 1:.3f}",
                ]
                for name, p in placed.predicted.items()
            ],
            title=f"predicted at {placed.predicted['after'].concurrency:g} concurrent requests",
        )
        typer.echo()
        print_table(
            ["tokens per rank", "before, ms", "no redundancy, ms", "plan, ms"],
            [
                [
                    p.tokens_per_rank,
                    *(
                        f"{s * 1e3:.4g}" if s is not None else None
                        for s in (p.before_s, p.balanced_s, p.after_s)
                    ),
                ]
                for p in placed.prices
            ],
            title="TPOT by batch size",
        )
        typer.echo()
        for sentence in placed.verdict:
            typer.echo(sentence)
    show_files(placed.emitted)
    for note in placed.warnings:
        stderr(f"note: {note}")


_TITLES = {
    "before": "before (contiguous)",
    "balanced": "best without redundancy",
    "after": "after (the plan)",
}
