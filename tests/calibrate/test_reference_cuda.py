"""From a GPU whose physics is known to a file, and from the file back to that GPU's layers."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_gpu import (
    BANDWIDTH,
    CORES,
    LAUNCH_S,
    LINK_BYTES_PER_S,
    LINK_S,
    SORTING,
    TILES,
    UNKNOWN,
    PlantedBackend,
    PlantedRunner,
    parts_s,
    tile_of,
)

from moesim.calibrate.reference import anchors, cuda_ceilings, inconclusive, measured
from moesim.calibrate.reference.cuda import CalibratedCuda, calibrate_cuda
from moesim.calibrate.reference.cuda_file import text_of
from moesim.calibrate.reference.cuda_set import Sizes, points
from moesim.cost import Choice, ExpertShape, expert_times
from moesim.hardware import load_hardware
from moesim.hardware.describe import check_file
from moesim.hardware.types import Hardware
from moesim.reference.layer import Case, LayerShape
from moesim.validate.reference.predict import Turn, Work, predict

#: Less memory than on a GPU: the transfer's blocks are real.
SIZES = replace(Sizes(), transfer_bytes=(1 << 12, 1 << 16, 1 << 20, 1 << 22), launches=20)


FEW = replace(
    SIZES,
    inputs=(512, 4096),
    waves=(2, 3),
    per_expert=(4, 256),
    hit=(8,),
    skew_per_expert=(64,),
    tokens=(4, 64, 1024),
)


def calibrated(sigma: float, monkeypatch: pytest.MonkeyPatch, sizes: Sizes = SIZES) -> CalibratedCuda:
    backend = PlantedBackend()
    monkeypatch.setattr(cuda_ceilings, "clock", backend)
    return calibrate_cuda(
        backend,
        lambda tile: PlantedRunner(sigma, tile),
        UNKNOWN,
        sizes=sizes,
        today=dt.date(2026, 11, 29),
    )


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        return calibrated(0.01, patch)


@pytest.fixture(scope="module")
def machine(found, tmp_path_factory: pytest.TempPathFactory) -> Hardware:
    path = tmp_path_factory.mktemp("here") / "gpu.yaml"
    path.write_text(text_of(found.document))
    report = check_file(path)
    assert not report.faults
    assert not report.warnings
    return load_hardware(path)


NOTHING = np.zeros(0, np.int32)
HELD_OUT = [
    (LayerShape("mixtral", 8, 2, 4096, 14336), (1, 16, 256, 4096)),
    (LayerShape("qwen3", 128, 8, 2048, 768), (1, 4, 64, 256, 1024, 4096)),
    (LayerShape("gemma", 128, 8, 2816, 704), (4, 128, 4096)),
    (LayerShape("olmoe", 64, 8, 2048, 1024), (16, 512, 8192)),
]


@pytest.mark.parametrize("skew", [0.0, 0.8, 1.5])
@pytest.mark.parametrize(("shape", "tokens"), HELD_OUT, ids=[shape.name for shape, _ in HELD_OUT])
def test_the_file_predicts_layers_it_has_not_seen(machine, shape, tokens, skew):
    popularity = -skew * np.log(np.arange(1.0, shape.num_experts + 1))
    for number in tokens:
        noise = np.random.default_rng(number).gumbel(size=(number, shape.num_experts))
        ids = np.argsort(-popularity - noise, axis=1)[:, : shape.top_k]
        counts = np.bincount(ids.ravel(), minlength=shape.num_experts)
        one = ExpertShape(shape.hidden, shape.width, 3, "bf16")
        predicted = expert_times(
            counts[None].astype(float), one, machine.device, Choice("reference")
        ).seconds[0]
        case = Case(shape, number, dtype="bf16")
        parts = parts_s(case, counts.tolist(), tile_of(counts.tolist()))
        truth = sum(parts[name] for name in ("permute", "up", "down"))
        assert predicted == pytest.approx(truth, rel=0.02), (number, predicted / truth - 1)
        # As validation predicts whole layers: with router, top-k and the weighted sum.
        turn = Turn(np.flatnonzero(counts).astype(np.int32), NOTHING, NOTHING)
        whole = predict(Work(case, counts.astype(np.int32), (turn,)), machine)
        assert whole.seconds == pytest.approx(sum(parts.values()), rel=0.02), number


def test_planted_numbers_come_back(found):
    law = found.waves.law
    assert law.launch_s == pytest.approx(LAUNCH_S, rel=0.05)
    assert law.launches == SORTING
    for tile, planted in zip(law.tiles, TILES, strict=True):
        # The file's peak is the 4,096 FLOP of a clock, 2.4 % above the planted one.
        assert tile.compute == pytest.approx(planted.compute / 1.024, rel=0.03)
        assert tile.fill_s == pytest.approx(planted.fill_s, abs=0.15e-6)
        assert tile.drain_s == pytest.approx(planted.drain_s, abs=0.4e-6)
        assert tile.most == planted.most
    assert dict(law.memory)[1e8] == pytest.approx(0.9, rel=0.03)
    assert found.waves.left_out.median < 0.02
    assert found.layers.median < 0.02
    assert found.verdict == "measured"


def test_link_and_memory_come_back(machine, found):
    assert machine.host_link is not None
    assert machine.host_link.bandwidth_bytes_per_s == pytest.approx(LINK_BYTES_PER_S, rel=0.01)
    assert machine.host_link.latency_s == pytest.approx(LINK_S, rel=0.01)
    pageable = found.ceilings.host["h2d_pageable"]
    assert pageable.bandwidth_bytes_per_s == pytest.approx(LINK_BYTES_PER_S / 3, rel=0.01)
    assert found.ceilings.two_streams["same"] == pytest.approx(2.0, rel=0.05)
    assert machine.device.memory.bandwidth_bytes_per_s == pytest.approx(BANDWIDTH)
    assert machine.device.processor.cores == CORES


def test_an_edited_file_scales_as_the_machine_would(machine):
    device, one = machine.device, ExpertShape(2048, 768, 3, "bf16")
    decode, prefill = np.full((1, 128), 4.0), np.full((1, 128), 2000.0)

    def seconds(tokens, device=device):
        return float(expert_times(tokens, one, device).seconds[0])

    memory = replace(device.memory, bandwidth_bytes_per_s=2 * BANDWIDTH)
    fast = replace(device.processor, bandwidth_bytes_per_s={"hbm": 2 * BANDWIDTH})
    faster = replace(device, memories=(memory,), processors=(fast,))
    assert seconds(decode, faster) < 0.62 * seconds(decode)
    assert seconds(prefill, faster) > 0.9 * seconds(prefill)
    peaks = {key: 2 * value for key, value in device.processor.peak_flops_per_s.items()}
    stronger = replace(device, processors=(replace(device.processor, peak_flops_per_s=peaks),))
    assert seconds(decode, stronger) == pytest.approx(seconds(decode), rel=0.05)
    assert seconds(prefill, stronger) < 0.65 * seconds(prefill)


def test_noise_makes_it_inconclusive(monkeypatch):
    made = calibrated(0.4, monkeypatch, FEW)
    assert made.verdict == "inconclusive"
    assert made.document["devices"]["planted-gpu"]["processors"]["sm"]["kernels"]["measured"]["verdict"] == (
        "inconclusive"
    )


def test_the_same_measurements_make_the_same_file(monkeypatch):
    one, two = (text_of(calibrated(0.01, monkeypatch, FEW).document).splitlines() for _ in range(2))
    assert [line for line in one if "seconds: " not in line] == [
        line for line in two if "seconds: " not in line
    ]


def test_every_point_can_be_run():
    for point in points(UNKNOWN, 132, Sizes()):
        ids, shape = point.ids(), point.case.shape
        assert ids.shape == (point.case.tokens, shape.top_k)
        assert ids.min() >= 0
        assert ids.max() < shape.num_experts
        assert shape.width % 64 == shape.hidden % 64 == 0
        assert all(len(set(row)) == shape.top_k for row in ids[:50].tolist())
        if point.counts is not None:
            assert np.bincount(ids.ravel(), minlength=shape.num_experts).tolist() == list(point.counts)


def test_file_stands_alone(machine):
    assert Path(machine.path).read_text().count("like:") == 0
    assert machine.device.processor.measured_on == machine.device.name
    assert {key[0] for key in machine.device.processor.kernels} == {"gemm", "top_k", "weighted_sum"}
    assert [anchor.case.shape.top_k for anchor in anchors(machine.path)] == [8] * 3
    assert not inconclusive(machine.path)
    assert measured(machine.path)["copies"]["residual"] < 0.01
