"""`moesim replay --system`: a trace through a named system, with time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moesim.cli.common import print_json, print_table, stderr
from moesim.cli.trace_check import catalogue

if TYPE_CHECKING:
    from moesim.systems.compositions.compare import Outcome


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
    sweep: bool,
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
    sweep
        Whether each assumed number is also taken to both ends of its range.
    """
    from moesim.errors import ConfigError, Fault
    from moesim.hardware import load_hardware
    from moesim.model import load_model
    from moesim.offload import Box
    from moesim.policy import taken
    from moesim.systems.compositions import compositions
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
    if faults:
        raise ConfigError(faults)
    known = None if model is None else load_model(model)
    routing = load_trace(path, shape=known, candidates=catalogue)
    teacher = None if train is None else load_trace(train, shape=known, candidates=catalogue)
    for which, loaded in ((path, routing), (train, teacher)):
        if loaded is not None and not isinstance(loaded, RoutingTrace):
            raise ConfigError(Fault("needs tokens; these are load counts", "TRACE", which))
    assert isinstance(routing, RoutingTrace)
    if known is None:
        if not routing.model:
            raise ConfigError(Fault("is needed: the trace does not name its model", "--model"))
        known = load_model(routing.model)
    box = Box.of(load_hardware(hardware), known)
    learnt, replayed = parts(routing, teacher, seed=seed)  # type: ignore[arg-type]
    if tokens is not None:
        replayed = taken(replayed, slice(tokens))
    slots = round(cache_fraction * replayed.topk_ids.shape[1] * replayed.num_experts)
    if list(systems) == ["all"]:
        systems = [system.name for system in compositions()]
    variants = ("paper", "code") if variant == "both" else (variant,)
    found = compare(
        systems, replayed, box, slots, train=learnt, variants=variants, values=values, sweep=sweep, seed=seed
    )
    about: dict[str, Any] = {
        "trace": path,
        "hardware": box.hardware.name,
        "model": known.name,
        "slots": slots,
        "tokens": replayed.num_tokens,
        "learnt_from": train or f"{learnt.num_tokens} tokens of other requests of the trace",
    }
    if json:
        first = found[0].to_dict() if len(found) == 1 else {}
        rows = [outcome.to_dict() for outcome in found]
        print_json({**first, **about, "rows": rows}, inputs=[path, *([train] if train else [])], seed=seed)
        return
    stderr(
        f"{replayed.num_tokens:,} tokens on {box.hardware.name}, {slots} experts of {known.name} fit; "
        f"learnt from {about['learnt_from']}"
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
