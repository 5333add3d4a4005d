"""Collectives on links against closed forms, and all-to-alls in one step, in two and through leaders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fabric_machines import fabric_text, link, machine

from moesim.cost import all_to_all_seconds, collective_seconds, exchange_seconds, message_seconds
from moesim.fabric import (
    ALGORITHMS,
    PEER_S,
    POST_S,
    all_to_all,
    all_to_all_parts,
    collective_seconds_on,
    contention_seconds,
    inside_lines,
    latencies,
    network_of,
)
from moesim.hardware import load_hardware
from moesim.ops import Message

RATE, ALPHA, HOP = 1e11 * 0.8, 1e-6, 2e-7


@pytest.mark.parametrize("n", [2, 3, 8, 12])
def test_algorithms_on_a_switch_are_the_textbooks(tmp_path, n):
    hardware = machine(tmp_path, n, link("switch", domain=n))
    for collective, times in (("all_gather", 1), ("reduce_scatter", 1), ("all_reduce", 2)):
        found = inside_lines(hardware, collective, n, n)
        moved = (n - 1) / n / RATE
        assert found["direct"] == pytest.approx((times * ALPHA, times * moved))
        assert found["ring"] == pytest.approx((times * (n - 1) * ALPHA, times * moved))
        assert ("doubling" in found) == (n & (n - 1) == 0)
        if "doubling" in found:
            steps = n.bit_length() - 1
            assert found["doubling"] == pytest.approx((times * steps * ALPHA, times * moved))


def test_a_torus_uses_all_its_links(tmp_path):
    """Rings along all axes at once: every link is busy all the time, as the bandwidth of a device allows."""
    for shape in ([4, 4], [3, 3, 3], [5, 5]):
        n = int(np.prod(shape))
        hardware = machine(tmp_path, n, link("torus", domain=n, shape=shape, hop=f"{HOP} s"))
        line = inside_lines(hardware, "all_gather", n, n)["axes"]
        assert line.beta_s == pytest.approx((n - 1) / n / RATE)
        assert line.alpha_s == pytest.approx(sum(extent - 1 for extent in shape) * ALPHA)


def test_a_line_takes_two_ways_at_once(tmp_path):
    """A ring laid on a line: what goes back passes all of it, the other way."""
    hardware = machine(tmp_path, 5, link("mesh", domain=5, shape=[1, 5], hop=f"{HOP} s"))
    ring = inside_lines(hardware, "all_gather", 5, 5)["ring"]
    assert ring == pytest.approx((4 * (ALPHA + 3 * HOP), 4 / 5 / (RATE / 2)))


def test_even_all_to_all_of_a_torus_and_a_mesh(tmp_path):
    """The links in the middle of a mesh carry k/4 times a device's bytes, those of a torus half of that."""
    k = 4
    torus, mesh = (
        machine(tmp_path, k * k, link(name, domain=k * k, shape=[k, k])) for name in ("torus", "mesh")
    )
    torus_line, mesh_line = (inside_lines(m, "all_to_all", k * k, k * k)["direct"] for m in (torus, mesh))
    # Bytes of each rank V: half of a row's V k cross its middle, half of these up, over RATE / 4.
    assert mesh_line.beta_s == pytest.approx((k / 4) / (RATE / 4))
    assert torus_line.beta_s == pytest.approx((k / 8) / (RATE / 4))


def test_tapered_leaves_gather_inside_first(tmp_path):
    """Behind a taper of 4, an all-gather that crosses once per leaf beats each to each."""
    hardware = machine(tmp_path, 16, link("planes", domain=16, leaf=4, taper=4))
    found = inside_lines(hardware, "all_gather", 16, 16)
    assert found["direct"].beta_s == pytest.approx(4 * 12 / 16 / RATE * 4 / 4)
    best = collective_seconds_on(hardware, "all_gather", 16, 16, 1e9)
    # Twelve sixteenths come through the leaf's uplink, shared by four; then three quarters inside.
    assert best <= ALPHA * 2 + 1e9 * (12 / 16 + 3 / 4) / RATE * (1 + 1e-9)
    assert found["direct"].alpha_s + 1e9 * found["direct"].beta_s > best


