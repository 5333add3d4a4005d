"""Serve requests over time where some workers prefill and others decode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.correction import Calibration, shipped
from moesim.engine.deployment import Deployment
from moesim.engine.traits import Traits
from moesim.errors import ConfigError
from moesim.hardware.types import Hardware
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.expert_map import ExpertMap
from moesim.model.types import Model
from moesim.prediction import Engine
from moesim.prediction.calibrated import traits_of
from moesim.prediction.kept import deployment_of
from moesim.requests import RequestTrace
from moesim.serving.cluster import Down, Pool
from moesim.serving.failures import Failures, reload_s, replicas_on
from moesim.serving.handing import Pools
from moesim.serving.handover import HandOver, Wires, wires_of
from moesim.serving.outcome import About, Outcome
from moesim.serving.settings import Fleet, Scheduler
from moesim.serving.simulate import LOGGED, Ready, asked_of, prepare
from moesim.serving.state import LOG_REPLICA, LOG_START, Asked, State, new_state
from moesim.trace.types import LoadCounts, RoutingTrace

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PoolsOutcome(Outcome):
    """What happened on two pools; engines and lanes that prefill are numbered before those that decode.

    Parameters
    ----------
    handed_s
        From the end of a request's prefill until its cache was there, ``[requests]``; NaN where none crossed.
    waited_s
        The part of it for which no blocks were free.
    arrived_s
        When the cache was there, ``[requests]``; NaN where none crossed.
    crossed_bytes
        Bytes that were sent for it, ``[requests]``.
    links
        Links between the pools.
    carried_bytes
        Bytes over each of them, ``[links]``.
    pools
        What each pool was, and what its loops left behind.
    down
        What failures did.
    """

    handed_s: F8
    waited_s: F8
    arrived_s: F8
    crossed_bytes: F8
    links: Wires
    carried_bytes: F8
    pools: tuple[Pool, Pool]
    down: Down

    @property
    def link_utilisation(self) -> F8:
        """Part of what the links could have carried until the last token, ``[links]``."""
        return self.carried_bytes / (self.links.capacity * max(self.down.end_s, 1e-300))

    def table(self) -> dict[str, npt.NDArray[Any]]:
        """One row per request, with what its hand-over took."""
        columns = Outcome.table(self)
        lane = self.state.progress["lane"]
        prefill, decode = (pool.rules.lanes for pool in self.pools)
        first = len(self.pools[0].state.lanes)
        there = self.pools[0].engines + (lane - first) // decode
        columns["replica"] = np.where(lane < first, lane // prefill, there)
        columns["handed_s"] = self.handed_s
        columns["waited_s"] = self.waited_s
        columns["crossed_bytes"] = self.crossed_bytes
        return columns


def simulate_pools(
    model: Model,
    hardware: Hardware,
    layout: Disaggregated,
    requests: RequestTrace,
    *,
    engine: Engine | None = None,
    scheduler: Scheduler | None = None,
    fleet: Fleet | None = None,
    trace: RoutingTrace | LoadCounts | None = None,
    plan: ExpertMap | None = None,
    traits: Traits | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    prefill_engine: Engine | None = None,
    prefill_scheduler: Scheduler | None = None,
    hand_over: HandOver | None = None,
    failures: Failures | None = None,
) -> PoolsOutcome:
    """Serve requests on workers that prefill and workers that decode.

    Parameters
    ----------
    model, hardware, layout
        What the workers are.
    requests
        Who arrives when; with a concurrency, the client has no more in flight.
    engine, scheduler, fleet
        Settings; the fleet's replicas are so many times the workers of the layout, and its router sends
        prompts. Decode workers are chosen by fewest requests, those on their way included.
    trace, plan, traits, calibration, seed
        As in `moesim.serving.simulate.simulate`; the placement is that of decode workers.
    prefill_engine, prefill_scheduler
        Settings of prefill workers; those of the others by default.
    hand_over
        How caches cross.
    failures
        Of nodes; replicas are numbered prefill workers first.

    Raises
    ------
    ConfigError
        With every fault of layout and settings.
    InfeasibleError
        If the weights, or a request's cache, do not fit.

    Examples
    --------
    >>> import moesim as ms
    >>> from moesim.requests import generate_requests
    >>> pools = ms.Disaggregated(ms.Workers(ms.Parallelism(), 2), ms.Workers(ms.Parallelism(), 1))
    >>> outcome = simulate_pools(
    ...     ms.load_model("gpt-oss-20b"),
    ...     ms.load_hardware("h100-sxm-8"),
    ...     pools,
    ...     generate_requests(100, "poisson:20", 512, 64),
    ... )
    >>> bool(outcome.done.all()), bool((outcome.handed_s < 0.1).all())
    (True, True)
    """
    ready = prepare_pools(
        model, hardware, layout, requests, engine=engine, scheduler=scheduler, fleet=fleet, trace=trace,
        plan=plan, traits=traits, calibration=calibration, seed=seed, prefill_engine=prefill_engine,
        prefill_scheduler=prefill_scheduler, hand_over=hand_over, failures=failures,
    )  # fmt: skip
    return ready.serve(requests)


@dataclass(frozen=True, slots=True, eq=False)
class ReadyPools:
    """Two pools before their first request.

    Parameters
    ----------
    about
        What they are.
    prefill, decode
        The pools.
    wires, how
        Links between them, and how caches cross.
    failures
        Of nodes.
    on
        Replicas on each node.
    reload_s
        Seconds to load the weights of each replica.
    stages
        Engines of each replica.
    deployments, longest
        A worker of each pool, and tokens of the longest request.
    """

    about: About
    prefill: Ready
    decode: Ready
    wires: Wires
    how: HandOver
    failures: Failures | None
    on: tuple[tuple[int, ...], ...]
    reload_s: F8
    stages: tuple[int, ...]
    deployments: tuple[Deployment, Deployment]
    longest: int

    def sized(self, layout: Disaggregated, hardware: Hardware, fleet: Fleet) -> ReadyPools:
        """Other numbers of the same workers, with the tables of step times that are there.

        Parameters
        ----------
        layout
            Of the same workers.
        hardware
            The same machine, with as many nodes as they need.
        fleet
            So many times the workers of the layout.

        Raises
        ------
        ConfigError
            If they are more than the nodes hold.
        """
        found = layout.faults(None, hardware) + fleet.faults()
        if found:
            raise ConfigError(found)
        return _together(
            layout, hardware, fleet, (self.prefill, self.decode), self.deployments, self.longest, self.how,
            self.failures,
        )  # fmt: skip

    def serve(self, requests: RequestTrace, seed: int | None = None) -> PoolsOutcome:
        """Serve requests, none longer than the pools were made for.

        Parameters
        ----------
        requests
            Who arrives when.
        seed
            Of drafts and routers; that of the pools by default.
        """
        asked = asked_of(requests)
        never = np.full(len(requests), np.inf)
        shared = {
            "hash_tokens": requests.prefix_block_tokens or 0,
            "seed": self.decode.rules.seed if seed is None else seed,
        }
        prefill = _pool(self.prefill, asked, prefill_only=True, closed=requests.concurrency or 0, **shared)
        decode = _pool(self.decode, asked._replace(arrival_s=never), closed=0, **shared)
        pools = Pools(
            prefill, decode, self.wires, self.how, self.failures, self.on, self.reload_s, self.stages
        )
        down = pools.run()
        return PoolsOutcome(
            requests, merged(prefill.state, decode.state), decode.rules, self.about,
            handed_s=pools.handed_s, waited_s=pools.waited_s, arrived_s=pools.arrived_s,
            crossed_bytes=pools.crossed, links=self.wires, carried_bytes=pools.links.carried,
            pools=(prefill, decode), down=down,
        )  # fmt: skip


def prepare_pools(
    model: Model,
    hardware: Hardware,
    layout: Disaggregated,
    requests: RequestTrace,
    *,
    engine: Engine | None = None,
    scheduler: Scheduler | None = None,
    fleet: Fleet | None = None,
    trace: RoutingTrace | LoadCounts | None = None,
    plan: ExpertMap | None = None,
    traits: Traits | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    prefill_engine: Engine | None = None,
    prefill_scheduler: Scheduler | None = None,
    hand_over: HandOver | None = None,
    failures: Failures | None = None,
    longest: int | None = None,
) -> ReadyPools:
    """All of a simulation that does not depend on when requests come; see `simulate_pools`.

    Parameters
    ----------
    model, hardware, layout, requests, engine, scheduler, fleet, trace, plan, traits, calibration, seed
        As there, with its errors.
    prefill_engine, prefill_scheduler, hand_over, failures
        As there.
    longest
        Tokens of a longer request that may come.
    """
    engine, fleet, how = engine or Engine(), fleet or Fleet(), hand_over or HandOver()
    pools = layout.prefill, layout.decode
    counts = [pool.count * fleet.replicas for pool in pools]
    found = layout.faults(model, hardware, plan.redundant if plan is not None else 0) + fleet.faults()
    found += how.faults()
    if failures is not None:
        found += failures.faults(sum(counts))
    if found:
        raise ConfigError(found)
    calibration = calibration or shipped()
    engines = prefill_engine or engine, engine
    schedulers = prefill_scheduler or scheduler, scheduler
    all_traits = [traits or traits_of(calibration, one.backend) for one in engines]
    plans = None, plan
    ready = [
        prepare(
            model, hardware, pool.layout, requests, engine=one, scheduler=settings,
            fleet=replace(fleet, replicas=count), trace=trace, plan=placed, traits=traits_, seed=seed,
            longest=longest,
        )
        for pool, one, settings, count, traits_, placed in zip(
            pools, engines, schedulers, counts, all_traits, plans, strict=True
        )
    ]  # fmt: skip
    deployments = [
        deployment_of(model, hardware, pool.layout, one, trace, placed, seed, traits_)
        for pool, one, traits_, placed in zip(pools, engines, all_traits, plans, strict=True)
    ]
    total = requests.input_tokens.astype(np.int64) + requests.output_tokens
    longest = max(int(total.max()), longest or 0)
    both = ready[0], ready[1]
    return _together(
        layout, hardware, fleet, both, (deployments[0], deployments[1]), longest, how, failures
    )  # fmt: skip


def _together(
    layout: Disaggregated,
    hardware: Hardware,
    fleet: Fleet,
    ready: tuple[Ready, Ready],
    deployments: tuple[Deployment, Deployment],
    longest: int,
    how: HandOver,
    failures: Failures | None,
) -> ReadyPools:
    """Workers of either kind, as many as the layout has, on a machine."""
    counts = [pool.count * fleet.replicas for pool in (layout.prefill, layout.decode)]
    prefill, decode = (
        replace(
            one,
            about=replace(
                one.about,
                hardware=hardware,
                fleet=replace(fleet, replicas=count),
                engines=count * deployment.layout.pp,
            ),
        )
        for one, deployment, count in zip(ready, deployments, counts, strict=True)
    )
    about = replace(
        decode.about, layout=layout, fleet=fleet, engines=prefill.about.engines + decode.about.engines,
        notes=tuple(dict.fromkeys((*prefill.about.notes, *decode.about.notes))),
    )  # fmt: skip
    layouts = [one.layout for one, count in zip(deployments, counts, strict=True) for _ in range(count)]
    load_s = [
        reload_s(deployment, (failures or Failures()).reload, one.about.engine)
        for deployment, one in zip(deployments, ready, strict=True)
    ]
    wires = wires_of(*deployments, (counts[0], counts[1]), longest, how)
    return ReadyPools(
        about, prefill, decode, wires, how, failures,
        replicas_on([one.world for one in layouts], hardware.devices_per_node),
        np.repeat(load_s, counts), tuple(one.pp for one in layouts), deployments, longest,
    )  # fmt: skip


def _pool(ready: Ready, asked: Asked, **settings: Any) -> Pool:  # noqa: ANN401 (of any field)
    rules = ready.rules._replace(**settings)
    state = new_state(asked, ready.about.engines, rules.lanes, rules.most, ready.blocks, LOGGED, rules)
    return Pool(state, rules, ready.prices)


def merged(prefill: State, decode: State) -> State:
    """Both pools as one: engines and lanes of the second are numbered after those of the first."""
    one, progress = prefill.progress, decode.progress.copy()
    asked = decode.asked.copy()
    asked["arrival_s"] = prefill.asked["arrival_s"]
    there = progress["lane"] >= 0
    progress["lane"] = np.where(there, progress["lane"] + len(prefill.lanes), one["lane"])
    progress["preempted"] += one["preempted"]
    for name in ("cached", "sent_s", "scheduled_s"):
        progress[name] = one[name]
    logs = [
        part.tally.log[: min(int(part.tally.logged[0]), len(part.tally.log))] for part in (prefill, decode)
    ]
    logs[1] = logs[1].copy()
    logs[1][:, LOG_REPLICA] += len(prefill.replicas)
    log = np.concatenate(logs)
    tally = decode.tally._replace(
        gaps=prefill.tally.gaps + decode.tally.gaps,
        sums=np.concatenate([prefill.tally.sums, decode.tally.sums]),
        log=log[np.argsort(log[:, LOG_START], kind="stable")],
        logged=prefill.tally.logged + decode.tally.logged,
    )
    wide = max(prefill.running.shape[1], decode.running.shape[1])
    running, leaving = (
        np.concatenate([np.pad(x, ((0, 0), (0, wide - x.shape[1]))) for x in pair])
        for pair in ((prefill.running, decode.running), (prefill.leaving, decode.leaving))
    )
    return decode._replace(
        asked=asked,
        progress=progress,
        lanes=_joined(prefill.lanes, decode.lanes),
        running=running,
        leaving=leaving,
        load=np.concatenate([prefill.load, decode.load]),
        replicas=_joined(prefill.replicas, decode.replicas),
        tally=tally,
    )


def _joined(one: Any, other: Any) -> Any:  # noqa: ANN401 (records)
    return np.concatenate([one, other]).view(np.recarray)
