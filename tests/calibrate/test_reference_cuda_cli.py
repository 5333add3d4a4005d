"""The command: nothing written without a GPU or when interrupted, one file with one."""

from __future__ import annotations

import json

import pytest
from planted_gpu import UNKNOWN, PlantedBackend, PlantedRunner
from typer.testing import CliRunner

from moesim.calibrate.reference import cuda_ceilings, cuda_set
from moesim.cli import calibrate_cuda
from moesim.cli.app import app
from moesim.errors import ConfigError, Fault
from moesim.hardware import load_hardware
from moesim.reference import cuda
from moesim.reference.cuda import backend as backends
from moesim.reference.cuda import runner as _runner  # noqa: F401
from moesim.reference.cuda import variants

# `_runner` takes `open_backend` as it is when it is first imported: not while another stands there.


def invoke(*words: object, catch: bool = True):
    return CliRunner().invoke(app, ["calibrate", "cuda", *map(str, words)], catch_exceptions=catch)


def test_without_a_driver_nothing_is_written(tmp_path, monkeypatch):
    def none(**_: object) -> None:
        raise ConfigError(Fault("no CUDA driver (libcuda.so.1 cannot be loaded)"))

    monkeypatch.setattr(backends, "open_backend", none)
    with pytest.raises(ConfigError, match="no CUDA driver"):
        invoke("-o", tmp_path / "gpu.yaml", catch=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        invoke("-o", tmp_path / "a/b.yaml", catch=False)


def runner(*, variant: str | None, **_: object) -> PlantedRunner:
    return PlantedRunner(0.01, variant)


@pytest.fixture
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    device = PlantedBackend()
    few = cuda_set.Sizes(
        inputs=(512, 4096),
        waves=(2, 3),
        per_expert=(4, 256),
        hit=(8,),
        skew_per_expert=(64,),
        tokens=(4, 64, 1024),
        transfer_bytes=(1 << 12, 1 << 16),
        launches=5,
    )
    monkeypatch.setattr(cuda_ceilings, "clock", device)
    monkeypatch.setattr(backends, "open_backend", lambda **_: device)
    monkeypatch.setattr(variants, "bounds", lambda _: [(tile, tile.most) for tile in UNKNOWN])
    monkeypatch.setattr(cuda_set, "Sizes", lambda: few)
    monkeypatch.setattr(cuda, "CudaRunner", runner, raising=False)


@pytest.mark.usefixtures("_planted")
def test_one_file_that_stands_alone(tmp_path):
    path = tmp_path / "gpu.yaml"
    done = invoke("-o", path, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["verdict"] == "measured"
    assert document["left_out"]["products"]["median"] < 0.05
    machine = load_hardware(path)
    assert machine.device.processor.tiles["bf16"].tiles[0].name == "swap-16"
    assert [entry.name for entry in tmp_path.iterdir()] == ["gpu.yaml"]


@pytest.mark.usefixtures("_planted")
def test_interrupted_it_leaves_what_was_there(tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "gpu.yaml"
    path.write_text("before")
    monkeypatch.setattr(calibrate_cuda, "_measure", stop)
    done = invoke("-o", path)
    assert done.exit_code == 130
    assert "nothing was written" in done.stderr
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1
