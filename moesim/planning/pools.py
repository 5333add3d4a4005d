"""Prefill and decode in pools of their own: how many workers of each, in steady state.

The pools bother each other only through the hand-over of caches, so that each is chosen for itself: the
prefill workers that keep the time to first token at the least cost per request, the decode workers that keep
the time per token, and as many of each as the traffic needs. Their ratio follows.

* A prefill worker reads full steps; its queue is that of `moesim.planning.rank`, without decoding in between.
* A decode worker takes ``s(X)`` seconds for a step, whatever comes in.

Both kinds run with the same settings of the engine, those that their launch commands have. Where the
simulator wants more of a pair than this, it grows node by node: see `Pair.divisions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from moesim.engine.disaggregated import hand_over_s
from moesim.layout.disaggregated import Disaggregated, Workers
from moesim.planning.candidates import Shape
from moesim.planning.crowd import F8, Crowd
from moesim.planning.pace import Pace
from moesim.planning.rank import limit_of
from moesim.planning.types import Candidate, Slo
from moesim.prediction import Engine

#: Workers of either kind that are paired, of each machine and setting: the cheapest for what they carry.
PAIRED = 6
#: Loads of a prefill worker, and numbers of decoding requests, that are tried.
POINTS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Worker:
    """What a worker could do in either pool.

    Parameters
    ----------
    prompts_per_s
        Requests per second whose prompts fill all its steps.
    decodes_per_s
        Requests per second it decodes within the limit on time per token; 0 if not even one.
    step_s
        Of a decode step at that rate, per token of a request.
    """

    shape: Shape
    engine: Engine
    pace: Pace
    prompts_per_s: float
    decodes_per_s: float
    step_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Both pools together.

    Parameters
    ----------
    candidate
        With as many workers as the traffic needs in steady state.
    request_rate
        Requests per second these carry.
    metrics
        Of the steady state.
    prefill, decode
        The workers.
    prompts_per_s
        Requests per second a prefill worker carries within the limits.
    """

    candidate: Candidate
    request_rate: float
    metrics: dict[str, float]
    prefill: Worker
    decode: Worker
    prompts_per_s: float

    @property
    def least_nodes(self) -> int:
        """Nodes that hold one worker of each kind."""
        both = self.prefill.shape.layout.world + self.decode.shape.layout.world
        return -(-both // self.candidate.hardware.devices_per_node)

    def divisions(self, nodes: int) -> tuple[list[Candidate], int]:
        """The pair on so many nodes, `least_nodes` or more, in order of prefill workers; and which is best.

        What is rented is used: workers fill the nodes. Best is where the pool that carries less in steady
        state carries most.
        """
        hardware = self.candidate.hardware.with_nodes(nodes)
        prefill, decode = (one.shape.layout for one in (self.prefill, self.decode))
        ways = splits(prefill.world, decode.world, nodes * hardware.devices_per_node)
        carried = [
            min(many * self.prompts_per_s, others * self.decode.decodes_per_s) for many, others in ways
        ]
        found = [
            replace(
                self.candidate,
                hardware=hardware,
                layout=Disaggregated(Workers(prefill, many), Workers(decode, others)),
            )
            for many, others in ways
        ]
        return found, carried.index(max(carried))


def splits(prefill: int, decode: int, devices: int) -> list[tuple[int, int]]:
    """Every number of prefill and of decode workers, one at least, that leaves no room for one more.

    Parameters
    ----------
    prefill, decode
        Devices of a worker.
    devices
        To divide.

    Examples
    --------
    >>> splits(2, 4, 16)
    [(2, 3), (4, 2), (6, 1)]
    """
    found = []
    for many in range(1, (devices - decode) // prefill + 1):
        others = (devices - many * prefill) // decode
        if devices - many * prefill - others * decode < prefill:
            found.append((many, others))
    return found


def worker_of(shape: Shape, engine: Engine, pace: Pace, crowd: Crowd, slo: Slo) -> Worker:
    """What a shape could do in either pool."""
    _, packed, _ = pace.prompts(crowd.fresh, engine.chunk_tokens)
    limit = limit_of(pace, engine, crowd)
    running = np.exp(np.linspace(0.0, np.log(max(limit, 1.0)), POINTS))
    token_s = pace.steps(np.maximum(running, pace.deployment.layout.pp)) / pace.tokens
    rate = running / (token_s * float(crowd.output.mean()))
    # More that run than fit would wait.
    room = ndtr((limit - running) / np.sqrt(crowd.dispersion_of(rate) * running)) >= slo.attainment
    room[0] = limit >= 1.0
    holds = (token_s <= slo.limits.get("tpot_s", np.inf)) & room
    last = int(np.flatnonzero(holds)[-1]) if holds.any() else 0
    decodes = float(rate[last]) if holds.any() else 0.0
    return Worker(shape, engine, pace, 1.0 / float(packed.mean()), decodes, float(token_s[last]))


def pairs(workers: Sequence[Worker], crowd: Crowd, slo: Slo, cost: dict[str, float]) -> list[Pair]:
    """Pools for all of the traffic, of the workers that are cheapest for what they carry.

    Parameters
    ----------
    workers
        Of any models and machines; only those of one machine, model and settings are paired.
    cost
        Of a device, by name of the hardware.
    """
    groups: dict[tuple[object, ...], list[Worker]] = {}
    for one in workers:
        key = one.shape.model.name, one.shape.hardware.name, one.engine
        groups.setdefault(key, []).append(one)
    found = []
    for members in groups.values():
        each = cost[members[0].shape.hardware.name]

        def dear(one: Worker, rate: float, each: float = each) -> float:
            return one.shape.layout.world * each / rate

        prefill = [w for w in members if not w.shape.redundant]
        prefill.sort(key=lambda w: dear(w, w.prompts_per_s))
        decode = sorted((w for w in members if w.decodes_per_s > 0), key=lambda w: dear(w, w.decodes_per_s))
        for p in _distinct(prefill):
            for d in _distinct(decode):
                pair = _paired(p, d, crowd, slo)
                if pair is not None:
                    found.append(pair)
    return found


def _distinct(workers: Sequence[Worker]) -> list[Worker]:
    """The first of every layout."""
    first: dict[object, Worker] = {}
    for one in workers:
        first.setdefault((one.shape.layout, one.shape.redundant), one)
    return list(first.values())[:PAIRED]


def _paired(prefill: Worker, decode: Worker, crowd: Crowd, slo: Slo) -> Pair | None:
    """As many of both as the traffic needs; None if prompts alone take too long."""
    across = hand_over_s(prefill.pace.deployment, decode.pace.deployment, crowd.prompt)
    rate, first_s, share = _prompts(prefill, across, decode.step_s, crowd, slo)
    if not rate > 0:
        return None
    many = math.ceil(crowd.request_rate / rate * (1.0 - 1e-9))
    others = math.ceil(crowd.request_rate / decode.decodes_per_s * (1.0 - 1e-9))
    layout = Disaggregated(Workers(prefill.shape.layout, many), Workers(decode.shape.layout, others))
    hardware = decode.shape.hardware
    hardware = hardware.with_nodes(-(-layout.world // hardware.devices_per_node))
    if hardware.max_nodes is not None and hardware.nodes > hardware.max_nodes:
        return None
    candidate = Candidate(decode.shape.model, hardware, layout, 1, decode.engine, decode.shape.redundant)
    metrics = {
        "ttft_s": first_s,
        "tpot_s": decode.step_s,
        "e2el_s": first_s + float((crowd.output - 1.0).mean()) * decode.step_s,
        "attainment": share,
    }
    carried = min(many * rate, others * decode.decodes_per_s)
    return Pair(candidate, carried, metrics, prefill, decode, rate)


def _prompts(
    worker: Worker, across: F8, token_s: float, crowd: Crowd, slo: Slo
) -> tuple[float, float, float]:
    """Requests per second of a prefill worker within the limits, mean time to first token, share in time."""
    pace, engine = worker.pace, worker.engine
    alone, packed, full_s = pace.prompts(crowd.fresh, engine.chunk_tokens)
    busy = np.linspace(0.02, 0.98, POINTS)
    rate = busy / float(packed.mean())
    tokens = float(crowd.fresh.mean())
    variation = float((crowd.fresh**2).mean()) / tokens**2
    service = tokens / engine.chunk_tokens * full_s
    unrest = crowd.dispersion_of(rate)
    wait = np.maximum(busy / (1.0 - busy) * (unrest + variation - 1.0) / 2.0 * service, 1e-12)
    traits = pace.deployment.traits
    # Whoever comes finds a step running, half of a prompt on average, and ends with a step of decoding.
    fixed = traits.request_s + busy[:, None] * float(alone.mean()) / 2.0 + alone + across
    fixed = fixed + (1.0 + traits.first_steps) * token_s
    share = np.ones((len(busy), len(alone)))
    for name, more in (("ttft_s", 0.0), ("e2el_s", (crowd.output - 1.0) * token_s)):
        if name in slo.limits:
            room = slo.limits[name] - fixed - more
            late = busy[:, None] * np.exp(-np.maximum(room, 0.0) * (busy / wait)[:, None])
            share *= np.where(room >= 0, 1.0 - late, 0.0)
    mean = share.mean(axis=1)
    holds = mean >= slo.attainment
    last = int(holds.argmin()) - 1 if not holds.all() else len(holds) - 1
    if last < 0:
        return 0.0, 0.0, float(mean[0])
    return float(rate[last]), float(fixed[last].mean() + wait[last]), float(mean[last])
