"""Serve requests over time on a fleet, and say what each of them saw."""

from __future__ import annotations

import numpy as np

from moesim.engine.traits import Traits
from moesim.errors import InfeasibleError
from moesim.hardware.types import Hardware
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.prediction import Engine
from moesim.prediction.kept import deployment_of
from moesim.requests import RequestTrace
from moesim.serving.kernel.fleet import CURSOR, run
from moesim.serving.kernel.price import Prices
from moesim.serving.outcome import Outcome
from moesim.serving.pricing import prices_of
from moesim.serving.settings import ADMISSIONS, ORDERS, ROUTERS, Fleet, Scheduler, check_settings
from moesim.serving.state import Asked, Rules, new_state
from moesim.trace.types import LoadCounts, RoutingTrace

#: Steps kept one by one for a timeline, unless more are asked for.
LOGGED = 100_000


def simulate(
    model: Model,
    hardware: Hardware,
    layout: Parallelism,
    requests: RequestTrace,
    *,
    engine: Engine | None = None,
    scheduler: Scheduler | None = None,
    fleet: Fleet | None = None,
    trace: RoutingTrace | LoadCounts | None = None,
    plan: ExpertMap | None = None,
    traits: Traits | None = None,
    seed: int = 0,
) -> Outcome:
    """Serve requests step by step.

    Parameters
    ----------
    model, hardware, layout
        What every replica is.
    requests
        Who arrives when; with a concurrency, the client has no more in flight.
    engine, scheduler, fleet
        Settings; those of the engine's backend, and one replica, by default.
    trace, plan
        Routing and placement of experts.
    traits
        What the engine adds to its kernels; nothing by default.
    seed
        Of routing draws, drafts and routers.

    Raises
    ------
    ConfigError
        With every fault of layout and settings.
    InfeasibleError
        If the weights, or a request's cache, do not fit.
    """
    engine, fleet = engine or Engine(), fleet or Fleet()
    scheduler = scheduler or Scheduler.of(engine.backend)
    check_settings(scheduler, fleet)
    layout.check(model, hardware)
    deployment = deployment_of(model, hardware, layout, engine, trace, plan, seed, traits)
    longest = int((requests.input_tokens.astype(np.int64) + requests.output_tokens).max())
    memory = deployment.memory(engine.chunk_tokens, engine.memory_utilisation)
    each = float(deployment.cache_bytes(np.array([float(longest)]))[0]) / -(
        -longest // scheduler.block_tokens
    )
    blocks = int(max(memory.cache_budget_bytes, 0.0) / each)
    if blocks * scheduler.block_tokens < longest:
        raise InfeasibleError(
            f"a request of {longest} tokens does not fit beside the weights",
            resource="cache",
            needed=longest,
            available=blocks * scheduler.block_tokens,
        )
    budget = int(engine.chunk_tokens)
    most = min(int(engine.max_sequences), budget)
    prices = prices_of(deployment, budget, most, longest, scheduler)
    rules = rules_of(scheduler, fleet, layout.dp, budget, most, requests, engine, seed)
    return follow(requests, rules, prices, fleet.replicas, blocks)


def rules_of(
    scheduler: Scheduler,
    fleet: Fleet,
    lanes: int,
    budget: int,
    most: int,
    requests: RequestTrace,
    engine: Engine,
    seed: int,
) -> Rules:
    """Settings as the loops take them."""
    speculation = engine.speculation
    return Rules(
        lanes=lanes,
        budget=budget,
        most=most,
        block=scheduler.block_tokens,
        hash_tokens=requests.prefix_block_tokens or 0,
        chunked=scheduler.chunked,
        prefill_first=scheduler.prefill_first,
        order=ORDERS.index(scheduler.order),
        admission=ADMISSIONS.index(scheduler.admission),
        share=scheduler.output_share,
        swap_s=0.0,
        drafts=speculation.tokens,
        acceptance=speculation.acceptance,
        seed=seed,
        router=ROUTERS.index(fleet.router),
        closed=requests.concurrency or 0,
    )


def asked_of(requests: RequestTrace) -> Asked:
    """Requests as the loops take them."""
    n = len(requests)
    hashes, ptr = requests.prefix_hashes, requests.prefix_ptr
    return Asked(
        requests.arrival_s,
        requests.input_tokens.astype(np.int32),
        requests.output_tokens.astype(np.int32),
        np.zeros(n, np.int32),
        np.zeros(0, np.int64) if hashes is None else hashes,
        np.zeros(n + 1, np.int64) if ptr is None else ptr,
        np.zeros(0, np.int32) if requests.session is None else requests.session,
    )


def follow(requests: RequestTrace, rules: Rules, prices: Prices, replicas: int, blocks: int) -> Outcome:
    """Run the loops until every request is done."""
    asked = asked_of(requests)
    state = new_state(asked, replicas, rules.lanes, rules.most, blocks, LOGGED, rules)
    run(state, rules, prices, np.zeros(CURSOR, np.int64), np.inf, False)
    return Outcome(requests, state, rules)
