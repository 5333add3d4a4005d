"""`moesim simulate`: requests served over time, step by step."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, Seed, print_json, stderr

if TYPE_CHECKING:
    from moesim.errors import Fault
    from moesim.layout import Apart, Disaggregated, Parallelism
    from moesim.requests import RequestTrace
    from moesim.serving.pools import ReadyPools
    from moesim.serving.simulate import Ready


def simulate(
    model: opt.ModelName,
    hardware: opt.HardwareName,
    requests: Annotated[
        Path | None, typer.Option("--requests", help="Requests in any format of `moesim requests`.")
    ] = None,
    arrivals: Annotated[
        str | None,
        typer.Option(
            help="poisson:RATE, gamma:RATE:CV, fixed:RATE, diurnal:RATE:SWING[:PERIOD_S] or "
            "closed:CONCURRENCY, in place of a trace or of its times."
        ),
    ] = None,
    request_rate: Annotated[
        float | None, typer.Option(help="Poisson arrivals, or a trace at another rate; per second.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            "--max-concurrency",
            help="Requests that the client has in flight at once, at most.",
        ),
    ] = None,
    num_requests: Annotated[
        int | None,
        typer.Option(
            "--num-requests",
            "--num-prompts",
            help="How many requests are made up (1000), or taken from the beginning of a trace.",
        ),
    ] = None,
    resample: Annotated[
        int | None, typer.Option(help="So many requests drawn from the trace by session, with replacement.")
    ] = None,
    input_len: Annotated[
        str | None, typer.Option(help="Prompt tokens: TOKENS or lognormal:MEAN:CV; 1024 by default.")
    ] = None,
    output_len: Annotated[str | None, typer.Option(help="Output tokens, likewise; 1024 by default.")] = None,
    drop_long: Annotated[
        bool, typer.Option("--drop-long", help="Leave out requests that the model's context does not hold.")
    ] = False,
    nodes: opt.Nodes = None,
    tp: opt.Tp = 1,
    pp: opt.Pp = 1,
    dp: opt.Dp = 1,
    ep: opt.Ep = 1,
    replicas: Annotated[int, typer.Option(help="Engines alike, each on devices of its own.")] = 1,
    router: Annotated[
        str,
        typer.Option(
            help="Spreads requests over replicas and ranks: round-robin, least-requests, least-tokens, "
            "random, two-choices, prefix, session or vllm."
        ),
    ] = "vllm",
    trace: opt.TracePath = None,
    num_experts: opt.NumExperts = None,
    plan: Annotated[
        str | None, typer.Option(help="Expert placement, in any format `moesim place` writes.")
    ] = None,
    redundant: Annotated[int, typer.Option(min=0, help="Physical experts beyond one of each.")] = 0,
    prefill_workers: Annotated[
        int | None,
        typer.Option(help="Workers that only prefill: disaggregated. --tp and others are then of a worker."),
    ] = None,
    decode_workers: Annotated[int, typer.Option(help="Workers that only decode, beside those.")] = 1,
    prefill_tp: Annotated[int | None, typer.Option(help="Of a prefill worker, if not as --tp.")] = None,
    prefill_pp: Annotated[int | None, typer.Option(help="Of a prefill worker, if not as --pp.")] = None,
    prefill_dp: Annotated[int | None, typer.Option(help="Of a prefill worker, if not as --dp.")] = None,
    prefill_ep: Annotated[int | None, typer.Option(help="Of a prefill worker, if not as --ep.")] = None,
    kv_link: Annotated[
        str | None,
        typer.Option(help="Link over which caches go to decode workers: auto, scale-out or scale-up."),
    ] = None,
    kv_oversubscription: Annotated[
        float | None, typer.Option(help="Bandwidth of the smaller pool's links over that of the spine.")
    ] = None,
    kv_overlap: Annotated[
        bool | None,
        typer.Option("--kv-overlap/--no-kv-overlap", help="Layers cross while later ones are computed."),
    ] = None,
    first_token_from: Annotated[
        str | None, typer.Option(help="Which workers send the first token: prefill or decode.")
    ] = None,
    attention_workers: Annotated[
        int | None,
        typer.Option(help="Workers of attention, of --tp devices each, apart from those of experts."),
    ] = None,
    expert_workers: Annotated[int | None, typer.Option(help="Workers of experts, a device each.")] = None,
    micro_batches: Annotated[
        int | None, typer.Option(help="Parts of a batch that go back and forth between those (3).")
    ] = None,
    offload: Annotated[
        str | None,
        typer.Option(help="Experts do not fit one device: a system of `moesim replay`, such as lru."),
    ] = None,
    cache_fraction: Annotated[
        float | None, typer.Option(help="With --offload: share of the experts that the device holds.")
    ] = None,
    mtbf: Annotated[
        float | None, typer.Option(help="Mean seconds that a node works before it fails.")
    ] = None,
    repair: Annotated[
        float | None, typer.Option(help="Mean seconds of a repair; without it failed nodes stay away.")
    ] = None,
    fail: Annotated[
        list[str] | None,
        typer.Option(help="A failure that is known: SECOND:REPLICA[:SECONDS]; again for more."),
    ] = None,
    crews: Annotated[
        int | None, typer.Option(help="Nodes that are repaired at the same time, at most.")
    ] = None,
    reload: Annotated[
        str | None,
        typer.Option(help="Where a repaired node loads weights from: auto, storage, host or none."),
    ] = None,
    retries: Annotated[
        int | None, typer.Option(help="How often a request is sent again after its node failed.")
    ] = None,
    routing_windows: Annotated[
        int | None, typer.Option(help="Routing drifts: so many parts of --trace, one after the other.")
    ] = None,
    window_tokens: Annotated[
        float | None, typer.Option(help="Tokens served that a part stands for; as many as it holds.")
    ] = None,
    rebalance: Annotated[
        str | None, typer.Option(help="Experts follow --trace under a policy of `moesim rebalance`.")
    ] = None,
    rebalance_interval: Annotated[int, typer.Option(help="Steps between two looks of the policy.")] = 50,
    tokens_per_step: Annotated[int, typer.Option(help="Tokens of a step of --trace, for the policy.")] = 2048,
    dtype: opt.Dtype = "auto",
    kv_cache_dtype: opt.KvDtype = "auto",
    overlap: opt.Overlap = "none",
    max_num_batched_tokens: opt.Chunk = 8192,
    max_num_seqs: opt.MaxSeqs = 1024,
    gpu_memory_utilization: opt.Utilisation = 0.9,
    backend: opt.Backend = "vllm",
    speculative_tokens: opt.SpeculativeTokens = None,
    acceptance_rate: opt.AcceptanceRate = None,
    enforce_eager: opt.EnforceEager = False,
    assumed_routing: opt.AssumedRouting = "typical",
    dispatch: opt.Dispatch = "even",
    block_size: Annotated[int | None, typer.Option(help="Tokens of a block of the KV cache.")] = None,
    chunked_prefill: Annotated[
        bool | None,
        typer.Option(
            "--enable-chunked-prefill/--no-enable-chunked-prefill",
            help="Prompts may be read in several steps.",
        ),
    ] = None,
    prefix_caching: Annotated[
        bool | None,
        typer.Option(
            "--enable-prefix-caching/--no-enable-prefix-caching",
            help="Prompts that begin alike share blocks of the cache.",
        ),
    ] = None,
    prefill_first: Annotated[
        bool | None,
        typer.Option(
            "--prefill-first/--mixed",
            help="Steps read prompts alone while there are any, or beside decoding.",
        ),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            "--order", "--scheduling-policy", help="Order of the queue: fcfs, priority or longest-prefix."
        ),
    ] = None,
    admission: Annotated[
        str | None,
        typer.Option(
            help="Blocks that must be free for a request: next-chunk, whole-prompt, whole-output or "
            "share-of-output."
        ),
    ] = None,
    output_share: Annotated[
        float | None,
        typer.Option(help="With --admission share-of-output: share of the output of all that run."),
    ] = None,
    preemption: Annotated[
        str | None, typer.Option(help="What becomes of a sequence that has to make room: recompute or swap.")
    ] = None,
    cuda_graph_sizes: Annotated[
        str | None, typer.Option(help="Decode steps are padded to these, as in 1,2,4,8,16.")
    ] = None,
    async_scheduling: Annotated[
        bool | None,
        typer.Option(
            "--async-scheduling/--no-async-scheduling",
            help="The host plans a step while the one before runs.",
        ),
    ] = None,
    calibration: opt.CalibrationPath = None,
    goodput: Annotated[
        list[str] | None,
        typer.Option(help="Limits in ms that a good request meets: ttft:500 tpot:50 e2el:9000."),
    ] = None,
    slo: Annotated[str | None, typer.Option(help="Limits of a preset, as in `moesim plan`.")] = None,
    warmup: Annotated[
        str | None,
        typer.Option(help="Left out at the start: auto (MSER-5), none, 30s, or a share; none for a trace."),
    ] = None,
    cooldown: Annotated[str | None, typer.Option(help="Left out at the end, likewise.")] = None,
    replications: Annotated[int, typer.Option(help="Independent runs with other seeds, for intervals.")] = 1,
    processes: Annotated[int, typer.Option(help="Replications that run at once.")] = 1,
    price: Annotated[float | None, typer.Option(help="USD per device and hour; else the hardware's.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Every request: .parquet, .csv or .jsonl; .json: the document."),
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Chrome trace for Perfetto: .json, or .json.gz.")
    ] = None,
    timeline_requests: Annotated[int, typer.Option(min=0, help="Requests with a track of their own.")] = 200,
    timeline_window: Annotated[
        str | None, typer.Option(metavar="FROM:TO", help="Seconds that are drawn; all by default.")
    ] = None,
    aiperf: Annotated[Path | None, typer.Option(help="Folder for AIPerf's two files.")] = None,
    bench: Annotated[Path | None, typer.Option(help="Result as `vllm bench serve` saves it.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Serve requests over time, and say what each of them saw: latencies, goodput, queues, cost."""
    from moesim.cli.predict import infeasible, placement_of, pools_of
    from moesim.cli.simulate_apart import Workers
    from moesim.cli.simulate_cluster import Mishaps, hand_over_of
    from moesim.cli.simulate_input import Asked, faults_of, settings_of, traffic_of, window_of
    from moesim.cli.simulate_offload import Offload
    from moesim.cli.simulate_routing import Drift
    from moesim.cli.simulate_run import looking_of, run
    from moesim.errors import ConfigError, Fault, InfeasibleError, OutOfDomainWarning
    from moesim.layout import Apart, Disaggregated, Parallelism
    from moesim.prediction import Engine

    faults: list[Fault] = []
    worker = Parallelism(tp, pp, dp, ep)
    own = {"tp": prefill_tp, "pp": prefill_pp, "dp": prefill_dp, "ep": prefill_ep}
    layout: Parallelism | Disaggregated | Apart = worker
    try:
        layout = pools_of(worker, prefill_workers, decode_workers, own)
    except ConfigError as error:
        faults += error.faults
    workers = Workers(attention_workers, expert_workers, micro_batches)
    box = Offload(offload, cache_fraction)
    said = {
        "--prefill-workers": prefill_workers,
        "--mtbf": mtbf,
        "--fail": fail[0] if fail else None,
        "--routing-windows": routing_windows,
        "--rebalance": rebalance,
        "--cuda-graph-sizes": cuda_graph_sizes,
        "--preemption": preemption if preemption != "recompute" else None,
        "--overlap": overlap if overlap != "none" else None,
        "--speculative-tokens": speculative_tokens or None,
        **{f"--{n}": v for n, v in (("pp", pp), ("dp", dp), ("ep", ep)) if v != 1},
    }
    faults += workers.faults(said | {"--offload": offload})
    faults += box.faults(
        trace,
        said
        | {
            "--tp": tp if tp != 1 else None,
            "--nodes": nodes,
            "--replicas": replicas if replicas != 1 else None,
            "--plan": plan,
            "--redundant": redundant or None,
            "--gpu-memory-utilization": None if gpu_memory_utilization == 0.9 else gpu_memory_utilization,
        },
    )
    if workers.asked:
        layout = workers.layout(tp)
    engine = Engine(
        dtype,
        kv_cache_dtype,
        overlap,
        max_num_batched_tokens,
        max_num_seqs,
        gpu_memory_utilization,
        1.0,
        backend,
        speculative_tokens,
        acceptance_rate,
        enforce_eager,
        assumed_routing,
        dispatch,
    )
    faults += engine.faults()
    apart = isinstance(layout, Disaggregated)
    hand_over = hand_over_of(
        faults,
        apart,
        over=kv_link,
        oversubscription=kv_oversubscription,
        overlap=kv_overlap,
        first_token=first_token_from,
    )
    each = layout.prefill.count + layout.decode.count if isinstance(layout, Disaggregated) else 1
    mishaps = Mishaps(mtbf, repair, tuple(fail or ()), crews, reload, retries)
    failures = mishaps.read(faults, replicas * each, seed)
    scheduler, fleet = settings_of(
        faults,
        backend,
        replicas=replicas,
        router=router,
        block_tokens=block_size,
        chunked=chunked_prefill,
        prefix_cache=prefix_caching,
        prefill_first=prefill_first,
        order=order,
        admission=admission,
        output_share=output_share,
        preemption=preemption,
        graph_sizes=cuda_graph_sizes,
        asynchronous=async_scheduling,
    )
    asked = Asked(
        requests, arrivals, request_rate, concurrency, num_requests, resample, input_len, output_len, seed
    )
    faults += faults_of(output, timeline, aiperf, bench, replications, processes, price)
    drawn = window_of(faults, timeline_window)
    drift = Drift(routing_windows, window_tokens, rebalance, rebalance_interval, tokens_per_step)
    faults += drift.faults(trace)
    if apart and (routing_windows is not None or rebalance is not None):
        faults.append(Fault("goes with one pool", "--routing-windows, --rebalance", None, "one pool"))
    limits, cuts = looking_of(faults, goodput, slo, warmup, cooldown, recorded=requests is not None)
    traffic = traffic_of(faults, asked)
    loaded = None
    try:
        loaded = opt.read_all(model, hardware, nodes, trace, num_experts=num_experts)
    except ConfigError as error:
        faults += error.faults
    if loaded is not None and loaded[1] is not None:
        faults += layout.faults(loaded[0], loaded[1], redundant)
    if loaded is not None and box.asked:
        faults += box.trace_faults(trace, loaded[2][0], loaded[0])
    if faults or loaded is None or traffic is None:
        raise ConfigError(list(dict.fromkeys(faults)))
    found_model, found_hardware, (routing,) = loaded
    assert found_hardware is not None
    taught = None if calibration == "none" else calibration
    inputs = [p for p in (found_model.path, found_hardware.path, requests, trace, plan, taught) if p]
    warnings.simplefilter("ignore", OutOfDomainWarning)
    from moesim.cli.simulate_output import Outputs, show
    from moesim.correction import calibration_of, shipped
    from moesim.prediction.calibrated import traits_of
    from moesim.serving.pools import prepare_pools
    from moesim.serving.replications import Looking
    from moesim.serving.simulate import prepare

    experts_on = layout.experts if isinstance(layout, Apart) else worker
    placed = placement_of(found_model, experts_on, plan, redundant)
    outputs = Outputs(output, timeline, timeline_requests, drawn, aiperf, bench)
    learnt = shipped() if calibration is None else calibration_of(calibration)
    windows = drift.windows_of(routing, found_model, found_hardware, worker, engine, placed, seed)

    def prepared(first: RequestTrace, longest: int | None) -> Ready | ReadyPools:
        if box.asked:
            return box.prepare(
                found_model, found_hardware, routing, first, longest, engine, scheduler,
                traits_of(learnt, backend), seed,
            )  # fmt: skip
        if isinstance(layout, Apart):
            return workers.prepare(
                found_model, found_hardware, layout, routing, placed, first, longest, engine, scheduler,
                fleet, traits_of(learnt, backend), seed,
            )  # fmt: skip
        if isinstance(layout, Disaggregated):
            return prepare_pools(
                found_model, found_hardware, layout, first, engine=engine, scheduler=scheduler, fleet=fleet,
                trace=routing, plan=placed, calibration=learnt, seed=seed, hand_over=hand_over,
                failures=failures,
            )  # fmt: skip
        return prepare(
            found_model, found_hardware, layout, first, longest=longest, engine=engine, scheduler=scheduler,
            fleet=fleet, trace=routing, plan=placed, windows=windows, calibration=learnt, failures=failures,
            seed=seed,
        )  # fmt: skip

    try:
        summary, outcome, notes = run(
            found_model, traffic, prepared, Looking(limits, *cuts, price), seed=seed,
            replications=replications, processes=processes, drop_long=drop_long, quiet=json,
        )  # fmt: skip
    except InfeasibleError as error:
        if json:
            print_json(infeasible(error), kind="simulation", inputs=inputs, seed=seed)
        raise
    notes += routing.warnings if routing is not None else ()
    document = outputs.document(summary, outcome, notes, offload=box.document(outcome))
    outputs.write(document, outcome, limits, cuts, inputs, seed)
    if json:
        print_json(document, kind="simulation", inputs=inputs, seed=seed)
        return
    show(document)
    for note in document["warnings"]:
        stderr(f"note: {note}")
