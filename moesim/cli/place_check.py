"""`moesim place --check`: what is wrong with a plan file, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from moesim.cli.common import print_json, print_table, stderr
from moesim.cli.place_output import number_of

if TYPE_CHECKING:
    from moesim.hardware import Hardware
    from moesim.model import Model
    from moesim.placement import Imbalance, PlanCheck
    from moesim.trace import Routing


def check_file(
    path: str,
    model: Model,
    ep: int,
    redundant: str | None,
    loads: dict[str, Routing],
    dispatch: str = "even",
    hardware: Hardware | None = None,
    writes: Sequence[str] = (),
    *,
    json: bool = False,
) -> None:
    """Check a plan, print what was found, and leave with 1 if anything is wrong with it.

    Parameters
    ----------
    path
        The plan.
    model, ep, redundant
        What it should be for; None for any number of redundant experts.
    loads
        Routing to judge it on, by file.
    dispatch, hardware
        How replicas share, and where, for the imbalance.
    writes
        What was asked to be written besides: a check writes nothing.
    """
    from moesim.errors import ConfigError, Fault, TraceError
    from moesim.layout.sharing import dispatch_faults, hosts_of, rule_of
    from moesim.placement import check_plan, evaluate
    from moesim.prediction import check_routing

    spare = None if redundant is None else number_of(redundant)
    slots = model.num_experts + spare if isinstance(spare, int) else None
    faults = [Fault("writes nothing", "--check", name, "without --emit and --report") for name in writes]
    if isinstance(spare, str):
        faults.append(Fault("is no number", "--redundant", spare, "0 or more"))
    faults += dispatch_faults(dispatch, "--dispatch")
    dispatch = rule_of(dispatch)
    checked: PlanCheck | None = None
    try:
        checked = check_plan(path, model, ep, slots)
    except ConfigError as error:
        faults += _named(error)
    for routing in loads.values():
        try:
            check_routing(routing, model)
        except TraceError as error:
            faults += _named(error)
    if faults or checked is None:
        raise ConfigError(faults)
    plan = checked.expert_map
    judged: dict[str, Imbalance] = {}
    nodes = 1 if hardware is None else hosts_of(ep, hardware)
    if plan is not None:
        judged = {
            name: evaluate(plan, routing.load_counts().totals, dispatch, nodes)
            for name, routing in loads.items()
        }
    if json:
        imbalance = {
            name: {"mean": j.mean, "worst": j.worst, "per_layer": j.per_layer} for name, j in judged.items()
        }
        document: dict[str, Any] = {"model": model.name, **checked.to_dict(), "load_imbalance": imbalance}
        print_json(
            document, kind="placement-check", inputs=[path, *loads, *([model.path] if model.path else [])]
        )
    else:
        _show(checked, model, judged)
    if not checked.ok:
        raise typer.Exit(1)


def _named(error: Any) -> list[Any]:  # noqa: ANN401 - errors are imported lazily
    """Faults with the file they are in."""
    from moesim.errors import Fault

    return [Fault(f"{error.source}: {fault}" if error.source else str(fault)) for fault in error.faults]


def _show(checked: PlanCheck, model: Model, judged: dict[str, Imbalance]) -> None:
    name = Path(checked.path)
    plan = checked.expert_map
    if plan is None:
        typer.echo(f"{name}: NOT fit for {model.name}, read as {checked.format}")
        for fault in checked.faults:
            typer.echo(f"  {fault}")
        stderr("error: the plan fails the check")
        return
    counts = plan.replica_counts
    made = []
    if checked.made:
        said = [checked.made.get(name, "?") for name in ("method", "dispatch")]
        made = [("made by", f"{said[0]}, for {said[1]} dispatch")]
    print_table(
        ["", ""],
        [
            ("format", checked.format),
            ("MoE layers", plan.layers),
            ("ranks", plan.ranks),
            ("slots per layer", f"{plan.slots} ({plan.redundant} redundant, {plan.slots_per_rank} per rank)"),
            ("most replicas of an expert", int(counts.max())),
            ("experts with replicas, mean per layer", f"{(counts > 1).sum(axis=1).mean():.4g}"),
            ("record", checked.record),
            *made,
        ],
        title=f"{name}: fit for {model.name}",
    )
    if judged:
        typer.echo()
        print_table(
            ["largest over mean rank load on", "mean", "worst layer"],
            [(file, f"{j.mean:.4f}", f"{j.worst:.4f}") for file, j in judged.items()],
        )
