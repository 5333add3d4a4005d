"""Surfaces are recovered from tables that follow one, the same every time, spikes or not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from table_files import FLOOR, gemm_table

import moesim as ms
from moesim.calibrate import calibrate, modelled, read_tables, text_of
from moesim.calibrate.fit import axes_of, correction, interpolation
from moesim.calibrate.surfaces import fit_surface
from moesim.calibrate.tables import newest, spikes
from moesim.hardware.kernels import read_kernels

DEVICE = ms.load_hardware("h200-sxm-8").device


def test_a_law_is_recovered(tmp_path):
    (rows,) = read_tables(gemm_table(tmp_path) / "h200_sxm")
    fitted = fit_surface(rows, DEVICE)
    assert fitted.left_out.median < 0.02
    assert fitted.left_out.p90 < 0.05
    assert fitted.surface.floor_s == pytest.approx(1.3 * FLOOR, rel=0.3)
    assert np.abs(modelled(fitted.surface, rows, DEVICE) / rows.seconds - 1).max() < 0.03


def test_a_spike_changes_nothing(tmp_path):
    clean = read_tables(gemm_table(tmp_path / "a") / "h200_sxm")[0]
    spiky = read_tables(gemm_table(tmp_path / "b", spike=40) / "h200_sxm")[0]
    assert len(spiky) == len(clean) - 1
    last = np.array([1.0, 2.0, 9.0, 3.0, 4.0, 1.0, 1.0])
    assert spikes(last, [np.array([0, 0, 0, 0, 0, 1, 1])]).tolist() == [False, False, True] + [False] * 4


def test_fitting_again_gives_the_same_bytes(tmp_path):
    folder = gemm_table(tmp_path) / "h200_sxm"
    texts = [text_of(calibrate(folder, DEVICE).to_dict()) for _ in range(2)]
    assert texts[0] == texts[1]
    path = tmp_path / "k.json"
    path.write_text(texts[0])
    ((key, surface),) = read_kernels(path).items()
    assert key == ("gemm", "bf16", "vllm")
    assert surface.version == "1.2.3"
    assert json.loads(texts[0])["licence"] == "Apache-2.0"


def test_the_newest_version_is_read(tmp_path):
    for version in ("vllm-0.9.0", "vllm-0.14.0", "vllm-0.14.0rc2"):
        gemm_table(tmp_path, version)
    path = newest(tmp_path / "h200_sxm" / "gemm", "vllm", "gemm_perf")
    assert path.parent.name in ("vllm-0.14.0", "vllm-0.14.0rc2")


def test_a_correction_reproduces_a_plane():
    rng = np.random.default_rng(1)
    sizes = 2.0 ** rng.uniform(0, 6, (400, 2))
    axes = axes_of(sizes, (2.0, 3.0))
    plane = 0.1 * np.log2(sizes) @ np.array([1.0, -2.0])
    assert interpolation(sizes, axes) @ correction(sizes, axes, plane) == pytest.approx(plane, abs=0.02)


def test_public_tables(shared):
    """One small public table through the whole way: shapes left out, within the target."""
    folder = shared("kernels/h200_sxm/mla_bmm").parent
    device = ms.load_hardware("h200_sxm").device
    from moesim.calibrate import tables

    small = [t for t in tables._TABLES if t[0] == "mla_bmm"]
    rows = [r for name in ("vllm", "trtllm") for r in _rows(folder, small, name) if len(r)]
    assert len(rows) == 3
    for one in rows:
        fitted = fit_surface(one, device)
        assert fitted.left_out.median < 0.06
        assert fitted.left_out.p90 < 0.2


def _rows(folder, chosen, backend):
    from moesim.calibrate import tables

    for operation, name, columns, make in chosen:
        path = newest(folder / operation, backend, name)
        yield from make(tables._read(path, columns), backend, tables.version_of(path))
