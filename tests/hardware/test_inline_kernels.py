"""Measured kernels inside a hardware file: a machine that stands alone."""

from __future__ import annotations

import json

import pytest

from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.hardware.describe import check_file
from moesim.hardware.spec import Spec, json_schema

TEXT = """\
schema_version: 1
name: box
title: A box with a CPU
kind: cpu
sources: {run: "a run of moesim calibrate cpu"}
source: run
status: measured
devices:
  cpu:
    title: A CPU
    processors:
      core:
        cores: 1
        peak: {fp32: 100 GFLOP/s, bf16: 100 GFLOP/s}
        kernels:
          measured: {date: 2026-11-22, floor: {median: 0.02}}
          fits:
            - {kernel: expert, dtype: fp32, backend: reference, version: "1", floor_us: 3.5, sharpness: 2,
               axes: [{low: 0, step: 1, knots: 2}, {low: 8, step: 1, knots: 1}, {low: 8, step: 1, knots: 1}],
               steps: [10, 20], log_error: [-0.1, 0, 0.1], rows: 40}
    memories:
      ram: {capacity: 16 GB, bandwidth: 10 GB/s}
node:
  devices: 1
  scale_up: {name: memory, bandwidth: 5 GB/s, latency: 1 us, efficiency: 1, domain: 1, topology: tree}
"""


@pytest.fixture
def write(tmp_path):
    def make(*changes: tuple[str, str]):
        text = TEXT
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "box.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def faults(path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_hardware(path)
    return [str(fault) for fault in caught.value.faults]


def test_they_are_the_processors_kernels_and_its_own(write):
    machine = load_hardware(write())
    processor = machine.device.processor
    assert processor.measured_on == machine.device.name == "cpu"
    law = processor.kernels["expert", "fp32", "reference"]
    assert (law.floor_s, law.values, law.log_error) == (pytest.approx(3.5e-6), (0.05, 0.1), (-0.1, 0, 0.1))
    assert machine.sources["devices.cpu.processors.core.kernels.fits.0"].startswith(
        "a run of moesim calibrate cpu [measured]"
    )
    assert check_file(machine.path).faults == check_file(machine.path).warnings == ()


def test_they_complete_and_replace_those_of_a_file(write):
    named = load_hardware(write(("kernels:\n", "kernels:\n          like: h200-sxm\n"))).device.processor
    assert named.kernels["expert", "fp32", "reference"].values == (0.05, 0.1)
    assert ("gemm", "bf16", "vllm") in named.kernels
    assert named.measured_on == "h200-sxm"


def test_a_name_alone_means_a_file(write):
    text = (
        TEXT[: TEXT.index("        kernels:")]
        + "        kernels: h200-sxm\n"
        + TEXT[TEXT.index("    memories") :]
    )
    path = write()
    path.write_text(text, encoding="utf-8")
    assert ("gemm", "bf16", "vllm") in load_hardware(path).device.processor.kernels


def test_every_fault_at_once(write):
    second = (
        "            - {kernel: expert, dtype: fp32, backend: reference, version: '1', floor_us: 1,\n"
        "               sharpness: 2, axes: [{low: 0, step: 1, knots: 1}], steps: [1, 2, 3]}\n    memories:"
    )
    found = faults(
        write(
            ("kernel: expert", "kernel: expertt"),
            ("floor_us: 3.5", "floor_us: -3.5"),
            ("    memories:", second),
            (
                "sharpness: 2,\n               axes: [{low: 0, step: 1, knots: 2}",
                "sharpness: 2,\n               axes: [{low: 0, step: 0, knots: 2}",
            ),
            ("measured: {", "measurd: {"),
            ("efficiency: 1", "efficiency: often"),
            ("bandwidth: 10 GB/s", "bandwidth: 10"),
        )
    )
    for expected in (
        "kernels.fits.0.kernel: no kernel",
        "nearest: expert",
        "kernels.fits.0.floor_us: ",
        "kernels.fits.0.axes.0.step: ",
        "kernels.fits.1: needs one axis for each of: tokens, hidden, width; has 3 steps",
        "kernels.measurd: unknown key",
        "node.scale_up.efficiency: ",
        "memories.ram.bandwidth: implausible",
    ):
        assert any(expected in fault for fault in found), (expected, found)


def test_checks_of_their_own(write):
    twice = TEXT[TEXT.index("            - {kernel") : TEXT.index("    memories:")]
    found = faults(
        write(("    memories:", f"{twice}    memories:"), ("steps: [10, 20]", "steps: [10, -9000]"))
    )
    assert any("fits.1: the same kernel as fits.0 (got 'expert fp32 reference')" in fault for fault in found)
    assert any("corrects the roofline by exp(45.0)" in fault for fault in found)


def test_unknown_names_are_still_found(write):
    found = faults(write(("kernels:\n", "kernels:\n          like: h20-sxm\n")))
    assert any("no such measured kernels" in fault for fault in found)


def test_the_schema_for_editors_has_them():
    schema = json.dumps(json_schema())
    assert "floor_us" in schema
    assert Spec.model_config["extra"] == "forbid"
