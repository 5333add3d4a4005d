"""Attention and experts on workers of their own, with micro-batches that go back and forth between them.

Workers of attention keep the cache and everything dense, workers of experts the routed and shared experts. A
batch is cut into micro-batches; while some are with the experts, the others have attention to themselves
(MegaScale-Infer, arXiv:2504.02263, section 4.1; AFD of Step-3, arXiv:2507.19427, likewise with three stages).
With ``T_a``, ``T_e`` and ``T_c`` of one micro-batch in one layer, on workers of attention, of experts, and on
the way, and ``T_f = max(T_a, T_e)``, the way is hidden if

    T_c < T_f   and   m >= 2 (1 + T_c / T_f)                                           (equations 2 and 3)

and a step of L layers then takes

    T = (T_a + T_e + 2 T_c) + T_f (m L - 1)                                            (equation 5).

Here the streams are followed layer by layer, which is the same where these hold and right where they do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import numpy.typing as npt

from moesim.cost import hit_parts_limited
from moesim.engine.deployment import Deployment
from moesim.engine.memory import BLOCK_TOKENS
from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.layout.apart import Apart
from moesim.model import bytes_per_param
from moesim.ops.primitives import ACTIVATION_BYTES
from moesim.prediction import Engine
from moesim.requests import RequestTrace
from moesim.serving.admit import lengths_of
from moesim.serving.kernel.price import PING_PONG, Prices
from moesim.serving.outcome import About, Outcome
from moesim.serving.parts import DECODE, PREFILL, Parts, exchanged_s
from moesim.serving.pricing import expert_sizes, tables_of
from moesim.serving.settings import Fleet, Scheduler
from moesim.serving.simulate import Ready, rules_of
from moesim.serving.tables import packed

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Workers of attention and workers of experts.

    Parameters
    ----------
    attention
        Its data-parallel ranks are the workers of attention; its own experts are not used.
    experts
        Its ranks hold the experts, each of them some; its attention is not used.
    micro
        Micro-batches.

    Raises
    ------
    ConfigError
        With every fault.
    """

    attention: Deployment
    experts: Deployment
    micro: int = 3

    def __post_init__(self) -> None:
        one, other = self.attention, self.experts
        found = []
        if one.model.moe is None:
            found.append(Fault("has no experts to keep apart", "--model", one.model.name))
        if other.model is not one.model:
            found.append(Fault("is not the model of the other workers", "--model", other.model.name))
        if not 1 <= self.micro <= 64:
            found.append(Fault("is out of range", "--micro-batches", self.micro, "1 to 64"))
        for name, pool in (("attention", one), ("expert", other)):
            if pool.layout.pp > 1:
                found.append(Fault(f"{name} workers do not form pipelines", "--pp", pool.layout.pp, "1"))
            if pool.overlap != "none" or pool.speculation.tokens:
                found.append(Fault(f"{name} workers neither overlap two batches nor draft", "--overlap"))
        if other.layout.ep != other.layout.stage:
            found.append(
                Fault("expert workers hold whole experts", "--ep", other.layout.ep, str(other.layout.stage))
            )
        if not self._inside and (one.hardware.scale_out is None or other.hardware.scale_out is None):
            found.append(Fault("has no network between workers", "--hardware", one.hardware.name))
        if found:
            raise ConfigError(found)

    @property
    def devices(self) -> int:
        """Of both kinds."""
        return self.attention.layout.world + self.experts.layout.world

    @property
    def layout(self) -> Apart:
        """Both kinds."""
        return Apart(self.attention.layout, self.experts.layout, self.micro)

    @property
    def _inside(self) -> bool:
        """Whether all workers reach each other over the scale-up link."""
        same = self.attention.hardware is self.experts.hardware
        return same and self.devices <= self.attention.hardware.domain

    def way_s(self, tokens: F8, phase: int, *, back: bool = False) -> F8:
        """Seconds of one micro-batch's way in one layer: the slower of those who send and those who receive.

        Equation 6 of MegaScale-Infer: a token goes once to every worker that holds some of its experts, from
        all devices of its worker of attention alike. Workers of attention have as many tokens each; that of
        the hottest experts gets as much more than the mean as it has more choices.

        Parameters
        ----------
        tokens
            Of all workers, ``[batches]``.
        phase
            Whose routing counts.
        back
            From the experts, in 16 bits, rather than to them.
        """
        there, moe = self.experts, self.experts.model.moe
        assert moe is not None
        ranks, layout = there.layout.ep, self.attention.layout
        copies = hit_parts_limited(ranks, moe.num_experts, moe.top_k, moe.groups, moe.top_groups)
        width = 0.0
        hot = np.zeros(len(tokens))
        steps = there.expert_steps(phase)
        for _, step in steps:
            each = step.shape.hidden * ACTIVATION_BYTES if back else step.dispatch_bytes
            width += each / len(steps)
            hot += np.maximum(step.at(tokens)["load_imbalance"], 1.0) / len(steps)
        sent = tokens * copies * width / layout.stage
        received = tokens * copies * width * hot / ranks
        seconds = np.zeros(len(tokens))
        for pool, data in ((self.attention, sent), (self.experts, received)):
            link = pool.hardware.scale_up if self._inside else pool.hardware.scale_out
            assert link is not None
            rate = link.bandwidth_bytes_per_s * link.efficiency
            seconds = np.maximum(seconds, link.latency_s + data / rate)
        return np.asarray(pool.traits.communication * np.where(tokens > 0, seconds, 0.0))

    def experts_s(self, tokens: F8, phase: int) -> F8:
        """Seconds of the way there, of experts and of the way back, over all layers, ``[3, tokens]``."""
        layers = len(self.experts.model.moe_layer_ids)
        routed = exchanged_s(self.experts, tokens, phase)[1]
        # Shared experts are on all workers, each of which takes its share of the tokens.
        shared = Parts(self.experts).shared(tokens / self.experts.layout.stage)
        ways = [layers * self.way_s(tokens, phase, back=back) for back in (False, True)]
        return np.stack([ways[0], routed + shared, ways[1]])

    def cache_bytes(self, chunk_tokens: float, utilisation: float) -> float:
        """Bytes for the cache on a worker of attention's fullest device, which holds no routed experts."""
        one = self.attention
        memory = one.memory(chunk_tokens, utilisation)
        held = 0.0
        for group, _ in one.expert_steps(DECODE):
            params = group.moe.matrices * group.hidden * group.shard * bytes_per_param(group.dtype)
            held += len(group.layers) * params * group.moe.num_experts / one.layout.ep
        if memory.apart_bytes is not None:
            return replace(memory, weights_bytes=memory.weights_bytes - held).cache_budget_bytes
        return memory.cache_budget_bytes + held

    def blocks(self, longest: int, chunk_tokens: float, utilisation: float, block: int = BLOCK_TOKENS) -> int:
        """Blocks of a lane's cache."""
        each = float(self.attention.cache_bytes(np.array([float(longest)]))[0]) / ceil(longest / block)
        return int(max(self.cache_bytes(chunk_tokens, utilisation), 0.0) / each)


