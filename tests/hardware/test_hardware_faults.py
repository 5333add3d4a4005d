"""Faults of links, fabrics, caches and energies; all faults of a file at once, whatever their sort."""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moesim.errors import ConfigError
from moesim.hardware import KINDS, load_hardware
from moesim.hardware.catalogue import examine
from moesim.hardware.check_links import MOST_WIRES, check_fabric
from moesim.hardware.describe import check_file
from moesim.hardware.read import faults_of
from moesim.hardware.spec import Spec

DEVICE = """\
schema_version: 1
name: toy
title: Toy
kind: gpu
sources: {sheet: the sheet}
source: sheet
devices:
  toy:
    title: Toy
    processors:
      core:
        peak: {bf16: 100 TFLOP/s}
        energy: {scope: device, per_flop: {bf16: 0.3 pJ/FLOP}}
        path_energy: {hbm: {scope: device, per_byte: 0.5 pJ/bit}}
        area_mm2: 12
    memories:
      hbm: {capacity: 16 GB, bandwidth: 1 TB/s,
            latency: 300 ns, energy: {scope: device+phy, per_byte: 3.9 pJ/bit}}
    cache: {capacity: 64 MB, hit: 100 ns, miss: 110 ns, write: 30 ns}
node:
  devices: 4
  scale_up: {name: wire, bandwidth: 50 GB/s, latency: 2 us, efficiency: 0.9, domain: 4, topology: TOPOLOGY}
"""
FABRIC = """\
fabric:
  topology: tree
  switches: [leaf-a, leaf-b, spine]
  links:
    - {ends: ["device:0", leaf-a], bandwidth: 50 GB/s, latency: 1 us}
    - {ends: ["device:1", leaf-a], bandwidth: 50 GB/s, latency: 1 us}
    - {ends: ["device:2", leaf-b], bandwidth: 50 GB/s, latency: 1 us}
    - {ends: ["device:3", leaf-b], bandwidth: 50 GB/s, latency: 1 us}
    - {ends: [leaf-a, spine], bandwidth: 100 GB/s, latency: 1 us}
    - {ends: [leaf-b, spine], bandwidth: 100 GB/s, latency: 1 us}
"""
WIRE = ", bandwidth: 50 GB/s, latency: 1 us}\n"


@pytest.fixture
def write(tmp_path):
    def make(text: str, *changes: tuple[str, str]) -> Path:
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        path = tmp_path / f"machine{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def toy(topology: str = "ring", fabric: str = "") -> str:
    return DEVICE.replace("TOPOLOGY", topology) + fabric


def faults(path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_hardware(path)
    return [str(fault) for fault in caught.value.faults]


def test_the_new_fields_arrive_in_si(write):
    machine = load_hardware(write(toy("torus, shape: [2, 2], hop: 1 us", FABRIC)))
    memory, processor, cache = machine.device.memory, machine.device.processor, machine.device.cache
    assert memory.latency_s == pytest.approx(3e-7)
    assert memory.energy_per_byte.joules == pytest.approx(8 * 3.9e-12)
    assert memory.energy_per_byte.scope == "device+phy"
    assert processor.energy_per_byte["hbm"].joules == pytest.approx(4e-12)
    assert processor.energy_per_flop["bf16"].joules == pytest.approx(3e-13)
    assert processor.area_mm2 == 12
    assert (cache.capacity_bytes, cache.hit_s, cache.miss_s, cache.write_s) == (
        64e6,
        pytest.approx(1e-7),
        pytest.approx(1.1e-7),
        pytest.approx(3e-8),
    )
    assert (machine.scale_up.shape, machine.scale_up.hop_s) == ((2, 2), 1e-6)
    assert machine.fabric is not None
    assert [wire.ends for wire in machine.fabric.wires][-1] == ("leaf-b", "spine")


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        ("ring, shape: [2, 2]", "scale_up.shape: a ring has no shape (got [2, 2]); allowed: only for mesh"),
        ("mesh, shape: [2, 3]", "scale_up.shape: holds 6 devices, and the link connects 4 (got [2, 3])"),
        ("torus, shape: [4, 4]", "holds 16 devices, and the link connects 4"),
        ("ring, planes: 2", "scale_up.planes: a ring has no such switches (got 2); allowed: only for switch"),
        ("switch, leaf: 2", "scale_up.leaf: a switch has no such switches (got 2); allowed: only for tree"),
        ("planes, leaf: 3", "scale_up.leaf: does not divide the 4 devices (got 3)"),
        ("tree, leaf: 2, taper: 0.5", "scale_up.taper: below 1 (got 0.5)"),
        ("tree, taper: 2", "scale_up.taper: there are no leaf switches (got 2"),
        ("ring, hop: 2 h", "scale_up.hop: implausible"),
        ("ring, energy: {scope: device, per_byte: 4 J/B}", "scale_up.energy.per_byte: implausible"),
        ("ring, energy: {scope: bord, per_byte: 4 pJ/bit}", "nearest: board"),
    ],
)
def test_links_whose_numbers_do_not_hold_together(write, topology, expected):
    found = faults(write(toy(topology)))
    assert any(expected in fault for fault in found), found


