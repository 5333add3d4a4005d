"""Serve requests over time on a fleet, and say what each of them saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from moesim.correction import Calibration, shipped
from moesim.engine.deployment import Deployment
from moesim.engine.load import Load
from moesim.engine.traits import Traits
from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.hardware.types import Hardware
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.prediction import Engine
from moesim.prediction.calibrated import traits_of
from moesim.prediction.kept import deployment_of
from moesim.prediction.question import check_routing
from moesim.prediction.room import check_room
from moesim.requests import RequestTrace
from moesim.serving.admit import lengths_of
from moesim.serving.kernel.fleet import CURSOR, run
from moesim.serving.kernel.price import Prices
from moesim.serving.longest import spread_of
from moesim.serving.outcome import About, Outcome
from moesim.serving.periods import Window, periods_of
from moesim.serving.pricing import prices_of
from moesim.serving.settings import ADMISSIONS, ORDERS, ROUTERS, Fleet, Scheduler
from moesim.serving.state import Asked, Rules, new_state
from moesim.trace.types import LoadCounts, RoutingTrace

if TYPE_CHECKING:
    from moesim.serving.failures import Failures
    from moesim.serving.handover import HandOver

#: Steps kept one by one for a timeline, unless more are asked for.
LOGGED = 100_000
#: Periods of drifting routing; the last of so many goes on.
MOST_PERIODS = 10_000
#: What makes a table of step times, called as `moesim.serving.pricing.prices_of` is.
Pricing = Callable[[Deployment, int, int, int, Scheduler], Prices]


def simulate(
    model: Model,
    hardware: Hardware,
    layout: Parallelism | Disaggregated,
    requests: RequestTrace,
    *,
    engine: Engine | None = None,
    scheduler: Scheduler | None = None,
    fleet: Fleet | None = None,
    trace: RoutingTrace | LoadCounts | None = None,
    plan: ExpertMap | None = None,
    traits: Traits | None = None,
    calibration: Calibration | None = None,
    windows: Sequence[Window] | None = None,
    pricing: Pricing = prices_of,
    failures: Failures | None = None,
    hand_over: HandOver | None = None,
    seed: int = 0,
) -> Outcome:
    """Serve requests step by step.

    Parameters
    ----------
    model, hardware, layout
        What every replica is: one engine, or two pools, one that prefills and one that decodes.
    requests
        Who arrives when; with a concurrency, the client has no more in flight.
    engine, scheduler, fleet
        Settings; those of the engine's backend, and one replica, by default.
    trace, plan
        Routing and placement of experts.
    traits
        What the engine adds to its kernels; that of the calibration by default.
    calibration
        What measured runs taught; the shipped one by default, `moesim.correction.calibration_of("none")` for
        physics alone.
    windows
        Routing that changes with the tokens served, and the placement in force; see
        `moesim.serving.periods`. When they are over they begin again.
    pricing
        What makes the table of step times; that of the deployment by default.
    failures
        Of nodes; see `moesim.serving.failures`.
    hand_over
        How caches cross between two pools; see `moesim.serving.handover`.
    seed
        Of routing draws, drafts and routers.

    Raises
    ------
    ConfigError
        With every fault of layout and settings, or if a request is longer than the model's context.
    InfeasibleError
        If the weights, or a request's cache, do not fit; with the resource and how much is missing.

    Examples
    --------
    >>> import moesim as ms
    >>> from moesim.requests import generate_requests
    >>> outcome = ms.simulate(
    ...     ms.load_model("gpt-oss-20b"),
    ...     ms.load_hardware("h100-sxm-8"),
    ...     ms.Parallelism(),
    ...     generate_requests(100, "poisson:20", 512, 64),
    ... )
    >>> bool(outcome.done.all())
    True
    """
    if isinstance(layout, Disaggregated):
        from moesim.serving.pools import simulate_pools

        if windows or pricing is not prices_of:
            raise ConfigError(
                Fault("goes with one pool", "windows, pricing", None, "without --prefill-workers")
            )
        return simulate_pools(
            model, hardware, layout, requests, engine=engine, scheduler=scheduler, fleet=fleet, trace=trace,
            plan=plan, traits=traits, calibration=calibration, seed=seed, hand_over=hand_over,
            failures=failures,
        )  # fmt: skip
    ready = prepare(
        model, hardware, layout, requests, engine=engine, scheduler=scheduler, fleet=fleet, trace=trace,
        plan=plan, traits=traits, calibration=calibration, windows=windows, pricing=pricing,
        failures=failures, seed=seed,
    )  # fmt: skip
    return ready.serve(requests)


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A fleet before its first request.

    Parameters
    ----------
    about
        What it is.
    rules, prices
        Settings and step times as the loops take them.
    blocks
        Of the cache, of a lane.
    failures, reload_s
        Of nodes, and seconds to load weights after one.
    """

    about: About
    rules: Rules
    prices: Prices
    blocks: int
    failures: Failures | None = None
    reload_s: float = 0.0

    def serve(self, requests: RequestTrace, seed: int | None = None) -> Outcome:
        """Serve requests, none longer than the fleet was made for.

        Parameters
        ----------
        requests
            Who arrives when.
        seed
            Of drafts and routers; that of the fleet by default.
        """
        rules = self.rules._replace(
            hash_tokens=requests.prefix_block_tokens or 0,
            closed=requests.concurrency or 0,
            seed=self.rules.seed if seed is None else seed,
        )
        if self.failures is not None:
            return self._failing(requests, rules)
        outcome = follow(requests, rules, self.prices, self.about.engines, self.blocks)
        return replace(outcome, about=self.about)

    def _failing(self, requests: RequestTrace, rules: Rules) -> Outcome:
        from moesim.serving.cluster import simulate_failing
        from moesim.serving.failures import replicas_on

        about, layout = self.about, self.about.layout
        assert isinstance(layout, Parallelism)
        many = about.fleet.replicas
        state = new_state(
            asked_of(requests), about.engines, rules.lanes, rules.most, self.blocks, LOGGED, rules
        )
        down = simulate_failing(
            state, rules, self.prices, self.failures,
            nodes=replicas_on([layout.world] * many, about.hardware.devices_per_node),
            reload_s=self.reload_s, stages=[layout.pp] * many,
        )  # fmt: skip
        return Outcome(requests, state, rules, about, down)


