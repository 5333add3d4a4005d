"""Time under contention against packets that queue for links."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fabric_machines import fabric_text, link, machine
from packet_model import seconds, shortest_ways

from moesim.fabric import busiest_seconds, contention_seconds, hops, latencies, link_loads, network_of
from moesim.hardware.topology import graph

EFFICIENCY = 0.8


def grid_ways(shape, closed):
    """Along the row first, one step at a time, the shorter way round; both ways where they are equal."""

    def ways(source, target):
        here, there = (np.unravel_index(int(name.partition(":")[2]), shape) for name in (source, target))
        found = [[tuple(int(i) for i in here)]]
        for axis in reversed(range(len(shape))):
            extent = shape[axis]
            ahead = (int(there[axis]) - int(here[axis])) % extent
            if closed:
                turns = [(1, ahead)] if 2 * ahead < extent else [(-1, extent - ahead)]
                turns = [(1, ahead), (-1, ahead)] if 2 * ahead == extent else turns
            else:
                turns = [(1 if there[axis] > here[axis] else -1, abs(int(there[axis]) - int(here[axis])))]
            found = [walk(path, axis, sign, count, extent) for path in found for sign, count in turns]
        return [[f"device:{np.ravel_multi_index(place, shape)}" for place in path] for path in found]

    return ways


def walk(path, axis, sign, count, extent):
    path = list(path)
    for _ in range(count):
        place = list(path[-1])
        place[axis] = (place[axis] + sign) % extent
        path.append(tuple(place))
    return path


def cases(folder):
    yield (
        "mesh",
        machine(folder, 9, link("mesh", domain=9, shape=[3, 3], hop="1 us")),
        grid_ways((3, 3), False),
    )
    yield (
        "torus",
        machine(folder, 16, link("torus", domain=16, shape=[4, 4], hop="1 us")),
        grid_ways((4, 4), True),
    )
    for name, up in (
        ("switch", link("switch", domain=6)),
        ("tree", link("tree", domain=8, leaf=4, taper=4)),
        ("planes", link("planes", domain=9, leaf=3, planes=3, hop="0.3 us")),
        ("full mesh", link("full_mesh", domain=6)),
    ):
        hardware = machine(folder, 9 if name == "planes" else 8 if name == "tree" else 6, up)
        made = graph(hardware)
        yield name, hardware, lambda a, b, made=made: shortest_ways(made, a, b)
    hardware = machine(folder, 2, link("switch", domain=2), link("rail", taper=2), nodes=4)
    made = graph(hardware)
    # Between nodes over the network only.
    network = made.copy()
    network.remove_nodes_from([node for node in made if node.startswith("switch:scale_up")])

    def rail_ways(a, b):
        near = int(a.partition(":")[2]) // 2 == int(b.partition(":")[2]) // 2
        return shortest_ways(made if near else network, a, b)

    yield "rail", hardware, rail_ways
    wires = [("device:0", "a", 1e11, 1e-6), ("device:1", "a", 1e11, 1e-6), ("device:2", "b", 1e11, 1e-6)]
    wires += [("device:3", "b", 1e11, 1e-6), ("a", "x", 5e10, 1e-6), ("x", "b", 5e10, 1e-6)]
    wires += [("a", "y", 5e10, 1e-6), ("y", "b", 5e10, 1e-6)]
    text = fabric_text(["a", "b", "x", "y"], wires)
    hardware = machine(folder, 4, link("switch", domain=4), fabric=text)
    made = graph(hardware)
    yield "fabric", hardware, lambda a, b, made=made: shortest_ways(made, a, b)


def patterns(n, rng):
    yield "all to all", np.full((n, n), 4e6)
    skewed = rng.pareto(1.5, (n, n)) * 1e6
    yield "skewed", skewed
    hot = np.zeros((n, n))
    hot[:, n // 2] = 4e6
    yield "hotspot", hot
    one = np.zeros((n, n))
    one[0, n - 1] = 2e7
    yield "one", one


def packet_seconds(hardware, ways, traffic, packets):
    messages = [
        (f"device:{i}", f"device:{j}", traffic[i, j])
        for i, j in itertools.permutations(range(len(traffic)), 2)
        if traffic[i, j] > 0
    ]
    return seconds(graph(hardware), messages, ways, packets, EFFICIENCY)


def test_queues_of_packets_take_what_the_busiest_link_says(tmp_path):
    """Never less than the busiest link or the longest path; within 5 % and the filling of the path above."""
    packets, ratios = 16, []
    for name, hardware, ways in cases(tmp_path):
        network = network_of(hardware)
        n = network.devices
        narrow = network.rate_bytes_per_s.min()
        for what, traffic in patterns(n, np.random.default_rng(3)):
            ours = float(contention_seconds(network, traffic))
            theirs = packet_seconds(hardware, ways, traffic, packets)
            off = traffic * (1.0 - np.eye(n))
            longest = float(latencies(network)[off > 0].max())
            bound = max(float(busiest_seconds(network, link_loads(network, traffic))), longest)
            assert theirs >= bound * (1 - 1e-9), (name, what)
            # All of a packet arrives before it goes on: a message that is alone waits for one at each hop.
            fill = float((off * np.maximum(hops(network) - 1, 0)).max() / packets / narrow)
            assert theirs <= 1.05 * ours + fill, (name, what)
            ratios.append(theirs / ours)
    assert 0.99 < np.median(ratios) < 1.1


def test_smaller_packets_come_nearer(tmp_path):
    """A message that is alone: what is above latency and bandwidth is a packet at each further hop."""
    hardware = machine(tmp_path, 9, link("mesh", domain=9, shape=[3, 3], hop="1 us"))
    traffic = np.zeros((9, 9))
    traffic[0, 8] = 2e7
    ours = float(contention_seconds(network_of(hardware), traffic))
    for packets in (1, 4, 16, 64, 256):
        theirs = packet_seconds(hardware, grid_ways((3, 3), False), traffic, packets)
        assert theirs == pytest.approx(ours + 3 * (2e7 / packets) / 2e10)
