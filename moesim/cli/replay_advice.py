"""`moesim replay --optimise`: the best composition for a trace, a model and a box."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.cli.common import print_json, print_table, stderr
from moesim.cli.trace_check import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

    from moesim.hardware import Hardware
    from moesim.model import Model
    from moesim.offload import Box
    from moesim.systems.optimise import Advice


def advise(
    path: str,
    *,
    hardware: str,
    model: str | None,
    objective: str,
    systems: str | None,
    cache_fraction: float,
    tokens: int | None,
    evaluations: int,
    lossy: bool,
    seed: int,
    json: bool,
) -> None:
    """Load, search and print.

    Parameters
    ----------
    path
        The routing trace.
    hardware, model
        Catalogue names or files; a trace that names its model needs none.
    objective
        ``tpot``, ``ttft`` or ``throughput``.
    systems
        Named systems to compare with, with commas; all by default.
    cache_fraction
        Experts that fast memory holds, as a part of all.
    tokens
        About as many are compared on.
    evaluations
        Most compositions that are replayed in the search.
    lossy
        Whether what the model computes may change.
    """
    from moesim.errors import ConfigError, Fault
    from moesim.hardware import load_hardware
    from moesim.model import load_model
    from moesim.systems.optimise import optimise
    from moesim.trace import RoutingTrace, load_trace

    if not 0 < cache_fraction <= 1:
        raise ConfigError(Fault("is out of range", "--cache-fraction", cache_fraction, "above 0, at most 1"))
    known = None if model is None else load_model(model)
    routing = load_trace(path, shape=known, candidates=catalogue)
    if not isinstance(routing, RoutingTrace):
        raise ConfigError(Fault("needs tokens; these are load counts", "TRACE", path))
    if known is None:
        if not routing.model:
            raise ConfigError(Fault("is needed: the trace does not name its model", "--model"))
        known = load_model(routing.model)
    machine = load_hardware(hardware)
    found = optimise(
        routing,
        box_of(machine, known, cache_fraction),
        objective=objective,
        tokens=1000 if tokens is None else tokens,
        evaluations=evaluations,
        lossy=lossy,
        systems=None if systems is None or systems == "all" else tuple(systems.split(",")),
        seed=seed,
        progress=stderr,
    )
    about = {"trace": path, "hardware": machine.name, "model": known.name, "cache_fraction": cache_fraction}
    if json:
        print_json({**about, **found.to_dict()}, kind="replay-advice", inputs=[path], seed=seed)
        return
    _show(found)


def box_of(hardware: Hardware, model: Model, cache_fraction: float) -> Callable[[int], Box]:
    """The machine for a number of sequences, with memory for a part of all experts and one spare slot.

    More sequences take their cache out of that memory.
    """
    from moesim.errors import InfeasibleError
    from moesim.offload import Box

    one = Box.of(hardware, model)
    held = round(cache_fraction * len(model.moe_layer_ids) * one.moe.num_experts) + 1

    def box(sequences: int) -> Box:
        cache = one.expert_bytes - Box.of(hardware, model, sequences=sequences).expert_bytes
        left = held * one.widths[0].bytes - cache
        if left <= 0:
            raise InfeasibleError(
                f"the cache of {sequences} sequences leaves no memory to experts",
                resource="device memory",
                needed=cache,
                available=held * one.widths[0].bytes,
            )
        return Box.of(hardware, model, gpu_bytes=left, sequences=sequences)

    return box


def _show(found: Advice) -> None:
    from moesim.systems.optimise import described

    less = found.objective != "throughput"
    unit, factor = ("ms", 1e3) if less else ("tokens/s", 1.0)

    def cell(value: float) -> str:
        return f"{factor * value:.3f}"

    rows = []
    for rival in found.rivals:
        notes = []
        if rival.changes_results:
            notes.append("changes what the model computes")
        if rival.needs_future:
            notes.append("needs the future")
        hits = f"{rival.held.timed.hit_ratio:.3f}"
        rows.append(
            [rival.name, rival.variant, hits, cell(rival.scored.value), cell(rival.held.value), *notes]
        )
    print_table(
        ["system", "variant", "hit ratio", f"seen {unit}", f"held-out {unit}", "note"],
        [[*row[:5], ", ".join(row[5:])] for row in rows],
    )
    start = f"{found.start.name} ({found.start.variant})"
    print_table(
        ["slot", start, "best"],
        [
            [slot, before, after]
            for (slot, before), after in zip(
                described(found.start.scored.composition).items(),
                described(found.best.composition).values(),
                strict=True,
            )
        ],
        title="\nBest composition",
    )
    steps = [["", start, cell(found.start.scored.value), cell(found.start.held.value)]]
    steps += [[r.slot, r.after, cell(r.scored), cell(r.held)] for r in found.up]
    print_table(
        ["slot", "changed to", f"seen {unit}", f"held-out {unit}"], steps, title="\nFrom there, slot by slot"
    )
    steps = [["", "the best", cell(found.best.value), cell(found.held.value)]]
    steps += [[r.slot, r.after, cell(r.scored), cell(r.held)] for r in found.down]
    print_table(
        ["slot", "put back to", f"seen {unit}", f"held-out {unit}"], steps, title="\nBack from it, one each"
    )
    bound = found.held.timed.bounds.get("tpot_s") if found.objective == "tpot" else None
    limit = "" if bound is None else f"; nothing on this box beats {cell(bound)} {unit}"
    print_table(
        ["result", ""],
        [
            ["gain on held-out requests", f"{found.gain:.3f} x over {start}{limit}"],
            ["tokens", ", ".join(f"{name} {count}" for name, count in found.tokens.items())],
            ["replays", f"{found.evaluations}{'' if found.settled else ', not settled: try more'}"],
        ],
        title=" ",
    )
    for text in found.assumed:
        stderr(f"the best assumes {text}")
    for name, why in found.refused.items():
        stderr(f"{name}: not replayed: {why}")
