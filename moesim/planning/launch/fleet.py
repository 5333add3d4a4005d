"""Which devices of which nodes each instance of an engine takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moesim.layout.disaggregated import Disaggregated
from moesim.layout.parallelism import Parallelism
from moesim.planning.types import Candidate

SERVE, PREFILL, DECODE = "serve", "prefill", "decode"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one instance runs.

    Parameters
    ----------
    role
        ``serve``, ``prefill`` or ``decode``.
    layout
        Of the instance.
    index
        Among those of its role.
    node, nodes
        First of its nodes, and how many they are.
    devices
        Devices of the node that it takes; empty for all.
    slot
        Which of the instances on the node it is.
    """

    role: str
    layout: Parallelism
    index: int
    node: int
    nodes: int
    devices: tuple[int, ...]
    slot: int


def places(candidate: Candidate) -> list[Place]:
    """Every instance of a candidate, placed.

    Instances that fill nodes take whole ones; smaller ones share a node, as many as fit, in order of size.
    Replicas that are larger than a node do not share nodes, those that divide one do, as
    `Candidate.devices` counts.
    """
    each = candidate.hardware.devices_per_node
    world = candidate.layout.world
    together = each // world if each % world == 0 else 1
    found: list[Place] = []
    counts = {SERVE: 0, PREFILL: 0, DECODE: 0}
    first = 0
    for start in range(0, candidate.replicas, together):
        replicas = min(together, candidate.replicas - start)
        wanted = [part for _ in range(replicas) for part in instances(candidate.layout)]
        # The largest first: with degrees that divide a node nothing is left between them.
        wanted.sort(key=lambda part: -part[1].world)
        used: list[list[int]] = []  # devices taken and instances started, by node of this pod
        for role, layout in wanted:
            nodes = -(-layout.world // each)
            devices: tuple[int, ...] = ()
            if nodes > 1 or layout.world == each:
                node, slot = len(used), 0
                used += [[each, 1] for _ in range(nodes)]
            else:
                node = next((i for i, (taken, _) in enumerate(used) if taken + layout.world <= each), -1)
                if node < 0:
                    node = len(used)
                    used.append([0, 0])
                taken, slot = used[node]
                devices = tuple(range(taken, taken + layout.world))
                used[node] = [taken + layout.world, slot + 1]
            found.append(Place(role, layout, counts[role], first + node, nodes, devices, slot))
            counts[role] += 1
        first += len(used)
    return found


def instances(layout: Parallelism | Disaggregated) -> Iterator[tuple[str, Parallelism]]:
    """Role and layout of each instance of one replica."""
    if isinstance(layout, Parallelism):
        yield SERVE, layout
        return
    for role, pool in ((PREFILL, layout.prefill), (DECODE, layout.decode)):
        for _ in range(pool.count):
            yield role, pool.layout


def alike(found: list[Place]) -> list[tuple[Place, int]]:
    """One of each kind of instance that the same lines start, and how many there are."""
    kinds: dict[tuple[object, ...], list[Place]] = {}
    for place in found:
        kinds.setdefault((place.role, place.devices, place.slot), []).append(place)
    return [(group[0], len(group)) for group in kinds.values()]
