"""Serving from one box whose experts do not fit its device: steps from replays of routing with time.

What experts of a step take depends on what is on the device already, on what is fetched ahead, and on who
runs what. `moesim.offload` replays that for steps of one size after another; a table of these over sizes
prices the steps of a simulation. Everything beside the experts is the device's own, and is added: copies that
run beside attention were timed beside that of the recording's contexts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.deployment import Deployment
from moesim.engine.memory import UTILISATION, cached_bytes, cached_layers, memory_use
from moesim.engine.traits import Traits
from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.layout.parallelism import Parallelism
from moesim.model import bytes_per_param
from moesim.offload.box import CHUNK_TOKENS, Box
from moesim.offload.prepare import prompts_of
from moesim.offload.run import run
from moesim.ops import LayerKinds
from moesim.policy import Composition, Steps
from moesim.policy.batchers.gather import gather
from moesim.prediction import Engine
from moesim.requests import RequestTrace
from moesim.serving.admit import lengths_of
from moesim.serving.grids import octaves
from moesim.serving.kernel.price import Prices
from moesim.serving.outcome import About, Outcome
from moesim.serving.parts import DECODE, PREFILL, Parts
from moesim.serving.pricing import on_lines, tables_of
from moesim.serving.settings import Fleet, Scheduler
from moesim.serving.simulate import Ready, rules_of
from moesim.serving.state import LOG_DECODE, LOG_PREFILL, LOG_START
from moesim.serving.tables import packed
from moesim.trace.types import RoutingTrace

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

#: Steps that are replayed of each size, at most, the first quarter of which only fills the device.
STEPS = 64
WARMING = 4


@dataclass(frozen=True, slots=True, eq=False)
class Offloaded:
    """Steps of a box, by their tokens; first index: steps that only decode, and steps that read.

    Parameters
    ----------
    prices
        Of steps.
    tokens
        Of a step, ``[sizes]``.
    experts_s
        Seconds by which experts lengthen a step, ``[2, sizes]``.
    hits, accesses
        Experts found on the device or on their way, and experts asked for, over all layers of a step,
        ``[2, sizes]``.
    moved_bytes
        Copied to the device in a step, ``[2, sizes]``.
    """

    prices: Prices
    tokens: F8
    experts_s: F8
    hits: F8
    accesses: F8
    moved_bytes: F8

    def hit_ratio(self, log: F8) -> float:
        """Experts found over experts asked for, of the steps of a simulation.

        Parameters
        ----------
        log
            Rows of `moesim.serving.state.Tally.log`.
        """
        return float(self._of(log, self.hits).sum() / max(self._of(log, self.accesses).sum(), 1e-300))

    def during(self, log: F8, edges_s: F8) -> tuple[F8, F8]:
        """Hit ratio and bytes moved of the steps that begin between `edges_s`, each ``[edges - 1]``."""
        place = np.searchsorted(edges_s, log[:, LOG_START], side="right") - 1
        inside = (place >= 0) & (place < len(edges_s) - 1)

        def total(table: F8) -> F8:
            each = self._of(log[inside], table)
            return np.asarray(np.bincount(place[inside], each, minlength=len(edges_s) - 1))

        accesses = total(self.accesses)
        ratio = np.divide(total(self.hits), accesses, out=np.full(len(accesses), np.nan), where=accesses > 0)
        return ratio, total(self.moved_bytes)

    def _of(self, log: F8, table: F8) -> F8:
        """A table at the steps of a log."""
        tokens, reads = log[:, LOG_PREFILL] + log[:, LOG_DECODE], log[:, LOG_PREFILL] > 0
        both = on_lines(tokens, self.tokens, table)
        return np.asarray(np.where(reads, both[1], both[0]))


def offloaded(
    box: Box,
    composition: Composition,
    trace: RoutingTrace,
    budget: int,
    most: int,
    longest: int,
    scheduler: Scheduler,
    *,
    train: RoutingTrace | None = None,
    slots: int | None = None,
    traits: Traits | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> Offloaded:
    """Price the steps of a box.

    Parameters
    ----------
    box, composition
        The machine, and what decides on it; the composition's batcher is put aside.
    trace
        Routing, replayed in steps of one size after another.
    budget, most, longest
        As for `moesim.serving.pricing.prices_of`.
    scheduler
        Says whether the host plans ahead.
    train
        A disjoint trace that tables are learnt from.
    slots
        Experts that the device holds, as for `moesim.offload.run`.
    traits
        What the engine adds.
    steps
        Replayed of each size, at most.
    seed
        Of what starts at random.

    Raises
    ------
    ConfigError
        If trace, model, composition and box do not fit together, or the trace is too short to be replayed.
    """
    if trace.num_tokens < 2 * WARMING:
        raise ConfigError(Fault("has too few tokens", trace.source or "trace", trace.num_tokens, "8 or more"))
    deployment = Deployment(
        box.model,
        box.hardware,
        Parallelism(),
        box.precision,
        traits=traits or Traits(),
        launch_s=box.launch_s,
    )
    tokens = octaves(1.0, float(budget))
    decoded = int(octaves(1.0, float(min(most, budget)))[-1])
    rows = np.zeros((4, 2, len(tokens)))
    for i, size in enumerate(tokens.astype(int).tolist()):
        for phase, kind in ((DECODE, 0), (PREFILL, 1)):
            if phase == DECODE and size > decoded:
                # Never asked for.
                rows[:, kind, i] = rows[:, kind, i - 1]
                continue
            rows[:, kind, i] = _replayed(box, composition, trace, size, phase, train, slots, steps, seed)

    def experts(_: float) -> tuple[F8, F8]:
        nothing = np.zeros_like(rows[0])
        return tokens, np.stack([nothing, rows[0], nothing], axis=1)

    tables = tables_of(
        Parts(deployment), 1.0, float(budget), float(most), float(longest), 1.0, experts=experts
    )
    prices = packed(tables, host_s=deployment.traits.host_s, hidden=scheduler.asynchronous)
    return Offloaded(prices, tokens, *rows)


def cache_bytes(box: Box) -> float:
    """Bytes of the device that neither experts nor anything else takes: room for the cache."""
    use = memory_use(
        box.model,
        LayerKinds.of(box.model),
        Parallelism(),
        box.precision,
        box.hardware,
        chunk_tokens=CHUNK_TOKENS,
        utilisation=UTILISATION,
    )
    moe = box.moe
    params = box.model.hidden * moe.intermediate * moe.matrices
    every = params * bytes_per_param(box.precision.weight("expert")) * moe.num_experts
    return use.cache_budget_bytes + every * len(box.model.moe_layer_ids) - box.expert_bytes


def prepare_offloaded(
    box: Box,
    composition: Composition,
    trace: RoutingTrace,
    requests: RequestTrace,
    *,
    longest: int | None = None,
    engine: Engine | None = None,
    scheduler: Scheduler | None = None,
    train: RoutingTrace | None = None,
    slots: int | None = None,
    traits: Traits | None = None,
    seed: int = 0,
) -> tuple[Ready, Offloaded]:
    """A box before its first request, and the tables of its steps.

    Parameters
    ----------
    box, composition, trace, train, slots, traits
        As in `offloaded`.
    requests
        Lengths that will be asked for.
    longest
        Tokens of a longer request that may come.
    engine, scheduler
        Settings; those of the engine's backend by default, with chunks of at most 2048 tokens, for which the
        box keeps room.
    seed
        Of what starts at random, and of routers.

    Raises
    ------
    ConfigError
        As `offloaded` does.
    InfeasibleError
        If the cache has no room for the longest request.
    """
    engine = engine or Engine(chunk_tokens=CHUNK_TOKENS)
    scheduler, traits = scheduler or Scheduler.of(engine.backend), traits or Traits()
    longest, block = max(lengths_of(requests, box.model), longest or 0), scheduler.block_tokens
    budget = int(min(engine.chunk_tokens, CHUNK_TOKENS))
    most = min(int(engine.max_sequences), budget)
    layers = cached_layers(LayerKinds.of(box.model), Parallelism())
    each = float(cached_bytes(layers, box.precision, np.array([float(longest)]))[0]) / -(-longest // block)
    blocks = int(max(cache_bytes(box), 0.0) / each)
    if blocks * block < longest:
        raise InfeasibleError(
            f"a request of {longest} tokens does not fit beside the experts",
            resource="cache",
            needed=longest,
            available=blocks * block,
        )
    found = offloaded(
        box, composition, trace, budget, most, longest, scheduler,
        train=train, slots=slots, traits=traits, seed=seed,
    )  # fmt: skip
    rules = rules_of(scheduler, Fleet(), 1, budget, most, requests, engine, seed)
    about = About(
        box.model.name, box.hardware, Parallelism(), engine, scheduler, Fleet(), 1, traits.request_s,
        traits.first_steps, seed, tuple(box.model.warnings),
    )  # fmt: skip
    return Ready(about, rules, found.prices, blocks), found


def serve_offloaded(
    box: Box,
    composition: Composition,
    trace: RoutingTrace,
    requests: RequestTrace,
    *,
    engine: Engine | None = None,
    scheduler: Scheduler | None = None,
    train: RoutingTrace | None = None,
    traits: Traits | None = None,
    seed: int = 0,
) -> tuple[Outcome, Offloaded]:
    """Serve requests step by step on a box.

    Parameters
    ----------
    box, composition, trace, requests, engine, scheduler, train, traits, seed
        As in `prepare_offloaded`, with its errors.

    Returns
    -------
    tuple
        What happened, and the tables of its steps, which know what was found on the device in each.
    """
    ready, found = prepare_offloaded(
        box, composition, trace, requests, engine=engine, scheduler=scheduler, train=train, traits=traits,
        seed=seed,
    )  # fmt: skip
    return ready.serve(requests), found


class _Fixed:
    """A batcher of steps that were chosen before."""

    def __init__(self, rows: I8, bounds: I8) -> None:
        self.rows, self.bounds = rows, bounds

    def form(self, trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
        """These steps."""
        return gather(trace, self.rows, self.bounds, kept)


def _replayed(
    box: Box,
    composition: Composition,
    trace: RoutingTrace,
    size: int,
    phase: int,
    train: RoutingTrace | None,
    slots: int | None,
    steps: int,
    seed: int,
) -> F8:
    """Seconds, hits, accesses and bytes to the device of a step of one size, ``[4]``."""
    part, rows = _steps_of(trace, size, phase, steps)
    many = len(rows) // size
    bounds = np.arange(many + 1, dtype=np.int64) * size
    one = replace(composition, batcher=_Fixed(rows, bounds))

    def until(last: int) -> tuple[F8, F8]:
        some = replace(one, batcher=_Fixed(rows[: last * size], bounds[: last + 1]))
        found = run(some, part, box, train=train, slots=slots, seed=seed)
        return found.ends, np.array(
            [float(found.hits), float(found.accesses), float(found.bytes_moved["to_device"])]
        )

    ends, whole = until(many)
    warm = many // WARMING
    _, filled = until(warm) if warm else (ends, np.zeros(3))
    formed = (one if train is None else one.fit(train, part)).steps(part)
    beside = box.rest(formed.phase, formed.step_tokens, formed.context, prompts_of(formed, part))
    rest = beside.before[beside.piece].sum(axis=0) + beside.beside[beside.kind].sum(axis=0) + beside.tail
    seconds = (np.diff(np.concatenate([[0.0], ends])) - rest)[warm:].mean()
    return np.concatenate([[max(float(seconds), 0.0)], (whole - filled) / (many - warm)])


def _steps_of(trace: RoutingTrace, size: int, phase: int, steps: int) -> tuple[RoutingTrace, I8]:
    """A part of a trace whose rows are of one phase, and the rows of steps of `size` tokens.

    Decode steps take a token each of as many runs of the trace, as continuous batching mixes requests;
    prefill steps take neighbours. Where the trace is too short it begins anew.
    """
    of_phase = np.flatnonzero(trace.phase == phase)
    pool = of_phase if len(of_phase) >= size else np.arange(trace.num_tokens)
    many = int(np.clip(len(pool) // size, 2 * WARMING, steps))
    if phase == PREFILL:
        chosen = np.arange(many * size)
        request = np.repeat(np.arange(many), size)
        position = np.tile(np.arange(size), many)
        order = chosen
    else:
        # Run r takes `many` neighbours; step s takes the s-th of each.
        start = np.arange(size) * len(pool) // size
        chosen = (start[:, None] + np.arange(many)).ravel()
        request = np.repeat(np.arange(size), many)
        position = trace.position[pool[chosen % len(pool)]].astype(np.int64)
        order = np.arange(many * size).reshape(size, many).T.ravel()
    rows = pool[chosen % len(pool)]
    part = replace(
        trace,
        topk_ids=trace.topk_ids[rows],
        request=request.astype(np.int32),
        position=position.astype(np.int32),
        phase=np.full(len(rows), phase, np.int8),
        topk_weights=None if trace.topk_weights is None else trace.topk_weights[rows],
        token_id=None if trace.token_id is None else trace.token_id[rows],
    )
    return part, order.astype(np.int64)
