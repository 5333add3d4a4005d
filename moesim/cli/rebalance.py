"""`moesim rebalance`: plans that follow the traffic, with what it costs to change them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, Seed, print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.errors import Fault
    from moesim.model import Model
    from moesim.rebalancing import Loss, Rebalanced, Stepwise
    from moesim.trace import Routing


def rebalance(
    trace: Annotated[
        list[str], typer.Argument(help="Routing traces or load counts, played one after the other.")
    ],
    model: opt.ModelName,
    hardware: opt.HardwareName,
    ep: Annotated[int, typer.Option("--expert-parallel-size", "--ep", help="Expert-parallel ranks.")],
    nodes: opt.Nodes = None,
    redundant: Annotated[int, typer.Option(help="Physical experts beyond one of each, per layer.")] = 0,
    policy: Annotated[
        str,
        typer.Option(
            help="Of static, once, eplb, eplb-hierarchical, search, incremental, ours; with commas."
        ),
    ] = "static,eplb,search,incremental,ours",
    interval: Annotated[int, typer.Option(help="Steps between two looks at the loads.")] = 50,
    window: Annotated[int, typer.Option(help="Steps looked back on.")] = 100,
    tokens_per_step: Annotated[
        int, typer.Option(help="Tokens of a step, all ranks together; counts with steps bring their own.")
    ] = 2048,
    steps: Annotated[
        int | None, typer.Option(help="Steps drawn from totals (default 200), or most steps of a trace.")
    ] = None,
    order: Annotated[
        str,
        typer.Option(help="Of a trace's tokens: interleaved (a token per request and step) or recorded."),
    ] = "interleaved",
    phase: Annotated[str, typer.Option(help="What steps are: decode or prefill.")] = "decode",
    trigger: Annotated[float, typer.Option(help="Imbalance below which `ours` tries nothing.")] = 1.0,
    horizon: Annotated[
        int | None, typer.Option(help="Steps a gain lasts, for `ours`; default: as long as the plan has.")
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(help="Moved experts per layer and change: `incremental` (8), `ours` (slots / 4)."),
    ] = None,
    async_steps: Annotated[
        int | None, typer.Option(help="Copy beside the steps, done no sooner; default: stand still.")
    ] = None,
    layers_per_step: Annotated[
        int, typer.Option(help="Layers that may change between steps, copying beside them; 0: any.")
    ] = 0,
    copy_share: Annotated[
        float, typer.Option(help="Part of the links that copies take from dispatch and combine.")
    ] = 0.5,
    host_seconds: Annotated[
        float, typer.Option(help="Host time per change: a stall, or a delay beside the steps.")
    ] = 0.0,
    lose_rank: Annotated[
        list[str] | None, typer.Option(help="A rank lost at a step, as in 3@100; again for more.")
    ] = None,
    lose_node: Annotated[
        list[str] | None, typer.Option(help="All ranks of a node lost at a step, as in 1@200.")
    ] = None,
    slots_per_rank: Annotated[
        int | None, typer.Option(help="Slots of the ranks left after a loss; default: as before.")
    ] = None,
    restore_from: Annotated[
        str, typer.Option(help="Lost experts: host memory, or storage of a bandwidth per node ('7 GB/s').")
    ] = "host",
    start: Annotated[
        str | None,
        typer.Option(help="Plan at the start, in any form that engines load; default: experts in order."),
    ] = None,
    context: Annotated[float, typer.Option(help="Tokens that each sequence looks back on.")] = 1024.0,
    num_experts: opt.NumExperts = None,
    dtype: opt.Dtype = "auto",
    kv_cache_dtype: opt.KvDtype = "auto",
    dispatch: opt.Dispatch = "even",
    backend: opt.Backend = "vllm",
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Write every step: .parquet or .csv.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Replay traffic under policies that move experts: what balance gains, what moving costs."""
    from moesim.errors import ConfigError, Fault, OutOfDomainWarning
    from moesim.files import check_writable
    from moesim.prediction import Engine
    from moesim.prediction.question import check_routing
    from moesim.rebalancing import Copying, Rules, policy_faults
    from moesim.rebalancing import rebalance as run
    from moesim.trace.types import DECODE, PREFILL

    found_model, found_hardware, routings = opt.read_all(
        model, hardware, nodes, *trace, num_experts=num_experts
    )
    assert found_hardware is not None
    faults: list[Fault] = []
    for name, value, allowed in (
        ("--order", order, ("interleaved", "recorded")),
        ("--phase", phase, ("decode", "prefill")),
    ):
        if value not in allowed:
            faults.append(Fault("is unknown", name, value, ", ".join(allowed)))
    if output is not None:
        if Path(output).suffix not in (".parquet", ".csv"):
            faults.append(Fault("has an unknown ending", "--output", output, ".parquet, .csv"))
        faults += check_writable(output, "--output")
    if tokens_per_step < 1:
        faults.append(Fault("must be at least 1", "--tokens-per-step", tokens_per_step))
    if steps is not None and steps < 2:
        faults.append(Fault("must be at least 2", "--steps", steps))
    storage = None
    if restore_from != "host":
        storage = _bandwidth(restore_from, faults)
    losses = _losses(
        lose_rank or (), lose_node or (), found_hardware.devices_per_node, ep, slots_per_rank, storage, faults
    )
    policies = [name.strip() for name in policy.split(",") if name.strip()]
    copying, rules = Copying(), Rules()
    try:
        copying = Copying(async_steps, layers_per_step, copy_share, host_seconds)
    except ConfigError as error:
        faults += error.faults
    try:
        rules = Rules(interval, window, trigger, horizon, most, copying)
    except ConfigError as error:
        faults += error.faults
    faults += policy_faults(policies)
    if faults:
        raise ConfigError(faults)
    for routing in routings:
        assert routing is not None
        check_routing(routing, found_model)
    played = played_of(routings, found_model, tokens_per_step, steps, order == "interleaved", seed)
    plan = None
    if start is not None:
        from moesim.placement import read_plan

        plan = read_plan(start, found_model, ep)
    # What is outside the calibrated domain is no matter of balance.
    warnings.simplefilter("ignore", OutOfDomainWarning)
    found = run(
        played,
        found_model,
        found_hardware,
        ep=ep,
        redundant=redundant,
        policies=policies,
        rules=rules,
        losses=losses,
        engine=Engine(dtype, kv_cache_dtype, backend=backend, dispatch=dispatch),
        phase=DECODE if phase == "decode" else PREFILL,
        context=context,
        start=plan,
        seed=seed,
    )
    if output is not None:
        _write(found, output)
    if json:
        paths = [p for p in (*trace, start, found_model.path, found_hardware.path) if p]
        document = {"model": found_model.name, "hardware": found_hardware.name, **found.to_dict()}
        print_json(
            document | ({"output": output} if output else {}), kind="rebalancing", inputs=paths, seed=seed
        )
        return
    show(found)
    if output is not None:
        typer.echo(f"steps: {output}")
    if not host_seconds:
        stderr("note: the host's time to find a plan is left out of all seconds; see --host-seconds")


