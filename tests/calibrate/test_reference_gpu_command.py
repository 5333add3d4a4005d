"""The one command for a GPU, run on the host: every step, once, and never below reports."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from moesim.errors import ConfigError, Fault
from moesim.hardware import load_hardware
from moesim.reference.cuda.compile import Program, compiled

pytestmark = pytest.mark.emulation

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_command", ROOT / "benchmarks/reference/gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["gpu_command"] = module
    spec.loader.exec_module(module)
    return module


def test_dry_run(command, tmp_path, capsys):
    steps = list(command.STEPS)
    assert command.main(["--emulated", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "NOT met" not in printed
    assert "EMULATED on the host" in printed
    assert "EMULATED on the host" in (tmp_path / "figures.md").read_text()
    assert "| 1190 us | - | 850 us | - |" in printed
    for name in steps:
        assert json.loads((tmp_path / f"step-{name}.json").read_text())["emulated"] is True
    assert load_hardware(tmp_path / "gpu.yaml").device.processor.tiles["bf16"].tiles[0].name == "sm90_swap_8"
    # What is there is not run again.
    assert command.main(["--emulated", "--out", str(tmp_path), "--steps", "kernels"]) == 0
    assert "kept from" in capsys.readouterr().out


@pytest.mark.parametrize("out", [[], ["--out", str(ROOT / "reports/h200")]], ids=["nowhere", "reports"])
def test_an_emulation_is_no_report(command, out, capsys):
    with pytest.raises(SystemExit):
        command.main(["--emulated", *out])
    assert "measures nothing" in capsys.readouterr().err


def test_without_a_driver_one_line_and_nothing_written(command, tmp_path, monkeypatch, capsys):
    def none(**_: object) -> None:
        raise ConfigError(Fault("no CUDA driver"))

    monkeypatch.setattr(command, "open_backend", none)
    assert command.main(["--out", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err == "error: no CUDA driver\n"
    assert list(tmp_path.iterdir()) == []


def test_figures_are_judged_by_their_limits(command):
    figure = command.Figure("layer", 400.0, "us", 396.0, 375.0, most=True)
    assert figure.met(figure.must) == "NOT met"
    assert figure.met(500.0) == "met"
    assert command.Figure("share", 0.9, "").met(0.85) == "met"
    assert command.Figure("share", 0.9, "", judged=False).met(0.95) == "-"
    assert command.Figure("torch", None, "").met(0.95) == "-"


def test_a_step_that_fails_is_told_and_not_kept(command, tmp_path, monkeypatch):
    def broken(_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(command.STEPS, "moves", broken)
    plan = command.Plan(command.open_backend(emulated=True), tmp_path, "x")
    (figure,) = command.run_step(plan, "moves")
    assert figure.note == "FAILED: out of memory"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_kernels_of_the_ceilings_compile(arch):
    made = compiled(Program(("ceilings.cuh",)), arch)
    assert made.spilled_bytes == 0
