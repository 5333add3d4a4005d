"""`moesim replay --system`: a trace through a named system, with time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.cli.common import print_json, print_table, stderr
from moesim.cli.trace_check import catalogue

if TYPE_CHECKING:
    from moesim.systems.compositions.compare import Outcome


#: Tasks of a timeline.
DRAWN = 100_000


def replay_systems(
    path: str,
    systems: Sequence[str],
    *,
    variant: str,
    hardware: str,
    model: str | None,
    train: str | None,
    cache_fraction: float,
    tokens: int | None,
    assume: Sequence[str],
    slots_chosen: Sequence[str],
    sweep: bool,
    timeline: Path | None,
    seed: int,
    json: bool,
) -> None:
    """Load, replay and print.

    Parameters
    ----------
    path
        The routing trace.
    systems
        Names; several are compared.
    variant
        ``paper``, ``code`` or ``both``.
    hardware, model
        Catalogue names or files; a trace that names its model needs none.
    train
        What tables are learnt from; without it the trace is split by request.
    cache_fraction
        Experts that fast memory holds, as a part of all.
    tokens
        Replay these first tokens alone.
    assume
        ``name=value`` each.
    slots_chosen
        ``SLOT=NAME`` each, in place of the systems' own.
    sweep
        Whether each assumed number is also taken to both ends of its range.
    timeline
        File for what the resources of the box did.
    """
    from moesim.chrome import path_faults
    from moesim.errors import ConfigError, Fault, InfeasibleError
    from moesim.hardware import load_hardware
    from moesim.model import load_model
    from moesim.offload import Box, write_timeline
    from moesim.policy import taken
    from moesim.systems.compositions import compositions
    from moesim.systems.compositions.chosen import chosen
    from moesim.systems.compositions.compare import compare, parts
    from moesim.trace import RoutingTrace, load_trace

    faults = []
    values = {}
    for text in assume:
        name, _, value = text.partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            faults.append(Fault("is no name=value", "--assume", text))
    if variant not in ("paper", "code", "both"):
        faults.append(Fault("is unknown", "--variant", variant, "paper, code, both"))
    if not 0 < cache_fraction <= 1:
        faults.append(Fault("is out of range", "--cache-fraction", cache_fraction, "above 0, at most 1"))
    if tokens is not None and tokens < 1:
        faults.append(Fault("is too small", "--tokens", tokens, "1 or more"))
    if timeline is not None:
        faults += path_faults(timeline)
        if len(systems) > 1 or systems[0] == "all" or variant == "both":
            faults.append(
                Fault("is of one system", "--timeline", str(timeline), "one --system and --variant")
            )
    if faults:
        raise ConfigError(faults)
    known = None if model is None else load_model(model)
    routing = load_trace(path, shape=known, candidates=catalogue)
    teacher = None if train is None else load_trace(train, shape=known, candidates=catalogue)
    if not isinstance(routing, RoutingTrace):
        raise ConfigError(Fault("needs tokens; these are load counts", "TRACE", path))
    if not isinstance(teacher, RoutingTrace | None):
        raise ConfigError(Fault("needs tokens; these are load counts", "--train", train))
    if known is None:
        if not routing.model:
            raise ConfigError(Fault("is needed: the trace does not name its model", "--model"))
        known = load_model(routing.model)
    box = Box.of(load_hardware(hardware), known)
    if list(systems) == ["all"]:
        systems = [system.name for system in compositions()]
    instead = chosen(slots_chosen)
    learnt, replayed = parts(systems, routing, teacher, any_learns=bool(instead), seed=seed)
    if tokens is not None:
        replayed = taken(replayed, slice(tokens))
    slots = round(cache_fraction * replayed.topk_ids.shape[1] * replayed.num_experts)
    if slots > box.slots:
        needed = slots * box.widths[0].bytes
        raise InfeasibleError(
            f"{slots} experts take {needed / 1e9:.1f} GB; beside dense weights and cache {box.hardware.name} "
            f"has {box.expert_bytes / 1e9:.1f} GB, enough for --cache-fraction "
            f"{box.slots / max(slots, 1) * cache_fraction:.2f}",
            resource="device memory",
            needed=needed,
            available=box.expert_bytes,
        )
    variants = ("paper", "code") if variant == "both" else (variant,)
    found = compare(
        systems,
        replayed,
        box,
        slots,
        train=learnt,
        variants=variants,
        values=values,
        slots_by_name=instead,
        sweep=sweep,
        seed=seed,
        spans=DRAWN if timeline is not None else 0,
    )
    if timeline is not None and found[0].timed is not None:
        write_timeline(found[0].timed, timeline)
    about: dict[str, Any] = {
        "trace": path,
        "hardware": box.hardware.name,
        "model": known.name,
        "slots": slots,
        "tokens": replayed.num_tokens,
        "slots_chosen": list(slots_chosen),
        "learnt_from": train,
        "learnt_tokens": 0 if learnt is None else learnt.num_tokens,
    }
    if json:
        first = found[0].to_dict() if len(found) == 1 else {}
        rows = [outcome.to_dict() for outcome in found]
        print_json(
            {**first, **about, "rows": rows},
            kind="replay-systems",
            inputs=[path, *([train] if train else [])],
            seed=seed,
        )
        return
    source = train or "other requests of the trace"
    stderr(
        f"{replayed.num_tokens:,} tokens on {box.hardware.name}, {slots} experts of {known.name} fit; "
        + ("nothing is learnt" if learnt is None else f"learnt from {learnt.num_tokens:,} tokens of {source}")
    )
    print_table(
        ["system", "variant", "hit ratio", "TPOT ms", "no-stall ms", "gap", "moved GB", "TTFT s"],
        [_cells(outcome) for outcome in found],
    )
    for o in found:
        if o.timed is None:
            stderr(f"{o.named.system.name}: not replayed: {o.refused}")
            continue
        for a in o.named.assumed:
            used = values.get(a.name, a.value)
            stderr(f"{o.named.system.name}: assumed {a.name} = {used:g} ({a.low:g} to {a.high:g}: {a.why})")
            if a.name in o.swept:
                low, high = o.swept[a.name]
                stderr(
                    f"  gives hit ratio {low.hit_ratio:.4f} to {high.hit_ratio:.4f}, TPOT "
                    f"{_scaled(low.tpot_s, 1e3)} to {_scaled(high.tpot_s, 1e3)} ms"
                )
        for text in o.named.lacks:
            stderr(f"{o.named.system.name}: the trace lacks {text}")


def _cells(outcome: Outcome) -> list[str | None]:
    """A line of the table; a system that was not replayed has its name alone."""
    named, timed = outcome.named, outcome.timed
    if timed is None:
        return [named.system.name, named.variant, *[None] * 6]
    return [
        named.system.name,
        named.variant,
        f"{timed.hit_ratio:.4f}",
        _scaled(timed.tpot_s, 1e3),
        _scaled(timed.bounds.get("tpot_s"), 1e3),
        None if outcome.gap is None else f"{outcome.gap:.2f}",
        f"{sum(timed.bytes_moved.values()) / 1e9:.2f}",
        _scaled(timed.ttft_s, 1.0),
    ]


def _scaled(value: float | None, factor: float) -> str | None:
    return None if value is None else f"{factor * value:.3f}"
