"""What happens to engines beside their steps: failures, repairs, lost nodes, experts that move."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moesim.chrome import Event, instant, name_process, name_track, nanoseconds, span
from moesim.layout import Disaggregated, Parallelism
from moesim.serving.cluster import Outage
from moesim.serving.outcome import Outcome
from moesim.serving.state import LOG_DECODE, LOG_PREFILL, LOG_REPLICA, LOG_SECONDS, LOG_START


def happenings(outcome: Outcome, process: int) -> Iterator[Event]:
    """A track of each replica that did not always work.

    Parameters
    ----------
    outcome
        What happened.
    process
        Number of the process.
    """
    down = outcome.down
    if down is None or not (down.outages or down.resized):
        return
    yield from name_process(process, "failures")
    for replica in sorted({o.replica for o in down.outages} | {r for _, r, _ in down.resized}):
        track = (process, replica)
        yield from name_track(track, replica_name(outcome, replica))
        for outage in down.outages:
            if outage.replica == replica:
                start, end = nanoseconds([outage.from_s, outage.to_s]).tolist()
                yield span(track, "down", start, end, "failure", {"seconds": outage.to_s - outage.from_s})
        for at, which, nodes in down.resized:
            if which == replica:
                yield instant(track, f"goes on with {nodes} nodes", int(nanoseconds(at)), "failure")


def outages_of(outcome: Outcome, engine: int) -> list[Outage]:
    """When the replica of an engine did not work."""
    if outcome.down is None:
        return []
    replica = _replica_of(outcome, engine)
    return [outage for outage in outcome.down.outages if outage.replica == replica]


def moved_experts(outcome: Outcome) -> dict[int, float]:
    """Seconds for which engines stand still at the beginning of steps, while experts move; by row of the log.

    As the loops have it: when a step ends, and the steps begun so far reach the tokens of the next period,
    every engine's next step is longer by the stall of that period.
    """
    about, tally = outcome.about, outcome.state.tally
    if about is None or about.period_tokens is None or about.period_stall_s is None:
        return {}
    log = tally.log[: min(int(tally.logged[0]), len(tally.log))]
    starts, ends = log[:, LOG_START], log[:, LOG_START] + log[:, LOG_SECONDS]
    served = np.cumsum(log[:, LOG_PREFILL] + log[:, LOG_DECODE])
    found: dict[int, float] = {}
    for tokens, stall in zip(about.period_tokens[1:], about.period_stall_s[1:], strict=True):
        reached = int(np.searchsorted(served, tokens))
        if reached == len(log):
            break
        if stall <= 0:
            continue
        later = ends[ends > starts[reached]]
        for engine in np.unique(log[:, LOG_REPLICA]):
            mine = np.flatnonzero((log[:, LOG_REPLICA] == engine) & (starts >= later.min()))
            if len(mine):
                found[int(mine[0])] = found.get(int(mine[0]), 0.0) + float(stall)
    return found


def replica_name(outcome: Outcome, replica: int) -> str:
    """What a replica is called."""
    layout = outcome.about.layout if outcome.about is not None else None
    if not isinstance(layout, Disaggregated) or outcome.about is None:
        return f"replica {replica}"
    prefill = layout.prefill.count * outcome.about.fleet.replicas
    return f"prefill worker {replica}" if replica < prefill else f"decode worker {replica - prefill}"


def _replica_of(outcome: Outcome, engine: int) -> int:
    """Pipeline stages of a replica are engines of their own; of two pools, those that prefill come first."""
    about = outcome.about
    layout = about.layout if about is not None else None
    if isinstance(layout, Parallelism):
        return engine // layout.pp
    if not isinstance(layout, Disaggregated) or about is None:
        return engine
    replicas = layout.prefill.count * about.fleet.replicas
    engines = replicas * layout.prefill.layout.pp
    if engine < engines:
        return engine // layout.prefill.layout.pp
    return replicas + (engine - engines) // layout.decode.layout.pp