@pytest.mark.parametrize(
    "topology",
    [
        "mesh, shape: [2, 2]",
        "torus, shape: [4]",
        "planes, planes: 2, leaf: 2",
        "tree, leaf: 2, taper: 2",
        "switch, planes: 4, multicast: true",
        "fat_tree, leaf: 4, taper: 1.5",
    ],
)
def test_links_that_do(write, topology):
    assert check_file(write(toy(topology))).faults == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("path_energy: {hbm:", "path_energy: {hbn:"),
            "path_energy.hbn: no such memory; allowed: hbm; nearest: hbm",
        ),
        (("per_byte: 0.5 pJ/bit", "per_byte: 0.5 J/bit"), "path_energy.hbm.per_byte: implausible"),
        (("bf16: 0.3 pJ/FLOP", "bf16: 0.3 uJ/FLOP"), "energy.per_flop.bf16: implausible"),
        (("bf16: 0.3 pJ/FLOP", "bf17: 0.3 pJ/FLOP"), "nearest: bf16"),
        (("area_mm2: 12", "area_mm2: 900000"), "area_mm2: implausible"),
        (("capacity: 64 MB", "capacity: 64 TB"), "cache.capacity: implausible (got '64 TB')"),
        (("hit: 100 ns", "hit: 100 ms"), "cache.hit: implausible"),
        (("latency: 300 ns", "latency: 300"), "memories.hbm.latency: implausible"),
        (("devices: 4", "devices: 4000000"), "node.devices: more than any machine has (got 4000000)"),
        (("bandwidth: 1 TB/s", "bandwidth: -1 TB/s"), "hbm.bandwidth: not positive (got '-1 TB/s')"),
        (("kind: gpu", "kind: wafr"), "nearest: wafer"),
    ],
)
def test_devices_with_one_fault(write, change, expected):
    found = faults(write(toy(), change))
    assert any(expected in fault for fault in found), found


def test_a_good_fabric_has_no_fault(write):
    assert check_file(write(toy(fabric=FABRIC))).faults == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('"device:3", leaf-b', '"device:3", leafb'), ["links.3.ends.1: connects to nothing (got 'leafb')"]),
        (('"device:3", leaf-b', '"devise:3", leaf-b'), ["connects to nothing (got 'devise:3')"]),
        (
            ('"device:3"', '"device:4"'),
            [
                "there is no such device (got 'device:4'); allowed: device:0 to device:3",
                "no link reaches it (got 'device:3')",
            ],
        ),
        (
            ('"device:3", leaf-b', "leaf-b, leaf-b"),
            ["connects a thing to itself (got 'leaf-b')", "no link reaches it"],
        ),
        (
            ('"device:3", leaf-b', '"device:2", leaf-b'),
            ["the same connection as fabric.links.2", "no link reaches it"],
        ),
        (
            ("[leaf-b, spine]", "[leaf-a, leaf-a]"),
            ["connects a thing to itself", "no way leads from device:0 to it"],
        ),
        (
            (
                "    - {ends: [leaf-b, spine]",
                "    - {ends: [leaf-a, leaf-b]" + WIRE + "    - {ends: [leaf-b, spine]",
            ),
            ["links.6.ends: closes a cycle"],
        ),
        (("leaf-b, spine]", "leaf-b, spine, spare]"), ["no link reaches it (got 'spare')"]),
        (("leaf-b, spine]", "leaf-b, spine, spine]"), ["fabric.switches: named twice (got 'spine')"]),
        (("bandwidth: 100 GB/s", "bandwidth: 100"), ["links.4.bandwidth: implausible"]),
    ],
)
def test_fabrics_with_a_fault(write, change, expected):
    found = faults(write(toy(fabric=FABRIC), change))
    for part in expected:
        assert any(part in fault for fault in found), (part, found)
    misspelt = "connects to nothing" in expected[0]
    # A misspelt end is one fault: what it was meant to reach is not reported as out of reach.
    assert not misspelt or len(found) == 1