def show(found: Rebalanced) -> None:
    """Print policies for people: steps, balance, what was moved and what it cost."""
    copying = found.rules.copying
    how = "standing still" if copying.synchronous else "beside the steps"
    runs = [*found.runs.values(), found.hindsight]
    summaries = [run.summary() for run in runs]
    print_table(
        [
            "policy",
            "mean, ms",
            "p50, ms",
            "p99, ms",
            "total, s",
            "imbalance",
            "changes",
            "moved, GB",
            "stalls, s",
            "copying, s",
            "solving, CPU s",
        ],
        [
            [
                s["policy"] if s["policy"] != "hindsight" else "best fixed plan in hindsight",
                *(f"{s[name] * 1e3:.4g}" for name in ("mean_s", "p50_s", "p99_s")),
                f"{s['total_s']:.4g}",
                f"{s['imbalance']:.3f}",
                s["rebalances"],
                f"{s['moved_bytes'] / 1e9:.4g}",
                f"{s['stall_s']:.3g}",
                f"{s['copy_s']:.3g}",
                f"{s['solve_s']:.2f}",
            ]
            for s in summaries
        ]
        + [["no rank waiting, nothing copied", f"{found.even_s * 1e3:.4g}", *[None] * 9]],
        title=f"{summaries[0]['steps']} steps of {found.tokens / summaries[0]['steps']:.0f} tokens, "
        f"{found.ranks} ranks, {found.slots} slots per layer; copies {how}",
    )
    for step, lost in next(iter(found.runs.values())).losses:
        typer.echo(
            f"step {step}: {len(lost.ranks)} ranks left, {int(lost.missing.sum())} experts lost their last "
            f"replica ({lost.missing_share:.2%} of selections); under {next(iter(found.runs))} restored in "
            f"{lost.seconds:.3g} s, imbalance {lost.imbalance[0]:.3f} -> {lost.imbalance[1]:.3f}"
        )
    typer.echo(f"least total time: {found.best}")


