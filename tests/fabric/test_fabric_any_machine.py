"""What must hold on any machine: random hardware files of every topology, and random fabrics."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabric_machines import fabric_text, link, machine
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost import all_to_all_seconds, collective_seconds
from moesim.fabric import (
    ALGORITHMS,
    algorithms,
    all_to_all,
    collective_seconds_on,
    contention_seconds,
    hops,
    incidence,
    latencies,
    link_loads,
    network_of,
    pattern,
)
from moesim.hardware import load_hardware, names
from moesim.hardware.types import Hardware

FEW = settings(max_examples=25, deadline=None)
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
bandwidths = st.floats(1e9, 1e12).map(lambda x: float(f"{x:.4g}"))
times = st.floats(0, 1e-5).map(lambda x: float(f"{x:.3g}"))


def divisors(n):
    return st.sampled_from([d for d in range(1, n + 1) if n % d == 0])


@st.composite
def links(draw, devices, topologies):
    topology = draw(st.sampled_from(topologies))
    more = {}
    if topology in ("mesh", "torus"):
        rows = draw(divisors(devices))
        more["shape"] = [rows, devices // rows]
    if topology in ("tree", "fat_tree", "planes"):
        more["leaf"] = draw(divisors(devices))
        more["taper"] = draw(st.sampled_from([1, 1.5, 4]))
    if topology == "planes":
        more["planes"] = draw(st.integers(1, 8))
    if topology == "rail":
        more["taper"] = draw(st.sampled_from([1, 2]))
    latency = draw(times)
    if draw(st.booleans()):
        more["hop"] = f"{min(draw(times), latency)} s"
    return topology, draw(bandwidths), latency, draw(st.floats(0.1, 1.0)), more


@st.composite
def machines(draw):
    """Hardware files, loaded."""
    up = ("switch", "full_mesh", "ring", "tree", "planes", "mesh", "torus", "fat_tree")
    per, nodes = draw(st.sampled_from([1, 2, 4, 6])), draw(st.sampled_from([1, 2, 4]))
    text = ""
    if draw(st.integers(0, 3)) == 0:
        per, nodes = draw(st.integers(2, 6)), 1
        switches = [f"s{i}" for i in range(draw(st.integers(1, 4)))]
        ends = [f"device:{i}" for i in range(per)] + switches
        # A tree that joins all, and a few wires more.
        pairs = {(draw(st.integers(0, i - 1)), i) for i in range(1, len(ends))}
        extra = st.tuples(st.integers(0, len(ends) - 1), st.integers(0, len(ends) - 1))
        pairs |= {(min(p), max(p)) for p in draw(st.lists(extra, max_size=5)) if p[0] != p[1]}
        text = fabric_text(
            switches, [(ends[a], ends[b], draw(bandwidths), draw(times)) for a, b in sorted(pairs)]
        )
    domain = per * (draw(st.sampled_from([1, nodes])) if not text else 1)
    topology, bandwidth, latency, efficiency, more = draw(links(domain, up))
    network = None
    if nodes > 1:
        out = ("switch", "fat_tree", "rail", "mesh", "ring", "full_mesh")
        kind, *rest, extra = draw(links(per * nodes, out))
        network = link(kind, *rest, **extra)
    with tempfile.TemporaryDirectory() as folder:
        return machine(
            Path(folder),
            per,
            link(topology, bandwidth, latency, efficiency, domain=domain, **more),
            network,
            nodes,
            text,
        )


@st.composite
def loaded(draw):
    """A machine and traffic on it."""
    hardware = draw(machines())
    n = hardware.num_devices
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    traffic = rng.pareto(1.2, (n, n)) * 1e6 * (rng.random((n, n)) < draw(st.sampled_from([0.1, 0.5, 1.0])))
    return hardware, traffic


def wider(hardware: Hardware, what: int) -> Hardware:
    """The same machine with one bandwidth doubled."""
    if hardware.fabric is not None:
        wires = list(hardware.fabric.wires)
        what %= len(wires)
        wires[what] = replace(wires[what], bandwidth_bytes_per_s=2 * wires[what].bandwidth_bytes_per_s)
        return replace(hardware, fabric=replace(hardware.fabric, wires=tuple(wires)))
    name = "scale_up" if what % 2 == 0 or hardware.scale_out is None else "scale_out"
    one = getattr(hardware, name)
    return replace(hardware, **{name: replace(one, bandwidth_bytes_per_s=2 * one.bandwidth_bytes_per_s)})


def exchanges(hardware, traffic):
    """What an exchange and every collective take."""
    n = hardware.num_devices
    found = [float(contention_seconds(network_of(hardware), traffic))]
    near = np.arange(n)[:, None] // hardware.domain == np.arange(n)[None, :] // hardware.domain
    found.append(float(all_to_all_seconds(traffic * near, traffic * ~near, hardware)))
    sizes = np.array([1e3, 1e8])
    for collective in COLLECTIVES:
        for ranks in {n, n // 2} - {0}:
            if n % ranks == 0:
                found += collective_seconds_on(hardware, collective, ranks, n, sizes).tolist()
                found += collective_seconds(collective, ranks, n, sizes, hardware).tolist()
    if n % network_of(hardware).domain == 0:
        for name in (*ALGORITHMS, "best"):
            found += all_to_all(hardware, n, sizes, name).tolist()
    return np.array(found)


@FEW
@given(loaded())
def test_bytes_are_conserved(case):
    hardware, traffic = case
    network = network_of(hardware)
    n = network.devices
    loads = link_loads(network, traffic)
    np.fill_diagonal(traffic, 0.0)
    assert loads.sum() == pytest.approx((traffic * hops(network)).sum())
    net = np.zeros(len(network.names))
    np.add.at(net, network.target, loads)
    np.subtract.at(net, network.source, loads)
    rounding = 1e-9 * max(1.0, traffic.sum())
    assert net[:n] == pytest.approx(traffic.sum(axis=0) - traffic.sum(axis=1), abs=rounding)
    assert net[n:] == pytest.approx(0.0, abs=rounding)


@FEW
@given(machines(), st.integers(0, 10**6), st.floats(0, 1e12))
def test_without_contention_it_is_latency_and_bandwidth(hardware, pick, size):
    network = network_of(hardware)
    n = network.devices
    s, t = pick % n, (pick // n) % n
    traffic = np.zeros((n, n))
    traffic[s, t] = size
    if s == t or size == 0.0:
        assert contention_seconds(network, traffic) == 0.0
        return
    path = incidence(network, np.array([s]), np.array([t])).toarray()[0]
    alone = latencies(network)[s, t] + size * (path / network.rate_bytes_per_s).max()
    assert contention_seconds(network, traffic) == pytest.approx(alone, rel=1e-12)


@FEW
@given(loaded(), st.integers(0, 50))
def test_doubling_any_bandwidth_never_slows_anything(case, what):
    hardware, traffic = case
    before, after = (exchanges(one, traffic) for one in (hardware, wider(hardware, what)))
    assert (after <= before * (1 + 1e-12)).all()


@FEW
@given(loaded(), st.integers(0, 10**6), st.floats(0, 1e9))
def test_more_traffic_is_never_faster(case, where, more):
    hardware, traffic = case
    n = hardware.num_devices
    added = traffic.copy()
    added[where % n, (where // n) % n] += more
    network = network_of(hardware)
    assert contention_seconds(network, added) >= contention_seconds(network, traffic) * (1 - 1e-12)
    sizes = np.array([1e3, 1e3 + more])
    for collective in COLLECTIVES:
        few, many = collective_seconds_on(hardware, collective, n, n, sizes)
        assert many >= few * (1 - 1e-12)


@FEW
@given(loaded(), st.integers(0, 2**31))
def test_devices_that_are_alike_may_change_places(case, seed):
    """A symmetry of the topology leaves times as they are."""
    hardware, traffic = case
    order = symmetry(hardware, np.random.default_rng(seed))
    network = network_of(hardware)
    changed = np.zeros_like(traffic)
    changed[np.ix_(order, order)] = traffic
    assert contention_seconds(network, changed) == pytest.approx(contention_seconds(network, traffic))


def symmetry(hardware, rng):
    """Each device's new place."""
    n = hardware.num_devices
    up = hardware.scale_up
    if hardware.fabric is not None or (hardware.scale_out is not None and n > hardware.domain):
        return np.arange(n)
    if up.topology in ("mesh", "torus", "ring"):
        part = next((p for p in network_of(hardware).parts if p.pattern == "grid"), None)
        if part is None:
            return np.arange(n)
        nodes = np.arange(n).reshape(part.shape)
        for axis, extent in enumerate(part.shape):
            if rng.random() < 0.5:
                nodes = np.flip(nodes, axis)
            if part.closed:
                nodes = np.roll(nodes, int(rng.integers(extent)), axis)
        return nodes.ravel()
    size = up.leaf if up.leaf and up.leaf < n else n
    blocks = np.arange(n).reshape(-1, size)[rng.permutation(n // size)]
    return np.concatenate([rng.permutation(block) for block in blocks])


@FEW
@given(machines())
def test_no_collective_beats_what_a_device_must_receive(hardware):
    """Each device takes in all parts that it does not have, over all its links at once."""
    network = network_of(hardware)
    n = network.devices
    if n == 1:
        return
    into = np.zeros(n)
    for link_, end in enumerate(network.target.tolist()):
        if end < n and network.kind[link_] != "host":
            into[end] += network.rate_bytes_per_s[link_]
    least = (n - 1) / n * 1e9 / into.min()
    for collective, times_ in (
        ("all_gather", 1),
        ("reduce_scatter", 1),
        ("all_reduce", 2),
        ("all_to_all", 1),
    ):
        seconds = float(collective_seconds_on(hardware, collective, n, n, 1e9))
        assert math.isfinite(seconds)
        assert seconds >= times_ * least * (1 - 1e-12)


def test_every_machine_of_the_catalogue_is_a_network():
    for name in names():
        one = load_hardware(name)
        for hardware in {one.nodes: one, 2: one.with_nodes(2)}.values():
            if hardware.num_devices < 2 or hardware.nodes > (hardware.max_nodes or 2):
                continue
            traffic = pattern("all_to_all", hardware.num_devices, 64e6)
            found = [float(contention_seconds(network_of(hardware), traffic))]
            found += [seconds for *_, seconds in algorithms(hardware, hardware.num_devices, 64e6)]
            assert all(0.0 < seconds < 10.0 for seconds in found), name