def pools_prices(pools: Pools, budget: int, most: int, longest: int, scheduler: Scheduler) -> Prices:
    """Prices of steps of both kinds of workers together; lanes are the workers of attention.

    Parameters
    ----------
    pools
        The workers.
    budget, most, longest
        As for `moesim.serving.pricing.prices_of`.
    scheduler
        Says whether the host plans ahead. Graphs are not padded.
    """
    parts, lanes = Parts(pools.attention), pools.attention.layout.dp

    def experts(scale: float) -> tuple[F8, F8]:
        return expert_sizes(pools.experts_s, float(most * lanes), float(budget * lanes), scale)

    step = tables_of(
        parts, 1.0 / pools.micro, float(budget), float(most), float(longest), lanes, experts=experts
    )
    # The router stays with attention; shared experts are among the others.
    dense = step.dense_s.copy()
    dense[0] += dense[1] - parts.shared(step.tokens)
    dense[1] = 0.0
    return packed(
        step._replace(dense_s=dense),
        pattern=PING_PONG,
        micro=pools.micro,
        host_s=pools.attention.traits.host_s,
        hidden=scheduler.asynchronous,
    )


def prepare_apart(
    pools: Pools,
    requests: RequestTrace,
    *,
    longest: int | None = None,
    engine: Engine | None = None,
    scheduler: Scheduler | None = None,
    fleet: Fleet | None = None,
    seed: int = 0,
) -> Ready:
    """Workers of both kinds before their first request.

    Parameters
    ----------
    pools
        Of every replica.
    requests
        Lengths that will be asked for.
    longest
        Tokens of a longer request that may come.
    engine, scheduler, fleet
        Settings; those of the engine's backend, and one replica, by default.
    seed
        Of routers.

    Returns
    -------
    Ready
        What it is states the hardware of attention: count devices with it where experts have the same.

    Raises
    ------
    InfeasibleError
        If experts do not fit on their workers, or the longest request on a worker of attention.
    """
    engine, fleet = engine or Engine(), fleet or Fleet()
    scheduler = scheduler or Scheduler.of(engine.backend)
    attention = pools.attention
    longest = max(lengths_of(requests, attention.model), longest or 0)
    budget = int(engine.chunk_tokens)
    most = min(int(engine.max_sequences), budget)
    block = scheduler.block_tokens
    _check_experts(pools, engine)
    blocks = pools.blocks(longest, engine.chunk_tokens, engine.memory_utilisation, block)
    if blocks * block < longest:
        raise InfeasibleError(
            f"a request of {longest} tokens does not fit on a worker of attention",
            resource="cache",
            needed=longest,
            available=blocks * block,
        )
    prices = pools_prices(pools, budget, most, longest, scheduler)
    rules = rules_of(scheduler, fleet, attention.layout.dp, budget, most, requests, engine, seed)
    about = About(
        attention.model.name, attention.hardware, pools.layout, engine, scheduler, fleet, fleet.replicas,
        attention.traits.request_s, attention.traits.first_steps, seed, tuple(attention.model.warnings),
    )  # fmt: skip
    return Ready(about, rules, prices, blocks)