def test_switches_that_copy_spare_what_is_shared(tmp_path):
    """Over a taper of 4 a leaf takes in each part once, not once for each of its devices."""
    for copies, part in (("false", 4 * 12 / 16), ("true", 12 / 16)):
        up = link("planes", domain=16, leaf=4, taper=4, multicast=copies)
        found = inside_lines(machine(tmp_path, 16, up), "all_gather", 16, 16)
        assert ("multicast" in found) == (copies == "true")
        best = found["multicast" if copies == "true" else "direct"]
        # Uplinks of four devices at a quarter: as wide as one device. Down to each: 15 of 16 parts.
        assert best == pytest.approx((ALPHA, max(part, 15 / 16) / RATE))
    line = machine(tmp_path, 5, link("mesh", domain=5, shape=[1, 5], multicast="true"))
    found = inside_lines(line, "all_gather", 5, 5)
    # Over the last link four parts go once; over the second, two or three parts go to each of three or two.
    assert found["multicast"].beta_s == pytest.approx(4 / 5 / (RATE / 2))
    assert found["direct"].beta_s == pytest.approx(6 / 5 / (RATE / 2))
    assert "multicast" not in inside_lines(line, "reduce_scatter", 5, 5)


def test_a_fabric_of_each_node_and_a_network_between(tmp_path):
    """A described node that is there twice: its wires inside, the network across."""
    wires = [("device:0", "s", 1e11, 1e-6), ("device:1", "s", 1e11, 1e-6)]
    text = fabric_text(["s"], wires)
    far = link("switch", latency=5e-6)
    hardware = machine(tmp_path, 2, link("switch", domain=2), far, fabric=text).with_nodes(2)
    network = network_of(hardware)
    assert [part.pattern for part in network.parts] == ["wires", "wires", "star"]
    assert latencies(network)[0] == pytest.approx([0.0, 2e-6, 5e-6, 5e-6])
    seconds = collective_seconds("all_reduce", 4, 4, np.array(1e9), hardware)
    assert seconds == pytest.approx(collective_seconds_on(hardware, "all_reduce", 4, 4, 1e9), rel=1e-3)


def test_a_measured_exchange_does_not_hide_a_taper():
    """Fits come from switches at full rate; behind a taper the links decide."""
    plain = load_hardware("h800-sxm-8", nodes=4)
    tapered = replace(plain, scale_out=replace(plain.scale_out, topology="fat_tree", leaf=8, taper=8.0))
    out = np.full((32, 32), 1e7)
    up = np.zeros_like(out)
    times = [
        float(exchange_seconds(up, out, m, mode="low_latency", way="dispatch", tokens=128))
        for m in (plain, tapered)
    ]
    assert times[1] > 4 * times[0]


def test_groups_that_cross_each_other_share_links(tmp_path):
    """Columns of a mesh at once do not meet; interleaved groups along one row do."""
    hardware = machine(tmp_path, 16, link("mesh", domain=16, shape=[4, 4]))
    columns = collective_seconds_on(hardware, "all_gather", 4, 16, 1e9)
    row = machine(tmp_path, 16, link("mesh", domain=16, shape=[1, 16]))
    crossed = collective_seconds_on(row, "all_gather", 4, 16, 1e9)
    assert crossed > 1.9 * columns


def test_cost_asks_where_nothing_was_measured(tmp_path):
    mesh = machine(tmp_path, 16, link("mesh", domain=16, shape=[4, 4]))
    sizes = np.array([1e4, 1e8])
    for collective in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        ours = collective_seconds_on(mesh, collective, 16, 16, sizes)
        assert collective_seconds(collective, 16, 16, sizes, mesh) == pytest.approx(ours)
    traffic = np.random.default_rng(1).random((3, 16, 16)) * 1e7
    expected = contention_seconds(network_of(mesh), traffic)
    assert all_to_all_seconds(traffic, np.zeros_like(traffic), mesh) == pytest.approx(expected)
    # One of four links of a device.
    send = message_seconds(Message("p", "send", 2, 2, 1e8), mesh)
    assert send == pytest.approx(ALPHA + 1e8 / (RATE / 4))
    # A node that talks over switches is as before, and its network with a taper is slower.
    plain = load_hardware("h100-sxm-8", nodes=4)
    tapered = replace(plain, scale_out=replace(plain.scale_out, topology="fat_tree", leaf=8, taper=4.0))
    flat, slow = (collective_seconds("all_reduce", 32, 32, np.array(1e9), m) for m in (plain, tapered))
    assert slow > 2.0 * flat


