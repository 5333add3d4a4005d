"""Loads against paths that are enumerated, conservation, and the limit without contention."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
from fabric_machines import fabric_text, link, machine

from moesim.fabric import (
    contention_seconds,
    flow_loads,
    grid_hops,
    grid_links,
    grid_loads,
    hops,
    incidence,
    latencies,
    link_loads,
    multicast_loads,
    network_of,
)
from moesim.hardware import load_hardware
from moesim.hardware.topology import graph

RANDOM = np.random.default_rng(7)
WIRES = [
    ("device:0", "a", 1e9, 1e-6),
    ("device:1", "a", 2e9, 2e-6),
    ("device:2", "b", 1e9, 1e-6),
    ("device:3", "b", 4e9, 3e-6),
    ("a", "x", 3e9, 1e-7),
    ("a", "y", 5e9, 2e-7),
    ("b", "x", 3e9, 3e-7),
    ("b", "y", 1e9, 4e-7),
    ("x", "mem", 1e9, 5e-7),
]
FABRIC = fabric_text(["a", "b", "x", "y", "mem"], WIRES)


def machines(folder):
    """One of each topology, 8 to 24 devices."""
    many = [
        (8, link("switch", domain=8)),
        (8, link("full_mesh", domain=8)),
        (7, link("ring", domain=7)),
        (8, link("tree", domain=8, leaf=4, taper=4)),
        (12, link("planes", domain=12, leaf=3, planes=2, taper=1.5, hop="0.3 us")),
        (12, link("mesh", domain=12, shape=[3, 4], hop="0.2 us")),
        (24, link("torus", domain=24, shape=[2, 3, 4], hop="0.2 us")),
        (16, link("torus", domain=16, shape=[4, 4])),
    ]
    for devices, up in many:
        yield machine(folder, devices, up)
    up = link("switch", domain=4)
    tapered = link("fat_tree", leaf=8, taper=3, hop="1 us")
    for network in (link("rail", taper=2), tapered, link("mesh"), link("ring")):
        yield machine(folder, 4, up, network, nodes=4)
    yield machine(folder, 4, up, fabric=FABRIC)


def test_bytes_times_hops_are_conserved_and_nodes_neither_make_nor_lose(tmp_path):
    for hardware in machines(tmp_path):
        network = network_of(hardware)
        traffic = RANDOM.random((3, network.devices, network.devices))
        loads = link_loads(network, traffic)
        off = traffic * (1.0 - np.eye(network.devices))
        assert loads.sum(axis=1) == pytest.approx((off * hops(network)).sum(axis=(1, 2)))
        for one, sent in zip(loads, off, strict=True):
            net = np.zeros(len(network.names))
            np.add.at(net, network.target, one)
            np.subtract.at(net, network.source, one)
            assert net[: network.devices] == pytest.approx(sent.sum(axis=0) - sent.sum(axis=1))
            assert net[network.devices :] == pytest.approx(0.0, abs=1e-12)


def test_paths_say_the_same_as_loads(tmp_path):
    for hardware in machines(tmp_path):
        network = network_of(hardware)
        n = network.devices
        traffic = RANDOM.random((n, n))
        source, target = (i.ravel() for i in np.indices((n, n)))
        assert flow_loads(network, source, target, traffic.ravel()) == pytest.approx(
            link_loads(network, traffic)
        )
        few = traffic[: n - 1, : n - 1]
        full = np.zeros((n, n))
        full[: n - 1, : n - 1] = few
        assert link_loads(network, few) == pytest.approx(link_loads(network, full))


@pytest.mark.parametrize("shape", [(5,), (3, 4), (4, 4), (2, 3, 4), (2, 2)])
@pytest.mark.parametrize("closed", [False, True])
def test_grids_against_walks(shape, closed):
    """Each pair walks along the last axis first, one step at a time."""
    n = int(np.prod(shape))
    traffic = RANDOM.random((n, n))
    source, target = grid_links(shape, closed)
    expected = dict.fromkeys(zip(source.tolist(), target.tolist(), strict=True), 0.0)
    for s, t in itertools.permutations(range(n), 2):
        for walk, share in walks(np.unravel_index(s, shape), np.unravel_index(t, shape), shape, closed):
            for a, b in itertools.pairwise(np.ravel_multi_index(place, shape) for place in walk):
                expected[int(a), int(b)] += share * traffic[s, t]
    found = dict.fromkeys(expected, 0.0)
    for a, b, load in zip(source.tolist(), target.tolist(), grid_loads(traffic, shape, closed), strict=True):
        found[a, b] += load
    assert found == pytest.approx(expected)


def walks(here, there, shape, closed):
    """Every walk and its part: dimension by dimension, last first, the shorter way; both ways where equal."""
    steps = [[]]
    for axis in reversed(range(len(shape))):
        extent, apart = shape[axis], int(there[axis]) - int(here[axis])
        ahead = apart % extent
        if not closed:
            ways = [(axis, np.sign(apart), abs(apart))]
        elif 2 * ahead == extent:
            ways = [(axis, 1, ahead), (axis, -1, ahead)]
        else:
            ways = [(axis, 1, ahead)] if 2 * ahead < extent else [(axis, -1, extent - ahead)]
        steps = [[*before, way] for before in steps for way in ways]
    for ways in steps:
        place = [int(i) for i in here]
        walk = [tuple(place)]
        for axis, sign, count in ways:
            for _ in range(count):
                place[axis] = (place[axis] + int(sign)) % shape[axis]
                walk.append(tuple(place))
        yield walk, 1.0 / len(steps)


def test_fabric_splits_evenly_over_all_shortest_paths(tmp_path):
    """Against networkx, which lists the paths."""
    for _ in range(12):
        made = nx.gnm_random_graph(9, 14, seed=int(RANDOM.integers(1e9)))
        made = made.subgraph(max(nx.connected_components(made), key=len))
        nodes = sorted(made)
        devices = [node for node in nodes if node < 5]
        names = {node: f"device:{i}" for i, node in enumerate(devices)}
        names |= {node: f"s{node}" for node in nodes if node >= 5}
        if len(devices) < 2:
            continue
        wires = [(names[a], names[b], 1e9 * (1 + a), 1e-7 * (1 + min(a, b))) for a, b in made.edges]
        text = fabric_text([name for name in names.values() if name.startswith("s")], wires)
        hardware = machine(tmp_path, len(devices), link("switch", domain=len(devices)), fabric=text)
        network = network_of(hardware)
        traffic = RANDOM.random((len(devices), len(devices)))
        edges = [*made.edges, *((b, a) for a, b in made.edges)]
        expected, latency = dict.fromkeys(edges, 0.0), np.zeros_like(traffic)
        slow = {(a, b): 1e-7 * (1 + min(b, a)) for a, b in edges}
        for i, j in itertools.permutations(range(len(devices)), 2):
            paths = [list(itertools.pairwise(p)) for p in nx.all_shortest_paths(made, devices[i], devices[j])]
            for edge in itertools.chain.from_iterable(paths):
                expected[edge] += traffic[i, j] / len(paths)
            latency[i, j] = max(sum(slow[edge] for edge in path) for path in paths)
        back = {name: node for node, name in names.items()}
        ends = [network.link_name(i).split(" > ") for i in range(len(network.source))]
        found = {
            (back[a], back[b]): load for (a, b), load in zip(ends, link_loads(network, traffic), strict=True)
        }
        assert found == pytest.approx(expected)
        assert latencies(network) == pytest.approx(latency)


def test_planes_one_by_one_are_the_planes_as_one(tmp_path):
    """A described fabric of two planes with leaves carries what the topology with two planes does."""
    plain = machine(tmp_path, 12, link("planes", domain=12, leaf=3, planes=2, taper=1.5, hop="0.3 us"))
    wires = []
    for plane, device in itertools.product(range(2), range(12)):
        wires.append((f"device:{device}", f"l{device // 3}p{plane}", 0.5e11, 0.5e-6))
    wires += [(f"l{leaf}p{p}", f"top{p}", 3 * 0.5e11 / 1.5, 0.3e-6) for leaf in range(4) for p in range(2)]
    switches = sorted({end for wire in wires for end in wire[:2] if not end.startswith("device")})
    whole = machine(tmp_path, 12, link("switch", domain=12), fabric=fabric_text(switches, wires))
    traffic = RANDOM.random((4, 12, 12)) * 1e9
    assert latencies(network_of(plain)) == pytest.approx(latencies(network_of(whole)))
    one, other = (contention_seconds(network_of(m), traffic) for m in (plain, whole))
    assert one == pytest.approx(other)


def test_alone_a_message_takes_latency_and_bandwidth(tmp_path):
    """The limit without contention is the alpha-beta model, exactly: path by path."""
    for hardware in machines(tmp_path):
        network = network_of(hardware)
        n = network.devices
        for _ in range(6):
            s, t = RANDOM.choice(n, 2, replace=False)
            traffic = np.zeros((n, n))
            traffic[s, t] = 1e7
            path = incidence(network, np.array([s]), np.array([t])).toarray()[0]
            narrowest = (path / network.rate_bytes_per_s).max()
            expected = latencies(network)[s, t] + 1e7 * narrowest
            assert contention_seconds(network, traffic) == pytest.approx(expected, rel=1e-12)
    node = machine(tmp_path, 8, link("switch", domain=8))
    traffic = np.zeros((8, 8))
    traffic[0, 1], traffic[2, 3] = 1e7, 5e6
    assert contention_seconds(network_of(node), traffic) == pytest.approx(1e-6 + 1e7 / 8e10, rel=1e-12)


def test_latency_grows_with_hops(tmp_path):
    mesh = network_of(
        machine(tmp_path, 12, link("mesh", domain=12, shape=[3, 4], latency=5e-7, hop="0.2 us"))
    )
    far = grid_hops((3, 4))
    assert latencies(mesh) == pytest.approx(np.where(far > 0, 5e-7 + (far - 1) * 2e-7, 0.0))
    planes = machine(tmp_path, 8, link("planes", domain=8, leaf=4, hop="0.3 us"))
    assert latencies(network_of(planes))[0, [1, 5]] == pytest.approx([1e-6, 1.6e-6])


def test_multicast_crosses_a_link_once(tmp_path):
    tree = network_of(machine(tmp_path, 12, link("planes", domain=12, leaf=3)))
    targets = np.zeros((2, 12), dtype=bool)
    targets[0, [1, 2, 3, 4, 6]] = True
    targets[1, 0] = True
    loads = multicast_loads(tree, np.array([0, 11]), targets, np.array([10.0, 1.0]))
    # Up once, out of the leaf once, into two leaves, down five times; then six links of the other message.
    assert loads.sum() == pytest.approx(10.0 * (1 + 1 + 2 + 5) + 4.0)
    assert loads.max() == pytest.approx(10.0 + 0.0)
    mesh = network_of(machine(tmp_path, 12, link("mesh", domain=12, shape=[3, 4])))
    targets = np.zeros((1, 12), dtype=bool)
    targets[0, [3, 7, 11, 10]] = True
    # Along the first row to the corner, down two; and down two in the third column.
    assert multicast_loads(mesh, np.array([0]), targets, np.array([1.0])).sum() == pytest.approx(3 + 2 + 2)


def test_multicast_never_carries_more_than_copies_do(tmp_path):
    for hardware in machines(tmp_path):
        network = network_of(hardware)
        n = network.devices
        source = RANDOM.integers(n, size=20)
        targets = RANDOM.random((20, n)) < 0.3
        once = multicast_loads(network, source, targets, np.ones(20))
        traffic = np.zeros((n, n))
        np.add.at(traffic, source, targets.astype(float))
        each = link_loads(network, traffic)
        assert (once <= each + 1e-9).all()
        alone = np.zeros((1, n), dtype=bool)
        alone[0, (source[0] + 1) % n] = True
        traffic[:] = 0.0
        traffic[source[0], (source[0] + 1) % n] = 3.0
        assert multicast_loads(network, source[:1], alone, np.array([3.0])) == pytest.approx(
            link_loads(network, traffic)
        )


def test_multicast_is_the_union_of_its_paths(tmp_path):
    """Message by message: the most that any path to its targets brings over a link."""
    for hardware in machines(tmp_path):
        network = network_of(hardware)
        n = network.devices
        source, sizes = RANDOM.integers(n, size=15), RANDOM.random(15)
        targets = RANDOM.random((15, n)) < 0.4
        expected = np.zeros(len(network.source))
        for one, wanted, size in zip(source, targets, sizes, strict=True):
            ends = np.flatnonzero(wanted)
            if len(ends):
                expected += size * incidence(network, np.full(len(ends), one), ends).toarray().max(axis=0)
        assert multicast_loads(network, source, targets, sizes) == pytest.approx(expected)


def test_hosts_and_memories_are_ends_too(tmp_path):
    node = network_of(load_hardware("h100-sxm-8"))
    loads = flow_loads(node, np.array([0, 1]), np.array([node.node("host:0")] * 2), np.array([2.0, 3.0]))
    busy = {node.link_name(i): load for i, load in enumerate(loads) if load}
    assert busy == {"device:0 > host:0": 2.0, "device:1 > host:0": 3.0}
    fabric = network_of(machine(tmp_path, 4, link("switch", domain=4), fabric=FABRIC))
    # All reads of a memory behind CXL meet in its one link.
    memory = fabric.node("mem")
    loads = flow_loads(fabric, np.full(4, memory), np.arange(4), np.ones(4))
    assert loads[[fabric.link_name(i) == "mem > x" for i in range(len(loads))]] == pytest.approx([4.0])


def test_what_cannot_be_reached_is_refused():
    two = network_of(load_hardware("h100-sxm-8", nodes=2))
    with pytest.raises(ValueError, match="17 ranks on 16 devices"):
        link_loads(two, np.ones((17, 17)))
    with pytest.raises(ValueError, match="no way from host:0 to host:1"):
        incidence(two, np.array([two.node("host:0")]), np.array([two.node("host:1")]))


def test_the_graph_has_the_same_links(tmp_path):
    for hardware in machines(tmp_path):
        network, made = network_of(hardware), graph(hardware)
        total = sum(width for *_, width in made.edges(data="bandwidth_bytes_per_s"))
        assert 2 * total == pytest.approx(network.bandwidth_bytes_per_s.sum())
        assert set(made) == set(network.names)
        for index in range(len(network.source)):
            assert made.has_edge(*network.link_name(index).split(" > "))
