"""Reading descriptions: round trips, sources, and faults all at once."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from moesim.errors import ConfigError
from moesim.hardware import Efficiency, load_hardware
from moesim.hardware.catalogue import read_description

MACHINE = """\
schema_version: 1
name: toy-2
title: Two of something
kind: gpu
sources:
  sheet: the sheet
  guess: a guess
source: sheet
devices:
  toy:
    title: Toy
    processors:
      core:
        cores: 10
        peak: {bf16: 100 TFLOP/s, fp8: 200 TFLOP/s}
        efficiency:
          kinds:
            gemm: {floor: 2 us, compute: 0.5, memory: [[1 MB, 0.2], [1 GB, 0.8]], sharpness: 2}
    memories:
      hbm: {capacity: 16 GiB, bandwidth: 1 TB/s}
      near: {capacity: 1 GB, bandwidth: {value: 4 TB/s, source: guess, status: assumed, note: why not}}
    power: {tdp: 300 W}
    price: {per_hour: 1.5 USD/h, vendor: Somebody, date: 2026-01-31}
node:
  devices: 2
  scale_up:
    name: wire
    status: recalled
    bandwidth: 400 Gbit/s
    latency: 2 us
    efficiency: 0.9
    domain: 2
    topology: ring
    collectives:
      all_reduce: {ranks: [2], latency: [5 us], share: [0.8], source: guess}