def test_a_cycle_is_a_fault_of_a_tree_only(write):
    ring = FABRIC + "    - {ends: [leaf-a, leaf-b]" + WIRE
    assert "closes a cycle" in faults(write(toy(fabric=ring)))[0]
    assert check_file(write(toy(fabric=ring), ("topology: tree", "topology: any"))).faults == ()


def test_nearest_name_of_a_dangling_end(write):
    (fault,) = faults(write(toy(fabric=FABRIC), ("[leaf-a, spine]", "[leaf-a, spin]")))
    assert "nearest: spine" in fault


def test_ten_faults_of_every_sort_at_once(write):
    """Units and signs that cannot be read do not hide links to nowhere, and the other way round."""
    path = write(
        toy("mesh, shape: [3, 2]", FABRIC),
        ("bandwidth: 1 TB/s", "bandwidth: -1 TB/s"),
        ("bf16: 100 TFLOP/s", "bf16: 100 TFLOP/s, fp8: 200 parsec"),
        ("source: sheet\n", "source: shete\n"),
        ("kind: gpu", "kind: gbu"),
        ("capacity: 64 MB", "capacity: 64 TB"),
        ("hbm: {scope", "hbn: {scope"),
        ("area_mm2: 12", "area_mm2: 900000"),
        ('"device:3", leaf-b', '"device:3", leafb'),
        ("[leaf-b, spine]", "[leaf-b, spine]" + WIRE + "    - {ends: [leaf-a, leaf-b]"),
        ("title: Toy\nkind", "titel: Toy\nkind"),
        ("domain: 4", "domain: 4, color: red"),
    )
    found = faults(path)
    for part in (
        "hbm.bandwidth: not positive (got '-1 TB/s')",
        "peak.fp8: has an unknown unit 'parsec'",
        "kind: is not one of the choices (got 'gbu')",
        "cache.capacity: implausible (got '64 TB')",
        "path_energy.hbn: no such memory",
        "area_mm2: implausible",
        "fabric.links.3.ends.1: connects to nothing (got 'leafb')",
        "fabric.links.6.ends: closes a cycle",
        "scale_up.shape: holds 6 devices",
        "title: is missing",
        "titel: unknown key; allowed: title?",
        "scale_up.color: unknown key",
    ):
        assert any(part in fault for fault in found), (part, found)
    report = check_file(path)
    assert [str(fault) for fault in report.faults] == found[:12]
    # Numbers whose source nobody explains would be a warning by themselves; here they are told too, as one.
    assert len(found) == 13
    assert "its source 'shete' is not explained (and " in found[12]
    assert any(
        "its source 'shete' is not explained" in str(w) and "nearest: sheet" in str(w)
        for w in report.warnings
    )


def test_what_stands_in_for_a_fault_is_never_faulted_itself(write):
    """A domain that cannot be read says nothing about the shape, nor do no devices about the fabric."""
    (only,) = faults(write(toy("mesh, shape: [2, 2]"), ("domain: 4", "domain: four")))
    assert only.startswith("node.scale_up.domain: not a whole number")
    (only,) = faults(write(toy("mesh, shape: [2, 2]", FABRIC), ("devices: 4", "devices: 0")))
    assert only.startswith("node.devices: not a whole number")


def test_a_missing_part_is_said_and_the_rest_is_left(write):
    text = toy(fabric=FABRIC)
    found = faults(write(text[: text.index("node:")] + FABRIC))
    assert found == [
        "node: is missing; allowed: a mapping: source, status, note, devices, scale_up, host_link, host"
    ]


def test_a_million_links_are_refused_quickly(write):
    text = toy(fabric="fabric:\n  switches: [s]\n  links:\n")
    many = "".join(f'    - {{ends: ["device:0", s{i}]{WIRE}' for i in range(9000))
    start = time.process_time()
    assert any("too big" in fault or "too many values" in fault for fault in faults(write(text + many)))
    row = ", ".join(["*w"] * 100)
    table = (
        "x: &w {ends: [s, t], bandwidth: 1, latency: 0}\ny: &r ["
        + row
        + "]\nz: ["
        + ", ".join(["*r"] * 10_000)
    )
    assert any("too many values" in fault for fault in faults(write(text + "    []\n" + table + "]\n")))
    assert time.process_time() - start < 20