def prepare(
    model: Model,
    hardware: Hardware,
    layout: Parallelism,
    requests: RequestTrace,
    *,
    longest: int | None = None,
    engine: Engine | None = None,
    scheduler: Scheduler | None = None,
    fleet: Fleet | None = None,
    trace: RoutingTrace | LoadCounts | None = None,
    plan: ExpertMap | None = None,
    traits: Traits | None = None,
    calibration: Calibration | None = None,
    windows: Sequence[Window] | None = None,
    pricing: Pricing = prices_of,
    failures: Failures | None = None,
    seed: int = 0,
) -> Ready:
    """All of a simulation that does not depend on when requests come.

    Parameters
    ----------
    requests
        Lengths that will be asked for: the cache is divided for their mean, and step times reach as far as
        the longest.
    longest
        Tokens of a longer request that may come.
    model, hardware, layout, engine, scheduler, fleet
        As in `simulate`, with its errors.
    trace, plan, traits, calibration, windows, pricing, failures, seed
        As in `simulate`, with its errors.
    """
    engine, fleet = engine or Engine(), fleet or Fleet()
    check_settings(model, hardware, layout, engine, scheduler, fleet, plan, failures)
    scheduler = scheduler or Scheduler.of(engine.backend)
    if trace is not None:
        check_routing(trace, model)
    if traits is None:
        traits = traits_of(shipped() if calibration is None else calibration, engine.backend)
    deployment = deployment_of(model, hardware, layout, engine, trace, plan, seed, traits)
    longest = max(lengths_of(requests, model), longest or 0)
    # The microbatches of a pipeline run side by side, each a whole step long, and share what there is.
    stages = layout.pp
    blocks = _blocks(deployment, requests, longest, scheduler, engine) // stages
    budget = int(engine.chunk_tokens)
    most = max(min(int(engine.max_sequences) // stages, budget), 1)
    if pricing is prices_of and deployment.one_attention:
        # A kernel of attention that waits for the longest sequence.
        pricing = partial(prices_of, spread=spread_of(requests))
    prices = pricing(deployment, budget, most, longest, scheduler)
    if windows:
        prices = _drifting(prices, deployment, windows, budget, most, requests)
    rules = rules_of(scheduler, fleet, layout.dp, budget, most, requests, engine, seed)
    if rules.swap:
        rules = rules._replace(swap_s=_swap_s(hardware, _block_bytes(deployment, requests, scheduler)))
    notes = list(model.warnings)
    if stages > 1:
        notes.append(f"a pipeline of {stages} is served as {stages} engines that share its cache evenly")
    drift = (prices.period_tokens, prices.period_stall_s) if windows else ()
    about = About(
        model.name, hardware, layout, engine, scheduler, fleet, fleet.replicas * stages, traits.request_s,
        traits.first_steps, seed, tuple(notes), *drift,
    )  # fmt: skip
    load_s = 0.0
    if failures is not None:
        from moesim.serving.failures import reload_s

        load_s = reload_s(deployment, failures.reload, engine)
    return Ready(about, rules, prices, blocks, failures, load_s)


def check_settings(
    model: Model,
    hardware: Hardware,
    layout: Parallelism,
    engine: Engine,
    scheduler: Scheduler | None,
    fleet: Fleet,
    plan: ExpertMap | None,
    failures: Failures | None = None,
) -> None:
    """Raise `ConfigError` with every fault of layout and settings."""
    found = layout.faults(model, hardware, plan.redundant if plan is not None else 0)
    found += engine.faults() + fleet.faults() + (scheduler.faults() if scheduler is not None else [])
    if failures is not None:
        found += failures.faults(fleet.replicas)
    if plan is not None and plan.ranks != layout.ep:
        found.append(Fault(f"the placement is for {plan.ranks} ranks", "--ep", layout.ep, str(plan.ranks)))
    if found:
        raise ConfigError(found)


def _drifting(
    prices: Prices,
    deployment: Deployment,
    windows: Sequence[Window],
    budget: int,
    most: int,
    requests: RequestTrace,
) -> Prices:
    """Prices whose experts are those of each window, again and again until all tokens are served."""
    periods = periods_of(deployment, windows, budget, most)
    tokens = int(requests.input_tokens.sum(dtype=np.int64)) + int(requests.output_tokens.sum(dtype=np.int64))
    times = -(-tokens // max(int(periods.total), 1))
    return periods.repeated(max(min(times, MOST_PERIODS // len(windows)), 1)).on(prices)


def _blocks(
    deployment: Deployment, requests: RequestTrace, longest: int, scheduler: Scheduler, engine: Engine
) -> int:
    """Blocks of a lane's cache; raises `InfeasibleError` if weights, or the longest request, do not fit."""
    memory = deployment.memory(engine.chunk_tokens, engine.memory_utilisation)
    total = requests.input_tokens.astype(np.int64) + requests.output_tokens
    place = int(total.argmax())
    ends = [np.array([float(tokens[place])]) for tokens in (requests.input_tokens, requests.output_tokens)]
    check_room(deployment, Load(ends[0], ends[1], np.ones(1)), memory, engine)
    each = _block_bytes(deployment, requests, scheduler)
    blocks = int(memory.cache_budget_bytes / each) if each > 0 else 2**40
    stages = deployment.layout.pp
    needed = -(-longest // scheduler.block_tokens)
    if blocks // stages < needed and stages > 1:
        room = blocks // stages * scheduler.block_tokens
        raise InfeasibleError(
            f"request {place} of {longest} tokens does not fit in the cache of a microbatch, which holds "
            f"{room}: {longest - room} tokens short",
            resource="cache",
            needed=longest,
            available=room,
            details={"request": place, "short_tokens": longest - room},
        )
    return max(blocks, needed * stages)


def _block_bytes(deployment: Deployment, requests: RequestTrace, scheduler: Scheduler) -> float:
    """Bytes of a block on every device.

    Windows and states make the cache less than proportional to length: blocks are as large as requests of
    these lengths need on average.
    """
    total = requests.input_tokens.astype(np.int64) + requests.output_tokens
    lengths, counts = np.unique(total, return_counts=True)
    held = -(-lengths // scheduler.block_tokens)
    return float(counts @ deployment.cache_bytes(lengths.astype(np.float64))) / float(counts @ held)


def _swap_s(hardware: Hardware, block_bytes: float) -> float:
    """Seconds to copy a block to the host or back: every device moves its part over a link of its own."""
    link = hardware.host_link
    if link is None:
        fault = Fault("has no host link to swap over", "--hardware", hardware.name, "recompute")
        raise ConfigError([fault])
    return block_bytes / (link.bandwidth_bytes_per_s * link.efficiency)


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
        caching=scheduler.prefix_cache,
        eager=scheduler.found_when_planned,
        swap=scheduler.preemption == "swap",
        long_prompt=scheduler.long_prompt_tokens,
        mixed=scheduler.mixed_chunk,
        share_low=min(scheduler.least_share, scheduler.output_share),
        share_fall=max(scheduler.output_share - scheduler.least_share, 0.0) / scheduler.share_steps,
        ahead=scheduler.asynchronous,
        late=scheduler.asynchronous and scheduler.extra_step,
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