def played_of(
    routings: list[Routing | None],
    model: Model,
    tokens: int,
    steps: int | None,
    interleaved: bool,
    seed: int,
) -> Stepwise:
    """The steps of all traces, one after the other."""
    from moesim.rebalancing import cut, in_turn, recorded, sampled
    from moesim.trace import LoadCounts

    found: Stepwise | None = None
    for number, routing in enumerate(routings):
        assert routing is not None
        if isinstance(routing, LoadCounts):
            part = (
                recorded(routing, model.top_k)
                if len(routing.counts) > 1
                else sampled(routing, tokens, steps or 200, model.top_k, seed + number)
            )
        else:
            part = in_turn(routing, tokens) if interleaved else cut(routing, tokens)
        if steps is not None:
            part = part.part(0, steps)
        found = part if found is None else found.then(part)
    assert found is not None
    return found


def _bandwidth(text: str, faults: list[Fault]) -> float | None:
    from moesim.errors import Fault
    from moesim.units import parse

    try:
        value = parse(text, "bytes_per_s")
    except ValueError as error:
        faults.append(Fault(str(error), "--restore-from"))
        return None
    if value <= 0:
        faults.append(Fault("must be a positive bandwidth, or host", "--restore-from", text))
    return value


def _losses(
    ranks: tuple[str, ...] | list[str],
    nodes: tuple[str, ...] | list[str],
    per_node: int,
    ep: int,
    slots_per_rank: int | None,
    storage: float | None,
    faults: list[Fault],
) -> list[Loss]:
    """Losses by step; ranks and nodes that are lost together are one."""
    from moesim.errors import Fault
    from moesim.rebalancing import Loss

    lost: dict[int, set[int]] = {}
    for option, texts, size in (("--lose-rank", ranks, 1), ("--lose-node", nodes, per_node)):
        for text in texts:
            which, _, step = text.partition("@")
            if not (which.isdecimal() and step.isdecimal()):
                faults.append(Fault("is not a number and a step", option, text, "as in 3@100"))
                continue
            first = int(which) * size
            if first >= ep:
                faults.append(Fault(f"names none of {ep} ranks", option, text))
            lost.setdefault(int(step), set()).update(range(first, min(first + size, ep)))
    return [Loss(step, tuple(sorted(found)), slots_per_rank, storage) for step, found in sorted(lost.items())]


def _write(found: Rebalanced, path: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    from moesim.files import atomic_write

    table = pa.table(found.columns())
    write = pyarrow.parquet.write_table if path.endswith(".parquet") else pyarrow.csv.write_csv
    with atomic_write(path, "wb") as stream:
        write(table, stream)
