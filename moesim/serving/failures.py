"""Nodes that fail and are repaired, as processes of SimPy."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from moesim.engine.deployment import Deployment
from moesim.errors import ConfigError, Fault
from moesim.prediction import Engine

F8 = npt.NDArray[np.float64]

RELOADS = ("auto", "storage", "host", "none")


@dataclass(frozen=True, slots=True)
class Shrink:
    """An expert-parallel replica that goes on without a node it lost, as elastic engines do.

    `moesim.rebalancing.restored` says how long it takes to have every expert again, and how uneven the ranks
    that are left are.

    Parameters
    ----------
    stall_s
        Until it goes on: what is left has to agree, and experts that are gone are copied or loaded.
    slowdown
        Seconds of a step over those of the whole replica, for every node lost.
    most
        Nodes that it can lose.
    """

    stall_s: float
    slowdown: float
    most: int = 1


@dataclass(frozen=True, slots=True)
class Failures:
    """When nodes fail, and how they come back.

    Parameters
    ----------
    mtbf_s
        Mean seconds that a node works, exponential; None if none fails by chance.
    repair_s
        Mean seconds of a repair, exponential; None if nothing is repaired.
    listed
        Failures that are known: seconds, replica, and for how long it is gone.
    crews
        Repairs at the same time; None for as many as are needed.
    reload
        Where a replica loads its weights from when its nodes are back: one of `RELOADS`; ``auto`` is the
        node's storage where it is described, else the host's memory.
    retries
        How often a request is sent again before it is given up; None for ever.
    shrink
        What a replica over several nodes does when it loses one; None if it fails with it.
    seed
        Of the times.
    """

    mtbf_s: float | None = None
    repair_s: float | None = None
    listed: tuple[tuple[float, int, float], ...] = ()
    crews: int | None = None
    reload: str = "auto"
    retries: int | None = 10
    shrink: Shrink | None = None
    seed: int = 0

    def faults(self, replicas: int | None = None) -> list[Fault]:
        """What is wrong with the settings."""
        found = []
        for name, value in (("--mtbf", self.mtbf_s), ("--repair", self.repair_s)):
            if value is not None and not 0.0 < value < np.inf:
                found.append(Fault("has to be a positive time", name, value))
        for name, count, least in (("--crews", self.crews, 1), ("--retries", self.retries, 0)):
            if count is not None and count < least:
                found.append(Fault("is too few", name, count, f"{least} or more"))
        if self.reload not in RELOADS:
            found.append(Fault("is unknown", "--reload", self.reload, ", ".join(RELOADS)))
        for at, replica, seconds in self.listed:
            if not (0.0 <= at < np.inf and seconds > 0.0):
                found.append(Fault("needs a time and a duration", "--fail", f"{at}:{replica}:{seconds}"))
            if replica < 0 or (replicas is not None and replica >= replicas):
                allowed = "" if replicas is None else f"0 to {replicas - 1}"
                found.append(Fault("names no replica", "--fail", f"{at}:{replica}:{seconds}", allowed))
        if self.shrink is not None and not (
            self.shrink.stall_s >= 0.0 and self.shrink.slowdown >= 1.0 and self.shrink.most >= 1
        ):
            found.append(Fault("needs a stall of 0 s and a slowdown of 1 or more", "--shrink", self.shrink))
        return found


def replicas_on(worlds: Sequence[int], devices_per_node: int) -> tuple[tuple[int, ...], ...]:
    """Which replicas have devices on each node, where replicas of so many devices lie one after the other.

    Examples
    --------
    Two of four devices share a node of eight; one of sixteen has two nodes.

    >>> replicas_on([4, 4, 16], 8)
    ((0, 1), (2,), (2,))
    """
    ends = np.cumsum(worlds)
    nodes: list[list[int]] = [[] for _ in range(-(-int(ends[-1]) // devices_per_node))]
    for replica, (end, world) in enumerate(zip(ends.tolist(), worlds, strict=True)):
        for node in range((end - world) // devices_per_node, (end - 1) // devices_per_node + 1):
            nodes[node].append(replica)
    return tuple(map(tuple, nodes))


def reload_s(deployment: Deployment, where: str, engine: Engine) -> float:
    """Seconds to load the weights of a replica, as long as its fullest device takes.

    Parameters
    ----------
    deployment
        The replica.
    where
        One of `RELOADS`. All devices of a node load from its storage at the same time; from host memory every
        device loads over its own link.
    engine
        Its settings.

    Raises
    ------
    ConfigError
        Where storage or host link are not described.
    """
    hardware = deployment.hardware
    weights_bytes = deployment.memory(engine.chunk_tokens, engine.memory_utilisation).weights_bytes
    storage = hardware.host.storage if hardware.host is not None else None
    if where == "none":
        return 0.0
    if where == "storage" and storage is None:
        raise ConfigError(Fault(f"{hardware.name} describes no storage", "--reload", where, "host, none"))
    if storage is not None and where != "host":
        together = min(deployment.layout.world, hardware.devices_per_node)
        return weights_bytes * together / storage.bandwidth_bytes_per_s
    link = hardware.host_link
    if link is None:
        if where == "auto":
            return 0.0
        raise ConfigError(Fault(f"{hardware.name} describes no host link", "--reload", where, "none"))
    return link.latency_s + weights_bytes / (link.bandwidth_bytes_per_s * link.efficiency)


class Nodes:
    """Nodes that fail and are repaired, and what that does to replicas.

    A replica works while all its nodes do, and, where it may shrink, while enough of them do.

    Parameters
    ----------
    env
        The clock.
    failures
        When and how.
    on
        Replicas with devices on each node.
    reload_s
        Seconds that each replica loads before it works again, ``[replicas]``.
    down, up
        Called with a replica when it stops and when it works again.
    resize
        Called with a replica that goes on with so many of its nodes: replica, nodes it has, nodes it had.
    """

    def __init__(
        self,
        env: simpy.Environment,
        failures: Failures,
        on: Sequence[Sequence[int]],
        reload_s: F8,
        down: Callable[[int], None],
        up: Callable[[int], None],
        resize: Callable[[int, int, int], None],
    ) -> None:
        self.env, self.failures, self.reload_s = env, failures, reload_s
        self._down, self._up, self._resize = down, up, resize
        replicas = len(reload_s)
        self.has = np.bincount([r for node in on for r in node], minlength=replicas)
        self.gone = np.zeros(replicas, np.int64)
        self.works = np.ones(replicas, np.bool_)
        self.since_s = np.zeros(replicas)
        self.down_s = np.zeros(replicas)
        self.failed = np.zeros(replicas, np.int64)
        self._outage = np.zeros(replicas, np.int64)
        self._crews = simpy.Resource(env, failures.crews) if failures.crews is not None else None
        if failures.mtbf_s is not None:
            for node, there in enumerate(on):
                env.process(self._life(there, np.random.default_rng([failures.seed, node])))
        for at, replica, seconds in failures.listed:
            env.process(self._known(at, replica, seconds))

    def until(self, now: float) -> F8:
        """Seconds that each replica was down until now."""
        return self.down_s + np.where(self.works, 0.0, now - self.since_s)

    def _life(self, there: Sequence[int], rng: np.random.Generator) -> Generator[simpy.Event, Any, None]:
        mtbf, repair = self.failures.mtbf_s, self.failures.repair_s
        while mtbf is not None:
            yield self.env.timeout(rng.exponential(mtbf))
            for replica in there:
                self._loses(replica, 1)
            if repair is None:
                return
            seconds = rng.exponential(repair)
            if self._crews is None:
                yield self.env.timeout(seconds)
            else:
                with self._crews.request() as turn:
                    yield turn
                    yield self.env.timeout(seconds)
            for replica in there:
                self._regains(replica, 1)

    def _known(self, at: float, replica: int, seconds: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(at)
        many = int(self.has[replica])
        self._loses(replica, many)
        if np.isfinite(seconds):
            yield self.env.timeout(seconds)
            self._regains(replica, many)

    def _enough(self, replica: int) -> bool:
        shrink = self.failures.shrink
        spare = min(shrink.most, int(self.has[replica]) - 1) if shrink is not None else 0
        return bool(self.gone[replica] <= spare)

    def _loses(self, replica: int, nodes: int) -> None:
        self.gone[replica] += nodes
        self.failed[replica] += 1
        if self._enough(replica):
            self._fit(replica)
            return
        self._outage[replica] += 1
        if self.works[replica]:
            self.works[replica], self.since_s[replica] = False, self.env.now
            self._down(replica)

    def _regains(self, replica: int, nodes: int) -> None:
        self.gone[replica] -= nodes
        if self.works[replica]:
            self._fit(replica)
        elif self._enough(replica):
            self.env.process(self._load(replica, int(self._outage[replica])))

    def _load(self, replica: int, outage: int) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(float(self.reload_s[replica]))
        # An outage meanwhile has a load of its own, and two nodes that come back are loaded together.
        if self.works[replica] or outage != self._outage[replica]:
            return
        self.works[replica] = True
        self.down_s[replica] += self.env.now - self.since_s[replica]
        self._fit(replica)
        self._up(replica)

    def _fit(self, replica: int) -> None:
        if self.failures.shrink is not None and self.works[replica]:
            self._resize(replica, int(self.has[replica] - self.gone[replica]), int(self.has[replica]))
