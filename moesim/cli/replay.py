"""`moesim replay`: a trace through a cache of experts."""

from __future__ import annotations

from typing import Annotated

import typer

from moesim.cli.common import Json, Seed, print_json, print_table


def replay(
    trace: Annotated[str, typer.Argument(help="A routing trace with tokens.")],
    policy: Annotated[str, typer.Option(help="What orders victims.")] = "lru",
    cache_fraction: Annotated[float, typer.Option(help="Slots per layer, as a part of its experts.")] = 0.25,
    system: Annotated[
        str | None,
        typer.Option(help="Replay a named system with time instead; several with commas, or all."),
    ] = None,
    variant: Annotated[
        str, typer.Option(help="What a system's paper says, or its code: paper, code, both.")
    ] = "paper",
    hardware: Annotated[
        str, typer.Option(help="With --system: catalogue name or file.")
    ] = "rtx-4090-workstation",
    model: Annotated[str | None, typer.Option(help="With --system: catalogue name or file.")] = None,
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
    optimise: Annotated[
        bool,
        typer.Option("--optimise", help="Search for the best composition of slots; --system limits rivals."),
    ] = False,
    objective: Annotated[str, typer.Option(help="With --optimise: tpot, ttft or throughput.")] = "tpot",
    evaluations: Annotated[int, typer.Option(help="With --optimise: most replays of the search.")] = 150,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="With --optimise: what the model computes may change.")
    ] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Replay a routing trace through a cache of experts."""
    if optimise:
        from moesim.cli.replay_advice import advise

        advise(
            trace,
            hardware=hardware,
            model=model,
            objective=objective,
            systems=system,
            cache_fraction=cache_fraction,
            tokens=tokens,
            evaluations=evaluations,
            lossy=lossy,
            seed=seed,
            json=json,
        )
        return
    if system is not None:
        from moesim.cli.replay_system import replay_systems

        replay_systems(
            trace,
            system.split(","),
            variant=variant,
            hardware=hardware,
            model=model,
            train=train,
            cache_fraction=cache_fraction,
            tokens=tokens,
            assume=assume or [],
            seed=seed,
            json=json,
        )
        return
    import numpy as np

    from moesim.errors import ConfigError, Fault
    from moesim.policy import Residency, token_steps
    from moesim.residency import replay as run
    from moesim.trace import RoutingTrace, load_trace

    routing = load_trace(trace)
    if not isinstance(routing, RoutingTrace):
        raise ConfigError(Fault("needs tokens; these are load counts", "TRACE", trace))
    steps = token_steps(routing)
    slots = np.full(steps.layers, round(cache_fraction * steps.num_experts), np.int64)
    found = run(steps, Residency(policy), slots)
    if json:
        print_json({"trace": trace, **found.to_dict()}, inputs=[trace])
        return
    print_table(
        ["policy", "slots per layer", "hits", "accesses", "hit ratio"],
        [[policy, int(slots[0]), int(found.hits.sum()), int(found.accesses.sum()), f"{found.hit_ratio:.4f}"]],
    )