def test_a_fabric_has_a_largest_size():
    wire = {"ends": ["device:0", "device:1"], "bandwidth": "1 GB/s", "latency": "1 us"}
    raw = {
        "schema_version": 1,
        "name": "x",
        "title": "x",
        "kind": "gpu",
        "devices": {
            "d": {
                "title": "d",
                "processors": {"p": {"peak": {"bf16": "1 TFLOP/s"}}},
                "memories": {"m": {"capacity": "1 GB", "bandwidth": "1 TB/s"}},
            }
        },
        "node": {
            "devices": 2,
            "scale_up": {
                "name": "w",
                "bandwidth": "1 GB/s",
                "latency": "1 us",
                "efficiency": 1,
                "domain": 2,
                "topology": "ring",
            },
        },
        "fabric": {"links": [wire] * (MOST_WIRES + 1)},
    }
    (fault,) = check_fabric(Spec.model_validate(raw))
    assert str(fault).startswith("fabric: too large (got 20001)")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_random_trees_are_trees_and_one_more_link_is_a_cycle(data):
    size = data.draw(st.integers(2, 12))
    up = [data.draw(st.integers(0, i - 1)) for i in range(1, size)]
    links = [(f"device:{i + 1}", f"device:{parent}") for i, parent in enumerate(up)]
    spec = _fabric(size, links, "tree")
    assert list(check_fabric(spec)) == []
    pairs = [(a, b) for a in range(size) for b in range(a) if (f"device:{a}", f"device:{b}") not in links]
    if pairs:
        a, b = data.draw(st.sampled_from(pairs))
        (fault,) = check_fabric(_fabric(size, [*links, (f"device:{a}", f"device:{b}")], "tree"))
        assert fault.message == "closes a cycle"
    gone = data.draw(st.integers(0, size - 2))
    assert list(check_fabric(_fabric(size, links[:gone] + links[gone + 1 :], "tree")))


def _fabric(devices, links, topology):
    part = Spec.model_fields["fabric"].annotation.__args__[0]
    fabric = part.model_validate(
        {
            "topology": topology,
            "links": [{"ends": list(ends), "bandwidth": "1 GB/s", "latency": "1 us"} for ends in links]
            or [{"ends": ["device:0", "device:0"], "bandwidth": "1 GB/s", "latency": "1 us"}],
        }
    )
    node = load_node(devices)
    return Spec.model_construct(node=node, cluster=None, fabric=fabric)


def load_node(devices):
    part = Spec.model_fields["node"].annotation
    link = {
        "name": "w",
        "bandwidth": "1 GB/s",
        "latency": "1 us",
        "efficiency": 1,
        "domain": 1,
        "topology": "ring",
    }
    return part.model_validate({"devices": devices, "scale_up": link})


def test_kinds_are_those_of_the_schema():
    from typing import get_args

    from moesim.hardware.spec import Kind, Scope
    from moesim.hardware.types import SCOPES

    assert list(KINDS) == list(get_args(Kind))
    assert list(SCOPES) == list(get_args(Scope))


JUNK = (
    None,
    -1,
    0,
    "-3 TB/s",
    "5 parsec",
    "",
    [],
    {},
    [1, 2, 3],
    {"value": "x"},
    True,
    "device:0",
    3.7,
    "x" * 100,
)


def _places(item, at=()):
    yield at
    children = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for key, value in children:
        yield from _places(value, (*at, key))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_is_changed_in_a_file_is_a_fault_or_fine(data):
    """Nothing but `ConfigError` comes out, and what a reader alone would say is always among the faults."""
    from ruamel.yaml import YAML

    raw = YAML(typ="safe").load(toy("mesh, shape: [2, 2]", FABRIC))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.sampled_from([place for place in _places(raw) if place]))
        parent = raw
        for key in at[:-1]:
            parent = parent[key]
        if isinstance(parent, dict) and data.draw(st.booleans()):
            parent.pop(at[-1])
        else:
            parent[at[-1]] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(raw, file)
        try:
            description, findings = examine(path)
        except ConfigError:
            # A file that holds no mapping at all.
            return
    found = [str(finding.fault) for finding in findings]
    assert len(found) == len(set(found))
    read = []
    try:
        Spec.model_validate(raw)
    except ValidationError as error:
        read = [str(fault) for fault in faults_of(Spec, error)]
    assert set(read) <= set(found)
    assert (description is None) == bool(read)
