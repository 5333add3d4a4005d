"""Do links and fabrics hold together? What one number alone cannot say: shapes, switches, connections."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from moesim.errors import Fault, nearest
from moesim.hardware.quantity import Quantity
from moesim.hardware.spec import FabricSpec, LinkSpec, Spec

#: More than this is no machine anybody has, and a graph that nobody waits for.
MOST_DEVICES = 100_000
MOST_WIRES = 20_000
#: Faults of one sort that are listed one by one.
_LISTED = 5

_GRIDS = ("mesh", "torus")
_PLANES = ("switch", "fat_tree", "rail", "planes")
_LEAVES = ("tree", "fat_tree", "planes")
_DEVICE = re.compile(r"^device:(0|[1-9]\d{0,8})$")


def links_of(spec: Spec) -> Iterator[tuple[str, LinkSpec]]:
    """Every kind of link with its path."""
    yield "node.scale_up", spec.node.scale_up
    if spec.node.host_link:
        yield "node.host_link", spec.node.host_link
    if spec.cluster:
        yield "cluster.network", spec.cluster.network


def check_counts(spec: Spec) -> Iterator[Fault]:
    """No more devices than a machine can have."""
    for where, count in (
        ("node.devices", spec.node.devices),
        ("node.scale_up.domain", spec.node.scale_up.domain),
    ):
        if count.value > MOST_DEVICES:
            yield Fault("more than any machine has", where, int(count.value), f"at most {MOST_DEVICES:,}")


def check_shapes(spec: Spec) -> Iterator[Fault]:
    """A shape is of a mesh or torus, and holds as many devices as the link connects."""
    for where, link in links_of(spec):
        if not link.shape:
            continue
        extents = [int(extent.value) for extent in link.shape]
        if link.topology not in _GRIDS:
            yield Fault(
                f"a {link.topology} has no shape", f"{where}.shape", extents, "only for mesh and torus"
            )
            continue
        reach = _reach(spec, where)
        if reach is not None and math.prod(extents) != reach:
            wrong = f"holds {math.prod(extents)} devices, and the link connects {reach}"
            yield Fault(wrong, f"{where}.shape", extents, f"extents whose product is {reach}")


def check_switches(spec: Spec) -> Iterator[Fault]:
    """Planes, leaves and tapers are of topologies with such switches, and divide what they serve."""
    for where, link in links_of(spec):
        for key, value, allowed in (("planes", link.planes, _PLANES), ("leaf", link.leaf, _LEAVES)):
            if value is not None and link.topology not in allowed:
                wrong = f"a {link.topology} has no such switches"
                yield Fault(wrong, f"{where}.{key}", int(value.value), f"only for {', '.join(allowed)}")
        yield from _leaf(spec, where, link)
        if link.taper is None:
            continue
        if link.leaf is None and link.topology != "rail":
            means = "a taper beside 'leaf', or of rails"
            yield Fault("there are no leaf switches", f"{where}.taper", link.taper.value, means)
        if link.taper.value < 1:
            yield Fault(
                "below 1",
                f"{where}.taper",
                link.taper.value,
                "bandwidth into a leaf over that out of it, at least 1",
            )


def _leaf(spec: Spec, where: str, link: LinkSpec) -> Iterator[Fault]:
    reach = _reach(spec, where)
    if link.leaf is None or link.topology not in _LEAVES or reach is None:
        return
    leaf = int(link.leaf.value)
    if reach % leaf:
        yield Fault(f"does not divide the {reach} devices", f"{where}.leaf", leaf, f"a divisor of {reach}")


def _reach(spec: Spec, where: str) -> int | None:
    """Devices that a link connects; None where that is not known."""
    if where == "node.scale_up":
        return int(spec.node.scale_up.domain.value)
    if where == "cluster.network" and spec.cluster and spec.cluster.max_nodes:
        return int(spec.cluster.max_nodes.value * spec.node.devices.value)
    return None


def check_fabric(spec: Spec) -> Iterator[Fault]:
    """Each connection is between two things there are, once; every device is reached; a tree has no cycle."""
    fabric = spec.fabric
    if fabric is None:
        return
    if len(fabric.links) > MOST_WIRES or len(fabric.switches) > MOST_WIRES:
        wrong = "too large"
        yield Fault(wrong, "fabric", len(fabric.links), f"at most {MOST_WIRES:,} links and switches")
        return
    devices = _devices(spec)
    switches = list(fabric.switches)
    for name in sorted(_twice(switches)):
        yield Fault("named twice", "fabric.switches", name, "each switch once")
    pairs, faults = _ends(fabric, switches, devices)
    yield from faults
    yield from _repeated(pairs)
    yield from _unreached(pairs, devices, switches)
    if fabric.topology == "tree":
        yield from _cycles(pairs)


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _devices(spec: Spec) -> int:
    """Devices that a fabric may speak of: those of the largest machine there is."""
    nodes: Quantity | None = None
    if spec.cluster:
        nodes = spec.cluster.max_nodes or spec.cluster.default_nodes
    return int(spec.node.devices.value * (nodes.value if nodes else 1))


def _ends(
    fabric: FabricSpec, switches: Sequence[str], devices: int
) -> tuple[list[tuple[int, str, str]], list[Fault]]:
    """Links by what their ends mean (a misspelt name stands for its nearest), and what is wrong with them."""
    pairs, faults = [], []
    known = set(switches)
    for index, link in enumerate(fabric.links):
        meant = []
        for end, name in enumerate(link.ends):
            number = _DEVICE.match(name)
            where = f"fabric.links.{index}.ends.{end}"
            if number and int(number[1]) >= devices:
                allowed = f"device:0 to device:{devices - 1}"
                faults.append(Fault("there is no such device", where, name, allowed))
            elif not number and name not in known:
                near = nearest(name, [*switches, *(f"device:{i}" for i in range(min(devices, 100)))], 1)
                hint = f"; nearest: {near[0]}" if near else ""
                allowed = f"device:0 to device:{devices - 1}, or a name of fabric.switches{hint}"
                faults.append(Fault("connects to nothing", where, name, allowed))
                name = near[0] if near else name
            meant.append(name)
        if meant[0] == meant[1]:
            faults.append(
                Fault(
                    "connects a thing to itself", f"fabric.links.{index}.ends", meant[0], "two different ends"
                )
            )
        else:
            pairs.append((index, meant[0], meant[1]))
    return pairs, faults


def _repeated(pairs: Sequence[tuple[int, str, str]]) -> Iterator[Fault]:
    first: dict[frozenset[str], int] = {}
    for index, one, other in pairs:
        known = first.setdefault(frozenset((one, other)), index)
        if known != index:
            yield Fault(
                f"the same connection as fabric.links.{known}",
                f"fabric.links.{index}.ends",
                f"{one}, {other}",
                "one link with the bandwidth of both",
            )


def _unreached(
    pairs: Sequence[tuple[int, str, str]], devices: int, switches: Sequence[str]
) -> Iterator[Fault]:
    """Devices and switches that no way leads to from the first device."""
    near = defaultdict(list)
    for _, one, other in pairs:
        near[one].append(other)
        near[other].append(one)
    reached, waiting = {"device:0"}, ["device:0"]
    while waiting:
        for name in near[waiting.pop()]:
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    alone = [f"device:{i}" for i in range(min(devices, MOST_DEVICES)) if f"device:{i}" not in reached]
    alone += [name for name in switches if name not in reached]
    for name in alone[:_LISTED]:
        wrong = "no way leads from device:0 to it" if name in near else "no link reaches it"
        yield Fault(wrong, "fabric", name, "a fabric that connects everything")
    if len(alone) > _LISTED:
        yield Fault(
            f"{len(alone) - _LISTED} more are not reached",
            "fabric",
            None,
            "a fabric that connects everything",
        )


def _cycles(pairs: Sequence[tuple[int, str, str]]) -> Iterator[Fault]:
    """Links that close a cycle, by union of what is connected already."""
    root: dict[str, str] = {}
    seen: set[frozenset[str]] = set()

    def find(name: str) -> str:
        while (up := root.setdefault(name, name)) != name:
            root[name] = root[up]
            name = root[name]
        return name

    for index, one, other in pairs:
        pair = frozenset((one, other))
        if pair in seen:
            continue  # said already: it is there twice
        seen.add(pair)
        a, b = find(one), find(other)
        if a == b:
            where = f"fabric.links.{index}.ends"
            yield Fault(
                "closes a cycle", where, f"{one}, {other}", "no second way in a tree; else topology: any"
            )
        root[a] = b
