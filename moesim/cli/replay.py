"""`moesim replay`: a trace through a cache of experts."""

from __future__ import annotations

from typing import Annotated

import typer

from moesim.cli.common import Json, print_json, print_table


def replay(
    trace: Annotated[str, typer.Argument(help="A routing trace with tokens.")],
    policy: Annotated[str, typer.Option(help="What orders victims.")] = "lru",
    cache_fraction: Annotated[float, typer.Option(help="Slots per layer, as a part of its experts.")] = 0.25,
    json: Json = False,
) -> None:
    """Replay a routing trace through a cache of experts."""
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
