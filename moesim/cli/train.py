"""`moesim train`: one iteration of training, or the best layout for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, print_json, print_table

if TYPE_CHECKING:
    from moesim.hardware import Hardware
    from moesim.model import Model
    from moesim.training import Iteration, Recipe, Search, TrainLayout


def train(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Catalogue name, config.json, or its folder.")
    ],
    hardware: opt.HardwareName,
    nodes: opt.Nodes = None,
    global_batch: Annotated[int, typer.Option(help="Sequences of an iteration.")] = 256,
    seq: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 4096,
    micro_batch: Annotated[int, typer.Option(help="Sequences a rank works on at once.")] = 1,
    tp: opt.Tp = 1,
    cp: Annotated[int, typer.Option("--context-parallel-size", "--cp", help="Context parallelism.")] = 1,
    pp: opt.Pp = 1,
    dp: Annotated[
        int | None,
        typer.Option("--data-parallel-size", "--dp", help="Data parallelism; default: what is left."),
    ] = None,
    ep: opt.Ep = 1,
    etp: Annotated[
        int | None,
        typer.Option("--expert-tensor-parallel-size", "--etp", help="Ranks that share an expert; default 1."),
    ] = None,
    vpp: Annotated[int, typer.Option("--vpp", help="Virtual pipeline stages per rank.")] = 1,
    unfolded: Annotated[
        bool, typer.Option("--unfolded", help="Experts are cut as attention is: no parallel folding.")
    ] = False,
    zero: Annotated[int, typer.Option(help="Sharded over data-parallel ranks: 0 to 3.")] = 1,
    recompute: Annotated[str, typer.Option(help="none, selective or full.")] = "none",
    schedule: Annotated[
        str | None, typer.Option(help="1f1b, interleaved or dualpipe; default: by --vpp.")
    ] = None,
    precision: Annotated[str, typer.Option(help="bf16 or fp8.")] = "bf16",
    capacity_factor: Annotated[
        float | None, typer.Option(help="Tokens an expert takes over its even share; default: none dropped.")
    ] = None,
    padding: Annotated[
        str | None,
        typer.Option(help="none, capacity or block; default: capacity where there is one, else none."),
    ] = None,
    imbalance: Annotated[
        float | None, typer.Option(help="Tokens of the busiest expert rank over the mean.")
    ] = None,
    trace: Annotated[
        str | None, typer.Option("--trace", help="Routing trace or load counts that give the imbalance.")
    ] = None,
    num_experts: opt.NumExperts = None,
    context: Annotated[str, typer.Option(help="Context parallelism as a ring, or ulysses.")] = "ring",
    overlap: Annotated[str, typer.Option(help="Traffic behind computation: of dp, tp, cp, ep.")] = "dp",
    dispatch: Annotated[
        str, typer.Option(help="How tokens reach experts: exchange, two-level, gather, cheapest.")
    ] = "exchange",
    layer_schedule: Annotated[
        str, typer.Option(help="MoE layers in chunks: none, tutel, fsmoe; instead of --overlap ep.")
    ] = "none",
    expert_kernel: Annotated[
        str, typer.Option(help="Experts as one product each (products) or in one kernel (grouped).")
    ] = "products",
    causal_halved: Annotated[
        bool, typer.Option("--causal-halved", help="MFU counts only scores that the causal mask keeps.")
    ] = False,
    search: Annotated[bool, typer.Option("--search", help="Search layouts on all devices.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Layouts to print.")] = 10,
    json: Json = False,
) -> None:
    """Predict one iteration of training, or search the best layout."""
    from moesim.errors import InfeasibleError
    from moesim.training import Recipe, iterate
    from moesim.training import search as find

    found_model, found_hardware, (routing,) = opt.read_all(
        model, hardware, nodes, trace, num_experts=num_experts
    )
    assert found_hardware is not None
    left = found_hardware.num_devices // max(1, tp * cp * pp)
    layout = _layout(tp, cp, pp, max(1, left) if dp is None else dp, ep, etp, vpp, unfolded)
    recipe = Recipe(
        global_batch,
        seq,
        micro_batch,
        zero,
        recompute,
        schedule or ("interleaved" if vpp > 1 else "1f1b"),
        precision,
        capacity_factor,
        padding or ("none" if capacity_factor is None else "capacity"),
        _imbalance(routing, layout, imbalance),
        context,
        tuple(part for part in overlap.split(",") if part and part != "none"),
        dispatch=dispatch,
        layer_schedule=layer_schedule,
        expert_kernel=expert_kernel,
    )
    inputs = [p for p in (found_model.path, found_hardware.path, trace) if p]
    try:
        if search:
            _check(recipe)
            result = find(found_model, found_hardware, recipe, causal_halved=causal_halved)
            if json:
                print_json(
                    _searched(found_model, found_hardware, result, top), kind="training-search", inputs=inputs
                )
            else:
                _show_search(found_model, found_hardware, recipe, result, top)
            return
        done = iterate(found_model, found_hardware, layout, recipe, causal_halved=causal_halved)
    except InfeasibleError as error:
        if json:
            print_json(
                {
                    "feasible": False,
                    "reason": str(error),
                    "resource": error.resource,
                    "needed": error.needed,
                    "available": error.available,
                    **error.details,
                },
                kind="training",
                inputs=inputs,
            )
        raise
    if json:
        print_json(
            _document(found_model, found_hardware, layout, recipe, done), kind="training", inputs=inputs
        )
        return
    _show(found_model, found_hardware, layout, recipe, done)


def _layout(
    tp: int, cp: int, pp: int, dp: int, ep: int, etp: int | None, vpp: int, unfolded: bool
) -> TrainLayout:
    from moesim.training import TrainLayout

    return TrainLayout(tp, cp, pp, dp, ep, etp, vpp, folded=not unfolded)


def _check(recipe: Recipe) -> None:
    """Faults of what a search does not change."""
    from dataclasses import replace

    from moesim.errors import ConfigError

    plain = replace(recipe, micro_batch=1, schedule="1f1b")
    if faults := plain.faults():
        raise ConfigError(faults)


def _imbalance(routing: Any, layout: TrainLayout, given: float | None) -> float:  # noqa: ANN401
    if given is not None:
        return given
    if routing is None:
        return 1.0
    from moesim.errors import ConfigError, Fault
    from moesim.training import rank_imbalance

    counts = routing.load_counts().counts
    if layout.ep < 1 or counts.shape[-1] % layout.ep:
        raise ConfigError(
            Fault(f"does not divide the {counts.shape[-1]} experts of the trace", "--ep", layout.ep)
        )
    return rank_imbalance(counts, layout.ep)


def _degrees(layout: TrainLayout) -> dict[str, Any]:
    names = ("tp", "cp", "pp", "dp", "ep", "vpp", "edp", "folded")
    return {name: getattr(layout, name) for name in names} | {"etp": layout.expert_tp}


def _document(
    model: Model, hardware: Hardware, layout: TrainLayout, recipe: Recipe, done: Iteration
) -> dict[str, Any]:
    return {
        "model": model.name,
        "hardware": hardware.name,
        "nodes": hardware.nodes,
        "layout": _degrees(layout),
        "micro_batch": recipe.micro_batch,
        "recompute": recipe.recompute,
        "schedule": recipe.schedule,
        "zero": recipe.zero,
        "imbalance": recipe.imbalance,
        **done.to_dict(),
        "tokens_per_s_per_device": done.tokens_per_s / done.devices,
        "warnings": list(model.warnings),
    }


def _searched(model: Model, hardware: Hardware, result: Search, top: int) -> dict[str, Any]:
    return {
        "model": model.name,
        "hardware": hardware.name,
        "nodes": hardware.nodes,
        "feasible": True,
        "tried": result.tried,
        "fitting": len(result.found),
        "rejected": result.rejected,
        "layouts": [
            _document(model, hardware, f.layout, f.recipe, f.iteration) | {"efficient": f.efficient}
            for f in result.found[:top]
        ],
        "efficient": [
            _document(model, hardware, f.layout, f.recipe, f.iteration) for f in result.found if f.efficient
        ],
    }


def _show(model: Model, hardware: Hardware, layout: TrainLayout, recipe: Recipe, done: Iteration) -> None:
    title = (
        f"{model.name} on {done.devices} devices of {hardware.name}, {layout}; "
        f"{recipe.global_batch} sequences of {recipe.seq} tokens, {done.micro_batches} micro-batches of "
        f"{recipe.micro_batch}, {recipe.schedule}, zero {recipe.zero}, recompute {recipe.recompute}, "
        f"{recipe.precision}"
    )
    print_table(
        ["", ""],
        [
            ("iteration, s", f"{done.step_s:.4g}"),
            ("tokens/s", f"{done.tokens_per_s:.5g}"),
            ("MFU", f"{done.mfu:.1%}"),
            ("model TFLOP/s per device", f"{done.flops_per_device / 1e12:.1f}"),
            ("waiting for traffic", f"{done.communication_share:.1%}"),
            ("pipeline bubble", f"{done.bubble:.1%}"),
            ("bound by", done.bound_by),
            ("memory, GB", f"{done.memory.total / 1e9:.1f} of {done.capacity_bytes / 1e9:.1f}"),
            *((f"  {name}", f"{value / 1e9:.1f}") for name, value in done.memory.parts().items()),
        ],
        title=title,
    )
    typer.echo()
    print_table(
        ["the iteration is spent on", "s", "share", "bound by"],
        [
            [line.op, f"{line.seconds:.4f}", f"{line.seconds / done.step_s:.1%}", line.bound_by]
            for line in done.breakdown
            if abs(line.seconds) >= 0.005 * done.step_s
        ],
    )


def _show_search(model: Model, hardware: Hardware, recipe: Recipe, result: Search, top: int) -> None:
    print_table(
        [
            "layout",
            "micro-batch",
            "schedule",
            "recompute",
            "s",
            "MFU",
            "GB",
            "waiting",
            "bubble",
            "efficient",
        ],
        [
            [
                str(f.layout),
                f.recipe.micro_batch,
                f.recipe.schedule,
                f.recipe.recompute,
                f"{f.iteration.step_s:.4g}",
                f"{f.iteration.mfu:.1%}",
                f"{f.iteration.memory.total / 1e9:.1f}",
                f"{f.iteration.communication_share:.1%}",
                f"{f.iteration.bubble:.1%}",
                "yes" if f.efficient else "",
            ]
            for f in result.found[:top]
        ],
        title=f"{model.name} on {hardware.num_devices} devices of {hardware.name}, {recipe.global_batch} "
        f"sequences of {recipe.seq} tokens: {result.tried} layouts, {len(result.found)} fit",
    )
    if result.rejected:
        typer.echo()
        print_table(["left out because of", "layouts"], list(result.rejected.items()))
