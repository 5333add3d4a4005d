"""What is said of a machine, whatever of it can be read."""

from __future__ import annotations

import json
import subprocess

import pytest

from moesim.reference import machine


def test_state_is_json_and_bounded():
    state = machine.state()
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert state["cores"] >= 1
    assert state["blas"]
    assert state["moesim"]


def test_nothing_readable(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CPU", tmp_path)
    monkeypatch.setattr(machine, "_read", lambda _path: None)
    monkeypatch.setattr(machine.shutil, "which", lambda _name: None)
    state = machine.state()
    assert state["caches_bytes"] == {}
    assert state["memory_bytes"] == {"total": None, "available": None}
    assert (state["governor"], state["clock_mhz"], state["virtual"], state["gpu"]) == (None, None, None, None)
    assert state["cpu"]


def test_caches_of_linux(monkeypatch, tmp_path):
    for i, (level, kind, size) in enumerate(
        [
            ("1", "Data", "48K"),
            ("1", "Instruction", "32K"),
            ("2", "Unified", "2048K"),
            ("3", "Unified", "300M"),
        ]
    ):
        folder = tmp_path / "cache" / f"index{i}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "_CPU", tmp_path)
    assert machine.caches_bytes() == {"L1": 48 * 2**10, "L2": 2**21, "L3": 300 * 2**20}


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, {"total": 2**34, "available": 2**33}),
        ({"memory.max": "max"}, {"total": 2**34, "available": 2**33}),
        ({"memory.max": str(2**32), "memory.current": str(2**30)}, {"total": 2**32, "available": 3 * 2**30}),
    ],
    ids=["bare", "unlimited", "container"],
)
def test_memory_of_linux_and_its_containers(monkeypatch, files, wanted):
    files = {"meminfo": f"MemTotal: {2**24} kB\nMemAvailable: {2**23} kB\n", **files}
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path.name))
    monkeypatch.setattr(machine.sys, "platform", "linux")
    assert machine.memory_bytes() == wanted


def test_gpu_as_nvidia_smi_tells(monkeypatch):
    line = "NVIDIA H200, 580.95, 143771, 112.5, 700.00, 1980, 1980, 3201, [N/A]\n"
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(
        machine.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, line)
    )
    gpu = machine._gpu()
    assert (gpu["name"], gpu["driver"], gpu["power_w"]) == ("NVIDIA H200", "580.95", 112.5)
    assert gpu["temperature_c"] is None


def test_gpu_whose_driver_fails(monkeypatch):
    def fails(command, **_):
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(machine.subprocess, "run", fails)
    assert machine._gpu() is None


def test_mac(monkeypatch, tmp_path):
    told = {"machdep.cpu.brand_string": "Apple M3", "hw.l2cachesize": str(2**24), "hw.memsize": str(2**35)}
    monkeypatch.setattr(machine, "_CPU", tmp_path)
    monkeypatch.setattr(machine, "_read", lambda _path: None)
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine, "_output", lambda command: told.get(command[-1]))
    assert machine.cpu_name() == "Apple M3"
    assert machine.caches_bytes() == {"L2": 2**24}
    assert machine.memory_bytes()["total"] == 2**35
