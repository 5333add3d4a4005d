"""`moesim demo`: the whole of it on bundled routing, in any folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli.common import Json, print_json, print_table, stderr
from moesim.files import data_dir

if TYPE_CHECKING:
    from moesim.placement import Placed
    from moesim.result import Prediction

_SEED = 0
_PLAN, _REPORT = "moesim-demo-plan.json", "moesim-demo-report.html"
_SYNTHETIC = (
    "The routing is synthetic: bundled load counts in the shape of DeepSeek-V3, about as skewed as published "
    "ones. Draw no conclusions about the model from them; use load counts of your own."
)


def demo(
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder for plan and report; the current one if not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what moesim does, on bundled routing: place, prove, price, report."""
    from moesim.errors import ConfigError
    from moesim.files import check_writable
    from moesim.hardware import load_hardware
    from moesim.model import load_model
    from moesim.placement import place
    from moesim.reporting import write_placement_report
    from moesim.trace import load_trace

    folder = output_dir if output_dir is not None else Path()
    plan_path, report_path = folder / _PLAN, folder / _REPORT
    option = "--output-dir"
    if faults := [*check_writable(plan_path, option), *check_writable(report_path, option)]:
        raise ConfigError(faults[:1] if not folder.is_dir() else faults)

    counts = data_dir("traces") / "deepseek-v3-synthetic.json"
    model, hardware = load_model("deepseek-v3"), load_hardware("h200-sxm-8", nodes=4)
    stderr("placing the experts of deepseek-v3 on 32 ranks of h200-sxm-8 (4 nodes) ...")
    routing = load_trace(counts, shape=model)
    placed = place(routing, model, hardware, ep=32, redundant=32, emit=[f"sglang:{plan_path}"], seed=_SEED)
    stderr("writing the report ...")
    write_placement_report(
        placed, routing, model, hardware, report_path, seed=_SEED, notes=[_SYNTHETIC], inputs=[counts]
    )
    uniform, real = _gpt_oss()
    recorded = _recorded()
    if json:
        inputs: list[str | Path] = [model.path, hardware.path, counts]
        traces = data_dir("traces")
        inputs += [traces / "gpt-oss-20b-synthetic.npz", traces / "tiny-moe" / "trace.parquet"]
        document = {
            "synthetic": True,
            "placement": {"model": model.name, **placed.to_dict()},
            "routing": {"without_trace": uniform.to_dict(), "with_trace": real.to_dict()},
            "recorded": recorded.to_dict(),
            "plan": str(plan_path),
            "report": str(report_path),
        }
        print_json(document, kind="demo", inputs=inputs, seed=_SEED)
        return
    _show(placed)
    _show_routing(uniform, real)
    _show_recorded(recorded)
    typer.echo(f"plan for SGLang: {plan_path}")
    typer.echo(f"report:          {report_path}")
    typer.echo("\nNext, with routing and machines of your own:")
    for command in (
        "moesim place COUNTS.json --model deepseek-v3 --hardware h200-sxm-8 --nodes 4 --ep 32 --redundant 32 "
        "--report report.html",
        "moesim predict --model gpt-oss-20b --hardware h100-sxm-8 --dp 8 --ep 8 --concurrency 256",
        "moesim hardware list; moesim model list",
    ):
        typer.echo(f"  {command}")


def _gpt_oss() -> tuple[Prediction, Prediction]:
    """gpt-oss-20b on one node, every expert equally likely, and with the bundled routing."""
    from moesim.hardware import load_hardware
    from moesim.layout import Parallelism
    from moesim.model import load_model
    from moesim.prediction import Engine, Workload, predict
    from moesim.trace import load_trace

    model, hardware = load_model("gpt-oss-20b"), load_hardware("h100-sxm-8")
    trace = load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz", shape=model)
    layout, workload = Parallelism(dp=8, ep=8), Workload(1024, 1024, 256)
    uniform = predict(model, hardware, layout, workload, engine=Engine(routing="uniform"), seed=_SEED)
    return uniform, predict(model, hardware, layout, workload, trace=trace, seed=_SEED)


def _recorded() -> Placed:
    """A placement for a real recording: fitted on every other request, judged on the rest."""
    from dataclasses import replace

    from moesim.model import load_model
    from moesim.placement import place
    from moesim.trace import RoutingTrace, load_trace

    folder = data_dir("traces") / "tiny-moe"
    model = load_model(folder / "config.json")
    trace = load_trace(folder / "trace.parquet", shape=model)
    if not isinstance(trace, RoutingTrace):
        raise TypeError("the bundled recording holds tokens")

    def half(rest: int) -> RoutingTrace:
        # Kinds of text take turns, six to a round: split by rounds, so that both halves have all of them.
        rows = (trace.request // 6) % 2 == rest
        columns = {name: getattr(trace, name)[rows] for name in ("topk_ids", "request", "position", "phase")}
        return replace(trace, **columns, topk_weights=None, token_id=None)

    return place(half(0), model, ep=8, evaluate_on=half(1), seed=_SEED)


def _show_recorded(placed: Placed) -> None:
    names = {"contiguous": "before", "greedy": "greedy", "plan": "after"}
    found = {name: placed.judged[name] for name in names}
    typer.echo(
        "A real recording, of a small model trained for this (traces/tiny-moe): 32 experts on 8 ranks,\n"
        "fitted on half of the requests and judged on the other half; mean imbalance"
    )
    for name, judged in found.items():
        other = judged.evaluated.mean if judged.evaluated is not None else float("nan")
        typer.echo(f"  {name + ':':<12} {judged.fitted.mean:.3f} fitted, {other:.3f} judged")
    typer.echo()


def _show(placed: Placed) -> None:
    plan, predicted = placed.expert_map, placed.predicted
    typer.echo(_SYNTHETIC + "\n")
    names = {"contiguous": "before", "greedy": "greedy", "plan": "after"}
    print_table(
        ["placement", "imbalance, mean", "worst layer", "TPOT, ms", "output tokens/s"],
        [
            [
                name,
                f"{placed.judged[name].fitted.mean:.4f}",
                f"{placed.judged[name].fitted.worst:.4f}",
                f"{predicted[price].tpot_s * 1e3:.2f}",
                f"{predicted[price].output_throughput:,.0f}",
            ]
            for name, price in names.items()
        ],
        title=f"deepseek-v3 on 32 H200: {plan.ranks} expert ranks, {plan.slots} slots of which "
        f"{plan.redundant} redundant; imbalance is largest over mean rank load",
    )
    gap = placed.to_dict()["gap"]
    typer.echo(
        f"\nProven: in no layer could any placement be more even by more than {gap['worst']:.3%}. "
        f"Found in {placed.solution.seconds:.1f} s."
    )
    for sentence in placed.verdict:
        typer.echo(sentence)
    typer.echo()


def _show_routing(uniform: Prediction, real: Prediction) -> None:
    typer.echo("gpt-oss-20b on 8 H100, dp 8, ep 8, 256 requests of 1024 tokens in and out:")
    for name, answer in (("every expert equally likely", uniform), ("bundled synthetic trace", real)):
        typer.echo(_routing_line(name, answer))
    typer.echo()


def _routing_line(name: str, answer: Prediction) -> str:
    distinct = answer.experts["distinct_experts"]
    return (
        f"  {name + ':':<28} TPOT {answer.tpot_s * 1e3:.2f} ms, {answer.output_throughput:,.0f} output "
        f"tokens/s, imbalance {answer.load_imbalance or 1:.2f}, {distinct:.1f} distinct experts per layer"
    )
