"""One run of `moesim simulate`, or several replications."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from moesim.cli.common import stderr

if TYPE_CHECKING:
    from moesim.errors import Fault
    from moesim.model import Model
    from moesim.requests import RequestTrace
    from moesim.serving.outcome import Outcome
    from moesim.serving.pools import ReadyPools
    from moesim.serving.replications import Looking, Traffic
    from moesim.serving.simulate import Ready
    from moesim.serving.statistics import Summary

#: What makes a fleet for requests, none longer than so many tokens.
Prepare = Callable[["RequestTrace", "int | None"], "Ready | ReadyPools"]


def looking_of(
    faults: list[Fault],
    goodput: list[str] | None,
    slo: str | None,
    warmup: str | None,
    cooldown: str | None,
    recorded: bool,
) -> tuple[dict[str, float], tuple[str | float, str | float]]:
    """Limits of good requests, and what to leave out at either end."""
    from moesim.errors import ConfigError
    from moesim.serving.warmup import parse_cut

    limits: dict[str, float] = {}
    if goodput or slo:
        from moesim.planning.slo import parse_slo

        try:
            limits = dict(parse_slo(goodput or (), slo).limits)
        except ConfigError as error:
            faults += error.faults
    usual = "none" if recorded else "auto"
    cuts: list[str | float] = []
    for text, option in ((warmup, "--warmup"), (cooldown, "--cooldown")):
        try:
            cuts.append(parse_cut(usual if text is None else text, option))
        except ConfigError as error:
            faults += error.faults
            cuts.append("none")
    return limits, (cuts[0], cuts[1])


def run(
    model: Model,
    traffic: Traffic,
    prepare: Prepare,
    looking: Looking,
    *,
    seed: int,
    replications: int,
    processes: int,
    drop_long: bool,
    quiet: bool,
) -> tuple[Summary, Outcome, list[str]]:
    """The summary, the run of the first seed, and notes."""
    from moesim.serving.admit import lengths_of, without_long
    from moesim.serving.replications import Recorded, replicate
    from moesim.serving.statistics import summarise

    first: RequestTrace = traffic.draw(seed)
    notes = list(first.warnings)
    if drop_long:
        first, dropped = without_long(first, model.max_context)
        if dropped:
            notes.append(f"{dropped} requests that the context of {model.name} does not hold were left out")
            if not isinstance(traffic, Recorded):
                traffic = replace(traffic, most_tokens=model.max_context)
            else:
                traffic = replace(traffic, trace=first)
    longest = None
    if replications > 1 and not isinstance(traffic, Recorded):
        # Tables and cache have to hold what any replication asks for.
        drawn = (traffic.draw(seed + i) for i in range(1, replications))
        longest = max(lengths_of(requests, model) for requests in drawn)
    ready = prepare(first, longest)
    notes += ready.about.notes
    outcome = ready.serve(first)
    if replications == 1:
        summary = summarise(
            outcome,
            goodput=looking.goodput,
            warmup=looking.warmup,
            cooldown=looking.cooldown,
            price=looking.price,
        )
        return summary, outcome, notes

    def tell(done: int) -> None:
        if not quiet:
            stderr(f"{done} of {replications} replications")

    summary = replicate(
        ready, traffic, replications, seed=seed, processes=processes, looking=looking, progress=tell
    )
    return summary, outcome, notes
