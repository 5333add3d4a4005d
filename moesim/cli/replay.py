"""`moesim replay`: a trace through a cache of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, Seed
from moesim.cli.replay_hits import FRACTION, Asked, replay_hits

HARDWARE = "rtx-4090-workstation"
#: Of the search for advice.
REPLAYS = 150


def replay(
    trace: Annotated[str, typer.Argument(help="A routing trace with tokens.")],
    policy: Annotated[
        str | None,
        typer.Option(
            help="What orders victims; the first of --compare if not given, else lru.", metavar="RULE"
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(help="More rules under the same conditions, with commas.", metavar="RULE,RULE"),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", help="Of the rules that have it; again for more.", metavar="NAME=VALUE"),
    ] = None,
    cache_fraction: Annotated[
        float | None,
        typer.Option(help="Slots per layer, as a part of its experts; 0.25 without --cache-slots."),
    ] = None,
    cache_slots: Annotated[int | None, typer.Option(help="Slots of each pool instead.")] = None,
    pool: Annotated[
        str, typer.Option(help="What shares slots: layer, device (see --ep), or global: all layers.")
    ] = "layer",
    ep: Annotated[
        int | None,
        typer.Option(
            "--expert-parallel-size", "--ep", help="Devices for --pool device, experts in even blocks."
        ),
    ] = None,
    lookup: Annotated[
        str,
        typer.Option(help="sequential, or token_batch: a layer's experts of a step before any is loaded."),
    ] = "sequential",
    cold: Annotated[
        str, typer.Option(help="First accesses: charge, free (hits), fill (hits while a slot is free).")
    ] = "charge",
    reset: Annotated[
        str, typer.Option(help="Whether pools start anew with each request: never or request.")
    ] = "never",
    start: Annotated[
        str, typer.Option(help="What is there at first: empty, first, random, popular (see --popular).")
    ] = "empty",
    popular: Annotated[
        str | None, typer.Option(help="Other routing or load counts that say what is popular.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(help="Requests that decode together; one load serves all of a step's tokens.")
    ] = 1,
    expert_bytes: Annotated[
        str | None, typer.Option(help="Size of one expert, for bytes moved; else that of --model.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Catalogue name, config.json, or its folder: the trace must fit it.")
    ] = None,
    num_experts: opt.NumExperts = None,
    curve: Annotated[bool, typer.Option("--curve", help="Hits of every capacity, LRU and Belady.")] = False,
    consistency: Annotated[
        bool, typer.Option("--consistency", help="Local routing consistency: SRP and segment hit rates.")
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(help="Replay a named system with time instead; several with commas, or all."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="With --system: what its paper says, or its code: paper (default), code, both."),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(help=f"With --system or --optimise: catalogue name or file (default {HARDWARE})."),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(help="With --system: trace to learn from; else half of the requests of TRACE."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="With --system: replay these first tokens alone.")
    ] = None,
    assume: Annotated[
        list[str] | None, typer.Option(help="With --system: name=value in place of an assumed one.")
    ] = None,
    slot: Annotated[
        list[str] | None,
        typer.Option(
            help="A slot by name in place of the system's own; without --system over LRU. Again for more.",
            metavar="SLOT=NAME[:VALUE=...]",
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="With --system: each assumed number at both ends of its range.")
    ] = False,
    optimise: Annotated[
        bool,
        typer.Option("--optimise", help="Search for the best composition of slots; --system limits rivals."),
    ] = False,
    objective: Annotated[
        str | None, typer.Option(help="With --optimise: tpot (default), ttft or throughput.")
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(help=f"With --optimise: most replays of the search (default {REPLAYS}).")
    ] = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="With --optimise: what the model computes may change.")
    ] = False,
    timeline: Annotated[
        Path | None,
        typer.Option(help="With --system: what GPU, CPU and links did, for Perfetto: .json or .json.gz."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Write the JSON document to a file too.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Replay a routing trace through caches of experts: which accesses hit, and what the others move.

    With --system or --optimise the replay drives a timeline of one box: seconds per token too.
    """
    asked = Asked(
        policy=policy,
        compare=compare,
        parameter=tuple(parameter or ()),
        cache_fraction=cache_fraction,
        cache_slots=cache_slots,
        pool=pool,
        ep=ep,
        lookup=lookup,
        cold=cold,
        reset=reset,
        start=start,
        popular=popular,
        concurrency=concurrency,
        expert_bytes=expert_bytes,
        output=output,
        seed=seed,
    )
    if slot and system is None and not optimise:
        system = "lru"
    if system is None and not optimise:
        timed: dict[str, object] = {"--train": train, "--tokens": tokens, "--assume": assume}
        timed |= {"--lossy": lossy or None, "--sweep": sweep or None}
        timed |= {"--variant": variant, "--hardware": hardware}
        timed |= {"--timeline": None if timeline is None else str(timeline)}
        timed |= {"--objective": objective, "--evaluations": evaluations}
        replay_hits(
            trace, asked, model, num_experts, curve=curve, consistency=consistency, timed=timed, json=json
        )
        return
    from moesim.cli.replay_advice import advise
    from moesim.cli.replay_system import replay_systems
    from moesim.errors import ConfigError

    option = "--optimise" if optimise else "--system"
    flags = {"--curve": curve, "--consistency": consistency}
    if optimise:
        flags |= {
            "--slot": bool(slot),
            "--train": bool(train),
            "--assume": bool(assume),
            "--sweep": bool(sweep),
            "--variant": bool(variant),
            "--timeline": timeline is not None,
        }
    else:
        flags |= {
            "--objective": bool(objective),
            "--evaluations": evaluations is not None,
            "--lossy": lossy,
        }
    if faults := asked.beside(option, flags):
        raise ConfigError(faults)
    fraction = FRACTION if cache_fraction is None else cache_fraction
    if optimise:
        advise(
            trace,
            hardware=hardware or HARDWARE,
            model=model,
            objective=objective or "tpot",
            systems=system,
            cache_fraction=fraction,
            tokens=tokens,
            evaluations=REPLAYS if evaluations is None else evaluations,
            lossy=lossy,
            seed=seed,
            json=json,
        )
        return
    assert system is not None
    replay_systems(
        trace,
        system.split(","),
        variant=variant or "paper",
        hardware=hardware or HARDWARE,
        model=model,
        train=train,
        cache_fraction=fraction,
        tokens=tokens,
        assume=assume or [],
        slots_chosen=slot or [],
        sweep=sweep,
        timeline=timeline,
        seed=seed,
        json=json,
    )
