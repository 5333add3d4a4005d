"""What `moesim plan` is asked: everything is read, and every fault is told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.cli.place_output import attempt, served_as
from moesim.errors import ConfigError, Fault

if TYPE_CHECKING:
    from moesim.hardware import Hardware
    from moesim.model import Model
    from moesim.planning.prices import Quoted
    from moesim.planning.types import PlanResult, Slo, Space, Traffic
    from moesim.requests import RequestTrace
    from moesim.trace import Routing

#: What options of a search space are called here.
_SPELLED = {
    "--chunk-tokens": "--max-num-batched-tokens",
    "--max-sequences": "--max-num-seqs",
    "--max-devices": "--nodes-max",
    "--most-devices": "--max-devices",
    "--most-usd-per-hour": "--max-usd-per-hour",
    "--dtypes": "--dtype",
    "--kv-dtypes": "--kv-cache-dtype",
    "--nodes": "--nodes-max",
    "--modes": "--disaggregated",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question without faults."""

    models: Mapping[str, Model]
    quoted: Quoted
    routing: Routing | None
    slo: Slo
    traffic: Traffic
    space: Space
    files: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        """Files that were read."""
        found = [m.path for m in self.models.values()] + [h.path for h in self.quoted.hardware]
        return [path for path in (*found, *self.files) if path]

    def served(self, model: Model) -> str:
        """How an engine is told of a model."""
        return next((served_as(text, m.name) for text, m in self.models.items() if m is model), model.name)

    def notes(self, result: PlanResult) -> list[str]:
        """What has to be said beside the plan."""
        said = [*result.notes, *self.traffic.requests.warnings]
        said += result.best.candidate.model.warnings
        if "disaggregated" in self.space.modes and not _pools_tried(result):
            said.append("--disaggregated: no layout in two pools was looked at")
        said += self.routing.warnings if self.routing is not None else ()
        return list(dict.fromkeys(said))


def ask(
    models: Sequence[str],
    hardware: Sequence[str],
    routing: tuple[str | None, int | None],
    promise: tuple[Sequence[str], str | None, float | None],
    traffic: tuple[Path | None, float | None, str | None, str | None],
    made_up: Mapping[str, Any],
    prices: Sequence[str],
    space: Mapping[str, Any],
    nodes_max: int | None,
    outputs: tuple[Path | None, Path | None],
) -> Asked:
    """Read everything a plan needs.

    Parameters
    ----------
    models, hardware
        Names or files.
    routing
        Trace, and its number of experts.
    promise, traffic, made_up, prices
        Arguments of `parse_slo`, `make_traffic` and `quote`.
    space
        Of `Space`; what is None is left at its default.
    nodes_max
        Nodes of one replica.
    outputs
        Folder of launch commands, and table.

    Raises
    ------
    ConfigError
        With every fault of all of them.
    """
    from moesim.planning.prices import quote
    from moesim.planning.slo import parse_slo
    from moesim.planning.traffic import make_traffic

    faults: list[Fault] = []
    found = _models(models, faults)
    machines = _machines(hardware, nodes_max, faults)
    trace = _routing(routing, found, faults)
    quoted = attempt(faults, quote, machines, prices) if machines else None
    slo = attempt(faults, parse_slo, *promise)
    requests = attempt(faults, make_traffic, *traffic, **made_up)
    tried = _space(space, machines, nodes_max)
    faults += [_spell(fault) for fault in tried.faults()] + _dtype_faults(tried)
    faults += _output_faults(*outputs)
    if faults or quoted is None or slo is None or requests is None:
        raise ConfigError(faults)
    files = [str(path) for path in (traffic[0], routing[0]) if path is not None]
    return Asked(found, quoted, trace, slo, requests, tried, tuple(files))


def _pools_tried(result: PlanResult) -> bool:
    from moesim.layout import Disaggregated

    looked = [*result.ranked, *result.confirmed, *result.refuted]
    looked += [one for refusal in result.refused for one in (refusal.nearest, *refusal.examples)]
    return any(isinstance(one.candidate.layout, Disaggregated) for one in looked)