@pytest.mark.parametrize("machine_name", ["h100-sxm-8", "a100-sxm-80gb-8"])
def test_messages_of_one_step_and_of_two(machine_name):
    """Few bytes: n - 8 messages over the network against n / 8 - 1, each posted in turn."""
    for nodes in (4, 64):
        cluster = load_hardware(machine_name, nodes=nodes)
        n, network = 8 * nodes, cluster.scale_out
        flat = float(all_to_all(cluster, n, 0.0, "flat"))
        assert flat == pytest.approx(network.latency_s + (n - 9) * PEER_S)
        two = all_to_all_parts(cluster, n, 0.0, "two_level")
        assert two["inter"] == pytest.approx(network.latency_s + (nodes - 2) * PEER_S)
        slower = all_to_all(cluster, n, 0.0, "flat", message_s=PEER_S + 1e-6)
        assert slower - flat == pytest.approx((n - 9) * 1e-6)


def test_bytes_over_the_network_are_the_same_in_one_step_and_in_two():
    cluster = load_hardware("h100-sxm-8", nodes=4)
    network = cluster.scale_out
    rate = network.bandwidth_bytes_per_s * network.efficiency
    big = 1e12
    assert all_to_all(cluster, 32, big, "flat") == pytest.approx(24 / 32 * big / rate, rel=1e-3)
    two = all_to_all_parts(cluster, 32, big, "two_level")
    assert two["inter"] == pytest.approx(24 / 32 * big / rate, rel=1e-3)
    memory = cluster.device.memory.bandwidth_bytes_per_s
    assert two["copy"] == pytest.approx(4 * big / memory)
    assert all_to_all_parts(cluster, 32, big, "two_level", copies=False)["copy"] == 0.0


def test_leaders_pay_off_for_many_small_messages_and_one_card():
    """All bytes of a node through one rank: a loss for large ones, if each rank has a card of its own."""
    cluster = load_hardware("h100-sxm-8", nodes=4)
    network = cluster.scale_out
    rate = network.bandwidth_bytes_per_s * network.efficiency
    own, one = (
        all_to_all_parts(cluster, 32, 1e9, "leader", shared_nic=shared)["exchange"]
        for shared in (False, True)
    )
    assert own == pytest.approx(network.latency_s + 2 * PEER_S + 8 * 0.75e9 / rate)
    assert one == pytest.approx(network.latency_s + 2 * PEER_S + 0.75e9 / rate)
    many = load_hardware("h100-sxm-8", nodes=64)
    small = {name: float(all_to_all(many, 512, 1e4, name, shared_nic=True)) for name in ALGORITHMS}
    assert small["two_level"] < small["flat"]
    assert small["leader"] < small["flat"]
    assert all_to_all(many, 512, 1e4, shared_nic=True) == pytest.approx(min(small.values()))


def test_inside_a_domain_it_is_the_measured_one():
    node = load_hardware("h100-sxm-8")
    sizes = np.array([1e4, 1e6, 1e8])
    expected = collective_seconds("all_to_all", 8, 8, sizes, node)
    assert all_to_all(node, 8, sizes, "flat") == pytest.approx(expected)
    assert all_to_all(node, 8, sizes, "two_level") == pytest.approx(expected)


def test_what_makes_no_sense_is_refused():
    cluster = load_hardware("h100-sxm-8", nodes=4)
    with pytest.raises(ValueError, match="no algorithm 'sideways'; there are flat"):
        all_to_all(cluster, 32, 1e6, "sideways")
    with pytest.raises(ValueError, match="12 ranks do not fill whole domains of 8"):
        all_to_all(cluster, 12, 1e6, "flat")


def test_a_measured_exchange_of_64_h800_needs_a_send_and_a_receive_for_each_peer():
    """8 MiB 295.6 us in place, 337.8 us out of place (NVIDIA/nccl#1531); nothing is fitted."""
    cluster = load_hardware("h800-sxm-8", nodes=8)
    ours = float(all_to_all(cluster, 64, 8388608.0, "flat"))
    assert ours == pytest.approx(295.6e-6, rel=0.05)
    assert ours == pytest.approx(337.8e-6, rel=0.16)
    one_post = float(all_to_all(cluster, 64, 8388608.0, "flat", message_s=POST_S))
    assert one_post < 0.8 * 295.6e-6
