"""`moesim plan`: the cheapest deployment that keeps a promise of latency, and how it is started."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, Seed, print_json, stderr
from moesim.cli.plan_ask import Asked, ask, longest_tokens, respelled
from moesim.cli.plan_show import Progress, infeasible_document, show, show_infeasible
from moesim.errors import ConfigError

if TYPE_CHECKING:
    from moesim.planning.launch import Launch
    from moesim.planning.sensitivity import Sensitivity
    from moesim.planning.types import PlanResult
    from moesim.trace import Routing

_LENGTHS = "TOKENS or lognormal:MEAN:CV, without a file."


def plan(
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL...", help="Catalogue names, config.json, or folders.")
    ] = None,
    hardware: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="Catalogue names or YAML files.")
    ] = None,
    goodput: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC:MS...", help="Limits, as in ttft:500 tpot:50 e2el:30000."),
    ] = None,
    slo: Annotated[
        str | None, typer.Option(help="Limits of MLPerf Inference by name: mlperf-deepseek-r1-server, ...")
    ] = None,
    attainment: Annotated[
        float | None, typer.Option(help="Share of requests that must meet all limits. [default: 0.99]")
    ] = None,
    requests: Annotated[
        Path | None, typer.Option(help="Requests, in any known format; --request-rate stretches their times.")
    ] = None,
    request_rate: Annotated[float | None, typer.Option(help="Requests per second.")] = None,
    input_len: Annotated[str | None, typer.Option(help=f"Prompt tokens: {_LENGTHS}")] = None,
    output_len: Annotated[str | None, typer.Option(help=f"Output tokens: {_LENGTHS}")] = None,
    num_requests: Annotated[
        int | None, typer.Option(help="Requests made up, or taken from the file's beginning.")
    ] = None,
    burstiness: Annotated[
        float | None, typer.Option(help="Of made-up arrivals: 1 is Poisson, below 1 requests come in bursts.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=USD...", help="Per device and hour, in place of the file's: h200-sxm-8=3.10."
        ),
    ] = None,
    max_devices: Annotated[int | None, typer.Option(help="Devices of all replicas, at most.")] = None,
    max_usd_per_hour: Annotated[float | None, typer.Option(help="Cost of all replicas, at most.")] = None,
    nodes_max: Annotated[
        int | None, typer.Option(min=1, help="Nodes of one replica, at most. [default: 64 devices]")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(metavar="DTYPE...", help="Weights to try; see predict.")
    ] = None,
    kv_cache_dtype: Annotated[
        list[str] | None, typer.Option(metavar="DTYPE...", help="Caches to try; see predict.")
    ] = None,
    tp: Annotated[
        list[int] | None,
        typer.Option(
            "--tensor-parallel-size", "--tp", metavar="N...", help="Degrees of tensor parallelism to try."
        ),
    ] = None,
    pp: Annotated[
        list[int] | None,
        typer.Option("--pipeline-parallel-size", "--pp", metavar="N...", help="Stages of pipelines to try."),
    ] = None,
    dp: Annotated[
        list[int] | None,
        typer.Option(
            "--data-parallel-size", "--dp", metavar="N...", help="Degrees of data parallelism to try."
        ),
    ] = None,
    ep: Annotated[
        list[int] | None,
        typer.Option(
            "--expert-parallel-size", "--ep", metavar="N...", help="Degrees of expert parallelism to try."
        ),
    ] = None,
    redundant: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="Spare physical experts to try. [default: 0]")
    ] = None,
    max_num_batched_tokens: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="Tokens of a data-parallel rank's step to try.")
    ] = None,
    max_num_seqs: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="Sequences of a data-parallel rank to try.")
    ] = None,
    disaggregated: Annotated[
        bool, typer.Option("--disaggregated", help="Try prefill and decode in pools of their own, too.")
    ] = False,
    trace: opt.TracePath = None,
    num_experts: opt.NumExperts = None,
    backend: opt.Backend = "vllm",
    overlap: opt.Overlap = "none",
    gpu_memory_utilization: opt.Utilisation = 0.9,
    speculative_tokens: opt.SpeculativeTokens = None,
    acceptance_rate: opt.AcceptanceRate = None,
    enforce_eager: opt.EnforceEager = False,
    assumed_routing: opt.AssumedRouting = "typical",
    dispatch: opt.Dispatch = "even",
    confirm: Annotated[int, typer.Option(min=0, help="Best plans that the simulator checks.")] = 5,
    replications: Annotated[int, typer.Option(min=1, help="Simulations of each, with other draws.")] = 3,
    what_if: Annotated[
        bool, typer.Option("--what-if/--no-what-if", help="Say what 10 % more of each thing buys.")
    ] = True,
    emit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write launch commands and the files they read.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write all candidates as a table: .csv or .parquet; of a study: its folder."),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(metavar="STUDY.yaml", help="Evaluate a study of many configurations, or go on with it."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes of a study.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Of a study: tcp://HOST:PORT of Dask, or local:WORKERS.")
    ] = None,
    query: Annotated[
        str | None, typer.Option(metavar="SQL", help="Ask what is known of a study; evaluates nothing.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Find the cheapest deployment that keeps a promise of latency; check it, and say how to start it."""
    if grid is not None:
        from moesim.cli.plan_grid import run_grid

        run_grid(str(grid), None if out is None else str(out), processes, scheduler, json, query)
        return
    from moesim.errors import InfeasibleError, OutOfDomainWarning
    from moesim.planning import plan as search
    from moesim.planning.document import document_of, rows_of, write_rows
    from moesim.planning.launch import write_launch
    from moesim.prediction import Engine

    engine = Engine(
        overlap=overlap,
        memory_utilisation=gpu_memory_utilization,
        backend=backend,
        speculative_tokens=speculative_tokens,
        acceptance_rate=acceptance_rate,
        enforce_eager=enforce_eager,
        routing=assumed_routing,
        dispatch=dispatch,
    )
    asked = ask(
        model or (),
        hardware or (),
        (trace, num_experts),
        (goodput or (), slo, attainment),
        (requests, request_rate, input_len, output_len),
        {"requests": num_requests, "burstiness": burstiness, "seed": seed},
        price or (),
        {
            "engine": engine, "most_devices": max_devices, "most_usd_per_hour": max_usd_per_hour,
            "dtypes": dtype, "kv_dtypes": kv_cache_dtype, "tp": tp, "pp": pp, "dp": dp, "ep": ep,
            "redundant": redundant, "chunk_tokens": max_num_batched_tokens, "max_sequences": max_num_seqs,
            "modes": ["aggregated", "disaggregated"] if disaggregated else None,
        },
        nodes_max,
        (emit, out),
    )  # fmt: skip
    # What is outside the calibrated domain is among the plan's notes, which are printed below.
    warnings.simplefilter("ignore", OutOfDomainWarning)
    progress = Progress()
    try:
        result = search(
            list(asked.models.values()),
            asked.quoted.hardware,
            asked.traffic,
            asked.slo,
            space=asked.space,
            prices=asked.quoted.prices,
            trace=asked.routing,
            confirm=confirm,
            replications=replications,
            seed=seed,
            progress=progress.tell,
        )
    except ConfigError as error:
        raise respelled(error) from None
    except InfeasibleError as error:
        progress.end()
        if json:
            print_json(infeasible_document(error, asked), kind="plan", inputs=asked.inputs, seed=seed)
        else:
            show_infeasible(error)
        raise
    finally:
        progress.end()
    served = asked.served(result.best.candidate.model)
    started, gains = _more(result, asked, served, asked.routing, seed, what_if=what_if)
    written = [str(path) for path in write_launch(started, emit)] if emit is not None else []
    if out is not None:
        write_rows(rows_of(result), out)
        written.append(str(out))
    notes = asked.notes(result)
    if what_if and not gains:
        notes.append("what if: the steady state has no answer for this layout")
    if json:
        document = document_of(result, asked.traffic, asked.slo, asked.quoted.hardware, gains)
        document |= {"launch": started.to_dict(), "written": written, "warnings": notes}
        print_json(document, kind="plan", inputs=asked.inputs, seed=seed)
        return
    show(result, asked.slo, asked.traffic, gains, started)
    for path in written:
        typer.echo(f"written: {path}")
    for note in notes:
        stderr(f"note: {note}")


def _more(
    result: PlanResult, asked: Asked, served: str, routing: Routing | None, seed: int, *, what_if: bool
) -> tuple[Launch, list[Sensitivity]]:
    """How the plan is started, and what more of each thing buys."""
    from moesim.layout import Disaggregated
    from moesim.planning.again import Again
    from moesim.planning.launch import launch
    from moesim.planning.sensitivity import sensitivities
    from moesim.planning.types import CONFIRMED

    candidate, requests = result.best.candidate, asked.traffic.requests
    again = Again.of(candidate, asked.traffic, asked.slo, routing, seed)
    started = launch(
        candidate,
        served=served,
        placement=again.placement if routing is not None else None,
        dispatch=candidate.engine.dispatch,
        longest_tokens=longest_tokens(requests),
    )
    if not what_if or isinstance(candidate.layout, Disaggregated):
        return started, []
    gains = sensitivities(
        candidate,
        float(requests.output_tokens.mean()),
        again.carries,
        simulate=again.simulate if result.best.status == CONFIRMED else None,
        trace=routing,
        placement=again.placement,
    )
    return started, gains