def _check_experts(pools: Pools, engine: Engine) -> None:
    """Raise `InfeasibleError` if the routed experts alone do not fit on their fullest worker."""
    there = pools.experts
    spare = there.plan.redundant if there.plan is not None else 0
    held = 0.0
    for group, _ in there.expert_steps(DECODE):
        params = group.moe.matrices * group.hidden * group.shard * bytes_per_param(group.dtype)
        held += len(group.layers) * params * (group.moe.num_experts + spare) / there.layout.ep
    room = there.memory(engine.chunk_tokens, engine.memory_utilisation).budget_bytes
    if held > room:
        raise InfeasibleError(
            f"routed experts take {held / 1e9:.1f} GB of each of {there.layout.world} workers of experts, "
            f"which have {room / 1e9:.1f} GB",
            resource="device memory",
            needed=held,
            available=room,
        )


def serve_pools(
    pools: Pools,
    requests: RequestTrace,
    *,
    engine: Engine | None = None,
    scheduler: Scheduler | None = None,
    replicas: int = 1,
    seed: int = 0,
) -> Outcome:
    """Serve requests step by step on workers of both kinds.

    Parameters
    ----------
    pools
        Of every replica.
    requests
        Who arrives when.
    engine, scheduler
        Settings; those of the engine's backend by default.
    replicas
        How many there are.
    seed
        Of routers.

    Returns
    -------
    Outcome
        It says what served, and with it devices, energy and cost, where both kinds have the same hardware.

    Raises
    ------
    InfeasibleError
        As `prepare_apart` does.
    """
    ready = prepare_apart(
        pools, requests, engine=engine, scheduler=scheduler, fleet=Fleet(replicas=replicas), seed=seed
    )
    outcome = ready.serve(requests)
    same = pools.attention.hardware is pools.experts.hardware
    return outcome if same else replace(outcome, about=None)


def micro_batches(attention_s: float, experts_s: float, way_s: float) -> int:
    """Micro-batches that hide the way between workers (equation 3); 0 where none do, as the way is longer.

    >>> micro_batches(1.0, 1.0, 0.4), micro_batches(1.0, 0.5, 0.9), micro_batches(1.0, 1.0, 1.5)
    (3, 4, 0)
    """
    slower = max(attention_s, experts_s)
    return 0 if way_s >= slower else ceil(2.0 * (1.0 + way_s / slower) - 1e-9)


def hidden_s(attention_s: float, experts_s: float, way_s: float, micro: int, layers: int) -> float:
    """Seconds of a step whose ways are hidden (equation 5).

    >>> hidden_s(1.0, 1.0, 0.4, 3, 2)
    7.8
    """
    return attention_s + experts_s + 2.0 * way_s + max(attention_s, experts_s) * (micro * layers - 1)


__all__ = [
    "DECODE",
    "PREFILL",
    "Pools",
    "hidden_s",
    "micro_batches",
    "pools_prices",
    "prepare_apart",
    "serve_pools",
]