def respelled(error: ConfigError) -> ConfigError:
    """An error of the search in the names of options."""
    return ConfigError([_spell(fault) for fault in error.faults], error.source)


def longest_tokens(requests: RequestTrace) -> int:
    """Tokens of the longest request, with its output."""
    return int((requests.input_tokens.astype("int64") + requests.output_tokens).max())


def _models(names: Sequence[str], faults: list[Fault]) -> dict[str, Model]:
    from moesim.model import load_model

    if not names:
        faults.append(Fault("is needed", "--model", None, "moesim model list shows the catalogue"))
    loaded = {name: attempt(faults, load_model, name) for name in dict.fromkeys(names)}
    return {name: model for name, model in loaded.items() if model is not None}


def _machines(names: Sequence[str], nodes_max: int | None, faults: list[Fault]) -> list[Hardware]:
    from moesim.hardware import load_hardware

    if not names:
        faults.append(Fault("is needed", "--hardware", None, "moesim hardware list shows the catalogue"))
    loaded = [attempt(faults, load_hardware, name) for name in dict.fromkeys(names)]
    found = [machine for machine in loaded if machine is not None]
    for machine in found:
        if nodes_max is not None and machine.max_nodes is not None and nodes_max > machine.max_nodes:
            message = f"{machine.name} has at most {machine.max_nodes} nodes"
            faults.append(Fault(message, "--nodes-max", nodes_max, f"1 to {machine.max_nodes}"))
    names_of = [machine.name for machine in found]
    faults += [
        Fault("is asked for twice", "--hardware", name, "each machine once")
        for name in dict.fromkeys(names_of)
        if names_of.count(name) > 1
    ]
    return found


def _routing(
    asked: tuple[str | None, int | None], models: Mapping[str, Model], faults: list[Fault]
) -> Routing | None:
    from moesim.errors import TraceError
    from moesim.prediction import check_routing
    from moesim.trace import load_trace

    path, num_experts = asked
    if path is None:
        return None
    only = next(iter(models.values()), None)
    if len(models) > 1:
        faults.append(Fault("is of one model", "--trace", path, "one --model beside it"))
    try:
        trace = load_trace(path, shape=only, num_experts=num_experts)
        if only is not None:
            check_routing(trace, only)
    except (ConfigError, TraceError) as error:
        source = f"{error.source}: " if error.source else ""
        faults += [Fault(f"{source}{fault}") for fault in error.faults]
        return None
    return trace


def _space(given: Mapping[str, Any], machines: Sequence[Hardware], nodes_max: int | None) -> Space:
    from moesim.planning.types import Space

    values: dict[str, Any] = {
        n: tuple(v) if isinstance(v, list) else v for n, v in given.items() if v is not None
    }
    if nodes_max is not None and machines:
        powers = [2**i for i in range(nodes_max.bit_length()) if 2**i <= nodes_max]
        values["nodes"] = tuple(sorted({*powers, nodes_max}))
        values["max_devices"] = nodes_max * max(h.devices_per_node for h in machines)
    return Space(**values)


def _dtype_faults(space: Space) -> list[Fault]:
    from moesim.errors import nearest
    from moesim.ops.precision import KV_DTYPES, WEIGHT_DTYPES

    return [
        Fault(
            f"unknown data type; nearest: {(nearest(dtype, known) or [known[1]])[0]}",
            option,
            dtype,
            ", ".join(known),
        )
        for option, tried, known in (
            ("--dtype", space.dtypes, WEIGHT_DTYPES),
            ("--kv-cache-dtype", space.kv_dtypes, KV_DTYPES),
        )
        for dtype in tried
        if dtype not in known
    ]


def _output_faults(emit: Path | None, out: Path | None) -> list[Fault]:
    from moesim.files import check_writable
    from moesim.planning.document import table_faults
    from moesim.planning.launch import folder_faults

    found = folder_faults(emit) if emit is not None else []
    if out is not None:
        found += [*table_faults(out), *check_writable(out, "--out")]
    return found


def _spell(fault: Fault) -> Fault:
    return replace(fault, where=_SPELLED.get(fault.where, fault.where))
