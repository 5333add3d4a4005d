"""`moesim trace generate`: routing traces that no model was run for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli.common import Json, Seed, print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.errors import Fault
    from moesim.synthesis.check import Row
    from moesim.synthesis.design import Shape, Traits
    from moesim.synthesis.profile import Profile


def generate(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, .parquet or .npz.")],
    tokens: Annotated[int, typer.Option(help="Tokens to generate.")],
    like: Annotated[Path | None, typer.Option(metavar="TRACE", help="Fit this trace, generate more.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="A shipped profile by name, or a file that --save-profile wrote.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Design for this model; with --like, what the trace is of.")
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Design for that many MoE layers.")] = None,
    experts: Annotated[int | None, typer.Option(help="Experts per layer.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Experts per token.")] = None,
    skew: Annotated[
        float | None, typer.Option(help="Design: standard deviation of the log load (default 0.6).")
    ] = None,
    persistence: Annotated[
        float | None, typer.Option(help="Design: share of experts kept from one token to the next.")
    ] = None,
    coupling: Annotated[
        float | None, typer.Option(help="Design: mutual information of neighbouring layers, bits.")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Requests; else as long as the profile's.")] = None,
    phase: Annotated[
        str | None, typer.Option(help="prefill, decode or both (half of each request); else the profile's.")
    ] = None,
    save_profile: Annotated[Path | None, typer.Option(help="Also write the profile here, .npz.")] = None,
    seed: Seed = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Compare statistics with the target; exit 1 if one is off.")
    ] = False,
    json: Json = False,
) -> None:
    """Generate a routing trace like a given one, from a shipped profile, or from a few numbers."""
    from moesim.errors import ConfigError, Fault
    from moesim.synthesis.check import compare, measure
    from moesim.synthesis.design import Shape, Traits

    traits = Traits(0.6 if skew is None else skew, persistence, coupling)
    faults = _option_faults(output, save_profile, tokens, requests, phase, seed)
    faults += _source_faults(like, profile, model, (layers, experts, top_k), (skew, persistence, coupling))
    named = None
    if profile is not None:
        try:
            named = _named(profile)
        except ConfigError as error:
            faults += [Fault(str(fault), "--profile") for fault in error.faults]
    shape = Shape((), 0, 0)
    if like is None and profile is None and not faults:
        shape, faults = _shape(model, layers, experts, top_k, traits)
    if faults:
        raise ConfigError(faults)
    if named is not None:
        made, target, source = named, named.targets, str(profile)
    else:
        made, target, source = _profile(like, model, shape, traits, seed, check)
    if save_profile is not None:
        made.save(save_profile)
    _write(output, made, tokens, requests, phase, seed)
    rows = compare(target, measure(output, seed)) if check else []
    inputs = [p for p in (like, output) if p is not None]
    _report(output, made, rows, inputs, seed, json, {"like": source, "tokens": tokens})
    if any(not row.passes for row in rows):
        raise typer.Exit(1)


def _option_faults(
    output: Path, save: Path | None, tokens: int, requests: int | None, phase: str | None, seed: int
) -> list[Fault]:
    from moesim.errors import Fault
    from moesim.files import check_writable
    from moesim.synthesis.requests import plan_faults

    faults = check_writable(output, "--output")
    if output.suffix.lower() not in (".parquet", ".npz"):
        faults.append(Fault("has no suffix of a trace", "--output", str(output), ".parquet, .npz"))
    if save is not None:
        faults += check_writable(save, "--save-profile")
    return faults + plan_faults(tokens, requests, phase, seed)


def _source_faults(
    like: Path | None,
    profile: str | None,
    model: str | None,
    shape: tuple[int | None, ...],
    traits: tuple[float | None, ...],
) -> list[Fault]:
    from moesim.errors import Fault

    sized = any(v is not None for v in shape)
    sources = [like is not None, profile is not None, sized or (model is not None and like is None)]
    faults = []
    if sum(sources) != 1:
        allowed = "one of --like, --profile, --model, and --layers --experts --top-k"
        faults.append(Fault("says what to imitate more than once" if any(sources) else
                            "does not say what to imitate", "command", allowed=allowed))  # fmt: skip
    if sized and model is not None:
        faults.append(Fault("already says the shape", "--model", model, "no --layers, --experts, --top-k"))
    elif sized and any(v is None for v in shape):
        faults.append(Fault("are needed together", "--layers --experts --top-k"))
    if (like is not None or profile is not None) and any(v is not None for v in traits):
        faults.append(Fault("shape a design, not a fitted profile", "--skew --persistence --coupling"))
    return faults


def _shape(
    model: str | None, layers: int | None, experts: int | None, top_k: int | None, traits: Traits
) -> tuple[Shape, list[Fault]]:
    from moesim.errors import ConfigError, Fault
    from moesim.model import load_model
    from moesim.synthesis.design import Shape, shape_faults

    if model is None:
        shape = Shape(tuple(range(layers or 0)), experts or 0, top_k or 0)
    else:
        found = load_model(model)
        if found.moe is None:
            raise ConfigError(Fault("routes nothing: it is a dense model", "--model", model))
        groups, top_groups = found.moe.groups or 1, found.moe.top_groups or 1
        shape = Shape(
            found.moe_layer_ids, found.num_experts, found.top_k, groups, top_groups, model=found.name
        )
    faults = shape_faults(shape)
    return shape, faults or traits.faults(shape)


def _named(name: str) -> Profile:
    """A profile by name, or from a file."""
    from moesim.synthesis.profile import load_profile, read_profile

    path = Path(name)
    return read_profile(path) if path.suffix == ".npz" else load_profile(name)


def _profile(
    like: Path | None,
    model: str | None,
    shape: Shape,
    traits: Traits,
    seed: int,
    check: bool,
) -> tuple[Profile, dict[str, float], str]:
    """A profile fitted or designed, the statistics it should reproduce, and where it comes from."""
    from moesim.cli.trace import _hints
    from moesim.errors import ConfigError, Fault
    from moesim.synthesis.check import measure
    from moesim.synthesis.design import design
    from moesim.synthesis.fitting import fit
    from moesim.trace import RoutingTrace, load_trace

    if like is not None:
        trace = load_trace(like, **_hints(model, None))
        if not isinstance(trace, RoutingTrace):
            raise ConfigError(Fault("holds loads, not which experts each token chose", "--like", str(like)))
        stderr(f"fitting {trace.num_tokens:,} tokens")
        return fit(trace, seed=seed), measure(trace, seed) if check else {}, str(like)
    stderr("calibrating the design")
    made = design(shape, traits, seed=seed)[0]
    return made, made.targets, made.model or "the numbers given"


def _write(
    output: Path, made: Profile, tokens: int, requests: int | None, phase: str | None, seed: int
) -> None:
    from moesim.synthesis.sampling import generate as in_memory
    from moesim.synthesis.sampling import generate_to
    from moesim.trace import write_trace

    if output.suffix.lower() == ".parquet":
        generate_to(output, made, tokens, requests, phase, seed)
    else:
        write_trace(in_memory(made, tokens, requests, phase, seed), output)


def _report(
    output: Path,
    made: Profile,
    rows: list[Row],
    inputs: list[Path],
    seed: int,
    json: bool,
    document: dict[str, Any],
) -> None:
    if json:
        document |= {
            "written": str(output),
            "model": made.model or None,
            "layers": made.num_layers,
            "num_experts": made.num_experts,
            "top_k": made.top_k,
            "assumed": made.assumed,
            "check": [asdict(r) | {"error": r.error, "passes": r.passes} for r in rows],
        }
        print_json(document, kind="trace-generation", inputs=inputs, seed=seed)
        return
    for line in made.assumed:
        stderr(f"assumed: {line}")
    shape = f"{made.num_layers} layers x {made.num_experts} experts, top {made.top_k}"
    typer.echo(f"{output}: {document['tokens']:,} tokens, {shape}, like {document['like']}")
    columns = ("statistic", "target", "generated", "difference", "allowed", "")
    if rows:
        print_table(columns, map(_cells, rows))


def _cells(row: Row) -> tuple[str, ...]:
    numbers = f"{row.target:.4f}", f"{row.generated:.4f}", f"{row.error:+.1%}", f"{row.tolerance:.0%}"
    return row.name, *numbers, "ok" if row.passes else "off"