"""


@pytest.fixture
def write(tmp_path):
    def make(text: str = MACHINE, *changes: tuple[str, str]) -> Path:
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / f"machine{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def faults(path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_hardware(path)
    assert caught.value.source == str(path)
    return [str(fault) for fault in caught.value.faults]


def test_every_number_arrives_in_si(write):
    machine = load_hardware(write())
    device, link = machine.device, machine.scale_up
    assert device.processor.peak_flops_per_s == {"bf16": 1e14, "fp8": 2e14}
    assert device.processor.cores == 10
    assert [m.capacity_bytes for m in device.memories] == [16 * 2.0**30, 1e9]
    assert device.processor.bandwidth_bytes_per_s == {"hbm": 1e12, "near": 4e12}
    assert (device.tdp_w, device.idle_w) == (300.0, None)
    assert (device.price.usd_per_hour, device.price.vendor, device.price.date) == (
        1.5,
        "Somebody",
        "2026-01-31",
    )
    assert (link.bandwidth_bytes_per_s, link.latency_s, link.efficiency) == (5e10, 2e-6, 0.9)
    (fit,) = link.collectives["all_reduce"]
    assert (fit.ranks, fit.busbw_bytes_per_s) == (2, 4e10)
    assert fit.alpha_s == pytest.approx(5e-6)
    gemm = device.processor.efficiency_of("gemm", "bf16")
    assert gemm.compute == ((1.0, 0.5),)
    assert gemm.memory == ((1e6, 0.2), (1e9, 0.8))
    assert (gemm.floor_s, gemm.sharpness) == (2e-6, 2.0)
    assert (machine.nodes, machine.max_nodes, machine.scale_out, machine.host) == (1, 1, None, None)
    assert device.processor.efficiency_of("elementwise", "bf16") == Efficiency()


def test_sources_are_those_of_the_nearest_mapping(write):
    origins = {o.path: o for o in read_description(write()).origins}
    near = origins["devices.toy.memories.near.bandwidth"]
    assert (near.source, near.status, near.note) == ("a guess", "assumed", "why not")
    assert origins["devices.toy.memories.hbm.bandwidth"].status == "seen"
    assert origins["node.scale_up.bandwidth"].status == "recalled"
    assert origins["node.scale_up.bandwidth"].source == "the sheet"
    # A new source starts as seen again, whatever an enclosing mapping says of its own.
    fit = origins["node.scale_up.collectives.all_reduce"]
    assert (fit.source, fit.status, fit.text) == ("a guess", "seen", "2: 5 us, 0.8")
    assert load_hardware(write()).sources["node.scale_up.latency"] == "the sheet [recalled]"


def test_all_faults_at_once_with_path_value_and_nearest_name(write):
    path = write(
        MACHINE,
        ("bandwidth: 1 TB/s", "bandwith: 1 TB/s"),
        ("cores: 10", "cores: ten"),
        ("topology: ring", "topology: rign"),
        ("fp8: 200 TFLOP/s", "fp8: 200 parsec"),
        ("kind: gpu", "kind: gbu"),
        ("tdp: 300 W", "tdp: {value: 300 W, status: heard}"),
    )
    found = faults(path)
    for expected in (
        "devices.toy.memories.hbm.bandwidth: is missing",
        "devices.toy.memories.hbm.bandwith: unknown key; allowed: bandwidth?",
        "devices.toy.processors.core.cores: not a whole number from 1 (got 'ten'); allowed: a whole",
        "nearest: ring",
        "has an unknown unit 'parsec' (got '200 parsec')",
        "allowed: gpu, npu, tpu, cpu, cpu-gpu",
        "devices.toy.power.tdp: unknown status 'heard' (got '300 W'); allowed: seen, recalled",
    ):
        assert any(expected in fault for fault in found), (expected, found)
    assert len(found) == 7


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("bandwidth: 1 TB/s", "bandwidth: 1000"), "memories.hbm.bandwidth: implausible (got '1 kB/s')"),
        (("capacity: 16 GiB", "capacity: 16"), "memories.hbm.capacity: implausible"),
        (("latency: 2 us", "latency: 2"), "node.scale_up.latency: implausible (got '2 s')"),
        (("bf16: 100 TFLOP/s, ", ""), "the main processor has no bf16 peak"),
        (("domain: 2", "domain: 3"), "do not divide each other"),
        (("[0.8]", "[2.1]"), "all_reduce.share.0: bus bandwidth beyond the link's (got 2.1)"),
        (("[0.8]", "[0.8, 0.9]"), "differ in length"),
        (("ranks: [2]", "ranks: [1]"), "ranks do not rise from at least 2"),
        (
            ("        peak:", "        bandwidth: {lpddr: 1 GB/s}\n        peak:"),
            "bandwidth.lpddr: no such memory",
        ),
        (
            ("[[1 MB, 0.2], [1 GB, 0.8]]", "[[1 MB, 0.1], [2 MB, 0.8]]"),
            "larger operation would take less time",
        ),
        (
            ("efficiency:\n          kinds:", "efficiency:\n          like: hoper\n          kinds:"),
            "nearest: hopper",
        ),
        (("gemm: {", "gem: {"), "no kind of operation (got 'gem')"),
        (("date: 2026-01-31", "date: yesterday"), "price.date: is no date (got 'yesterday')"),
        (("vendor: Somebody, ", ""), "price.vendor: is missing"),
        (("schema_version: 1", "schema_version: 2"), "schema_version"),
        (("name: toy-2", "name: ../toy"), "name: is no name"),
    ],
)
def test_each_implausible_thing_is_a_fault(write, change, expected):
    found = faults(write(MACHINE, change))
    assert any(expected in fault for fault in found), found


def test_all_reduce_may_beat_the_link_up_to_twofold(write):
    load_hardware(write(MACHINE, ("[0.8]", "[1.9]")))
    gather = write(MACHINE, ("all_reduce: {", "all_gather: {"), ("[0.8]", "[1.2]"))
    assert "all_gather.share.0: bus bandwidth beyond" in faults(gather)[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1, 2\nb: 3\n", "line 2, column 2: no YAML"),
        (b"- 1\n", "is a list"),
        (b"", "is empty"),
        (b"just text", "is a str"),
        (b"\xff\xfe\x00", "is no UTF-8 text"),
        (b"a: 1\na: 2\n", "duplicate key"),
        (b"a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        (b"[" * 1000, "nested too deeply"),
        (b"#" * 500_001, "is too big"),
        (b"a: &a\n  b: *a\n", "holds too many values"),
        (b"a: 2026-13-45\n", "no YAML"),
        (b"a: \x00\n", "no YAML"),
        (b"1: 2\n", "keys should be strings"),
    ],
)
def test_files_that_are_no_descriptions(tmp_path, content, expected):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert any(expected in fault for fault in faults(path))


def test_anchors_that_multiply_are_refused(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{new}: &{new} [{', '.join(['*' + old] * 9)}]")
    path = tmp_path / "x.yaml"
    path.write_text("\n".join(lines))
    assert "too many values" in faults(path)[0]


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in faults(tmp_path / "none.yaml")[0]
    assert "is a folder" in faults(tmp_path)[0]


def test_a_family_is_changed_kind_by_kind(write):
    text = MACHINE.replace("          kinds:", "          like: hopper\n          kinds:")
    processor = load_hardware(write(text)).device.processor
    hopper = load_hardware("h100-sxm-8").device.processor
    assert processor.efficiency_of("gemm", "bf16").floor_s == 2e-6
    # The machine's own gemm holds for all data types, so the family's gemm.fp8 no longer shows.
    assert processor.efficiency_of("gemm", "fp8") == processor.efficiency_of("gemm", "bf16")
    same = ("expert_gemm", "fp8")
    assert processor.efficiency_of(*same) == hopper.efficiency_of(*same)


def test_a_family_beside_the_file_hides_the_shipped_one(write, tmp_path):
    path = write(MACHINE.replace("          kinds:", "          like: hopper\n          kinds:"))
    (tmp_path / "efficiency").mkdir()
    own = """
        schema_version: 1
        name: hopper
        title: my own
        sources: {me: measured here}
        source: me
        kinds: {expert_gemm: {compute: 0.123}}
        """
    (tmp_path / "efficiency" / "hopper.yaml").write_text(textwrap.dedent(own))
    curve = load_hardware(path).device.processor.efficiency_of("expert_gemm", "fp8")
    assert curve.compute == ((1.0, 0.123),)
    assert curve.source == "measured here [seen]"


def test_a_file_without_sources_loads_and_is_warned_of(write):
    from moesim.hardware.describe import check_file

    path = write(MACHINE, ("source: sheet\n", ""))
    assert load_hardware(path).num_devices == 2
    report = check_file(path)
    assert not report.faults
    assert any("no source" in str(warning) for warning in report.warnings)


def test_a_sparse_peak_is_warned_of(write):
    from moesim.hardware.describe import check_file

    (warning,) = check_file(write(MACHINE, ("fp8: 200", "fp8: 400"))).warnings
    assert "fp8 is 4.00 x bf16" in str(warning)


def test_a_changed_file_is_read_again(write):
    path = write()
    before = load_hardware(path)
    assert load_hardware(path) is before
    path.write_text(MACHINE.replace("bandwidth: 1 TB/s", "bandwidth: 20 TB/s"))
    assert load_hardware(path).device.memory.bandwidth_bytes_per_s == 20e12
