"""Calibration of a machine whose laws are known: it finds them, and writes a file that answers questions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from planted_cpu import (
    CEILINGS,
    GLUE_S,
    LATENCY_S,
    PEAK,
    RATE,
    READ,
    PlantedRunner,
    expert_s,
    opened,
    parts_s,
)
from typer.testing import CliRunner

from moesim.calibrate.reference import anchors, inconclusive, measured
from moesim.calibrate.reference.cpu import calibrate_cpu
from moesim.calibrate.reference.design import trials
from moesim.calibrate.reference.document import Facts, description, summary, text_of
from moesim.calibrate.reference.laws import Ceilings, raised
from moesim.calibrate.reference.observed import best_round, observe, op_of, pace, steady
from moesim.cli.app import app
from moesim.cost import Choice, ExpertShape, Rates, expert_times, op_times
from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.hardware.describe import check_file
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops.table import OpTable
from moesim.prediction import Workload, predict
from moesim.reference.cpu import CpuRunner
from moesim.reference.protocol import Floor, measure

FACTS = Facts(
    {"cpu": "Planted CPU", "memory_bytes": {"total": 24 * 10**9}},
    "2026-11-22",
    "moesim calibrate cpu",
    1e11,
    9.0,
)
#: Neither hidden sizes nor widths of the design.
UNSEEN = ((480, 352), (800, 1000), (1200, 260))


@pytest.fixture(scope="module")
def found():
    return calibrate_cpu(opened(), limit_s=60.0, best=lambda: CEILINGS)


@pytest.fixture(scope="module")
def path(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "here.yaml"
    path.write_text(text_of(description(found, FACTS), FACTS.command), encoding="utf-8")
    return path


def test_the_file_stands_alone_and_has_no_fault(path):
    report = check_file(path)
    assert report.faults == report.warnings == ()
    machine = load_hardware(path)
    assert (machine.kind, machine.num_devices) == ("cpu", 1)
    assert machine.device.processor.measured_on == machine.device.name
    assert (
        "measured by moesim calibrate cpu on Planted CPU, 2026-11-22"
        in machine.sources["node.host_link.bandwidth"]
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_experts_it_never_saw_take_what_they_were_planted_to(path, dtype):
    device = load_hardware(path).device
    rng = np.random.default_rng(0)
    errors = []
    for hidden, width in UNSEEN:
        for mean in (1, 3, 20, 150):
            tokens = rng.poisson(mean, 32).astype(float)
            predicted = expert_times(
                tokens, ExpertShape(hidden, width, 3, dtype), device, Choice("reference")
            )
            errors.append(float(predicted.seconds / expert_s(tokens, hidden, width, dtype).sum()) - 1)
    assert np.median(np.abs(errors)) < 0.05
    assert np.max(np.abs(errors)) < 0.12


@pytest.mark.parametrize(
    ("kernel", "part"), [("gemm", "router"), ("top_k", "top_k"), ("weighted_sum", "weighted_sum")]
)
def test_so_does_the_rest_of_the_layers(path, kernel, part):
    device, errors = load_hardware(path).device, []
    for trial in trials("bf16"):
        table = OpTable(((op_of(kernel, trial), 1),), (), 1)
        seconds = float(op_times(table, device, Rates.of(table, device, Choice("reference"))).seconds[0, 0])
        planted = parts_s(trial.case)[part] + (GLUE_S if part == "top_k" else 0.0)
        errors.append(np.log(seconds / planted))
    assert np.median(np.abs(errors)) < 0.12


def test_loads_are_a_line(path, found):
    link = load_hardware(path).host_link
    for size in (5e5, 5e6, 2e7):
        assert link.latency_s + size / link.bandwidth_bytes_per_s == pytest.approx(
            LATENCY_S + size / RATE, rel=0.08
        )
    assert found.copies.loads == 14


@pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")
def test_predictions_come_from_it(path):
    result = predict(load_model("olmoe-1b-7b"), load_hardware(path), Parallelism(), Workload(64, 16, 1))
    assert result.feasible
    assert result.tpot_s >= result.bounds["tpot_s"] > 0
    assert result.ttft_s >= result.bounds["ttft_s"] > 0
    assert not any("were not measured" in note for note in result.warnings)


def test_anchors_can_be_run_again(path, found):
    made = anchors(path)
    assert len(made) == len(found.anchors) >= 10
    for anchor, (trial, seconds) in zip(made, found.anchors, strict=True):
        assert anchor.case.shape == trial.case.shape
        assert anchor.seconds == pytest.approx(seconds, rel=1e-4)
        assert (anchor.ids == trial.ids).all()
    assert measured(path)["floor"]["median"] == pytest.approx(found.floor.median, rel=1e-3)
    assert not inconclusive(path)


def test_edited_anchors_are_refused_all_at_once(path, tmp_path):
    text = (
        path.read_text(encoding="utf-8")
        .replace("top_k: 3", "top_k: 31")
        .replace("num_experts: 64", "experts: 64")
    )
    broken = tmp_path / "broken.yaml"
    broken.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        anchors(broken)
    assert len(caught.value.faults) >= 4
    assert "as moesim calibrate cpu writes them" in str(caught.value)


def test_a_ceiling_that_experts_exceed_is_raised():
    low = Ceilings({"fp32": 5e9, "bf16": 5e9}, 1e9, 1e9, 1e9)
    layers = trials("fp32")
    runs = [PlantedRunner(noise=0.0).prepare(trial.case, trial.ids) for trial in layers]
    timed = measure(runs, 2)
    reached = best_round(layers, timed)
    limits = raised(low, *reached)
    assert 0.5 * PEAK < limits.flops_per_s["fp32"] < PEAK
    assert limits.flops_per_s["bf16"] == limits.flops_per_s["fp32"]
    assert 0.2 * READ < limits.read_bytes_per_s < READ
    assert raised(limits, *reached) == limits
    # Of noisy rounds the fastest counts.
    noisy = [PlantedRunner(noise=0.3).prepare(trial.case, trial.ids) for trial in layers]
    assert min(np.array(best_round(layers, measure(noisy, 9))) / reached) > 1.0


def test_slow_rounds_are_taken_out():
    rng = np.random.default_rng(1)
    true, drift = np.exp(rng.normal(size=40)), np.array([1.0, 1.3, 0.9, 1.0, 1.1, 1.0])
    seconds = true * drift[:, None] * np.exp(0.02 * rng.standard_normal((6, 40)))
    assert pace(seconds) == pytest.approx(drift / np.median(drift), rel=0.05)
    assert np.abs(np.log(steady(seconds / pace(seconds)[:, None]) / true)).max() < 0.06


def test_noise_is_inconclusive(found, tmp_path):
    noisy = replace(found, floor=Floor(0.12, 0.4))
    assert summary(noisy)["verdict"] == "inconclusive"
    path = tmp_path / "noisy.yaml"
    path.write_text(text_of(description(noisy, FACTS), FACTS.command), encoding="utf-8")
    assert inconclusive(path)
    (warning,) = check_file(path).warnings
    assert "inconclusive" in str(warning)


@pytest.fixture
def command(monkeypatch):
    """The command, with an answer instead of runs."""

    def run(answer, *arguments):
        def calibrated(*_, **__):
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr("moesim.calibrate.reference.cpu.calibrate_cpu", calibrated)
        return CliRunner().invoke(app, ["calibrate", "cpu", *map(str, arguments)])

    return run


def test_the_command_writes_and_reports(command, found, tmp_path):
    path = tmp_path / "here.yaml"
    done = command(found, "-o", path, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["verdict"] == "measured"
    assert document["ceilings"]["read_bytes_per_s"] >= READ
    assert {(s["kernel"], s["dtype"]) for s in document["surfaces"]} == {
        (kernel, dtype)
        for kernel in ("expert", "gemm", "top_k", "weighted_sum")
        for dtype in ("fp32", "bf16")
    }
    assert check_file(path).faults == ()


def test_without_a_name_it_writes_where_validation_looks(command, found, tmp_path, monkeypatch):
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "cache"))
    noisy = replace(found, floor=Floor(0.12, 0.4))
    done = command(noisy)
    assert done.exit_code == 0, done.output
    assert load_hardware(tmp_path / "cache" / "reference" / "cpu.yaml").kind == "cpu"
    assert "A/A noise of 12 rounds: 12.0%" in done.output
    assert "warning: inconclusive: equal measurements differ by 12%" in done.output


def test_without_room_for_a_file_the_rest_is_kept(command, found, tmp_path):
    path = tmp_path / "here.yaml"
    done = command(replace(found, reads=None), "-o", path, "--json")
    assert done.exit_code == 0, done.output
    assert "storage is left out" in done.stderr
    machine = load_hardware(path)
    assert machine.host.storage is None
    assert machine.host_link is not None


def test_a_file_that_cannot_be_written_is_no_fault_of_the_rest(monkeypatch):
    kept = {"read": "unset"}

    def runner(backing):
        if backing == "file":
            raise ConfigError("no room")
        return opened()(backing)

    monkeypatch.setattr("moesim.calibrate.reference.cpu.learn", lambda *given: kept.update(read=given[-1]))
    calibrate_cpu(runner, limit_s=0.0, best=lambda: CEILINGS)
    assert kept == {"read": None}


def test_a_calibration_can_be_interrupted():
    with pytest.raises(KeyboardInterrupt):
        calibrate_cpu(opened(stop_after=5), limit_s=0.0, best=lambda: CEILINGS)


def test_an_interrupted_run_leaves_the_old_file(command, tmp_path):
    path = tmp_path / "here.yaml"
    path.write_text("old", encoding="utf-8")
    done = command(KeyboardInterrupt(), "-o", path)
    assert done.exit_code == 130
    assert "interrupted: nothing was written" in done.output
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_too_little_memory_is_said(command, tmp_path):
    done = command(MemoryError(), "-o", tmp_path / "here.yaml")
    assert isinstance(done.exception, ConfigError)
    assert "not enough memory" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_faults_of_options_come_before_any_work(command, tmp_path):
    done = command(AssertionError(), "-o", tmp_path / "no" / "here.yaml")
    assert isinstance(done.exception, ConfigError)
    assert "folder does not exist" in str(done.exception)


def test_a_real_core_gives_such_times():
    names = ("spread-4x192x96", "short-256x96", "load-256x128")
    layers = [trial for trial in trials("fp32") if trial.case.shape.name in names]
    with CpuRunner(memory_bytes=48 * 2**20) as device:
        prepared = [device.prepare(trial.case, trial.ids) for trial in layers]
        seen = observe(layers, measure(prepared, 2, warm_up=1), "0")
    assert len(layers) == len(names)
    assert {kernel: len(rows) > 0 for kernel, rows in seen.rows.items()} == dict.fromkeys(seen.rows, True)
    assert len(seen.loads) == 1
    assert (seen.seconds > 0).all()
    assert seen.rows["expert"].seconds.max() < 0.1
