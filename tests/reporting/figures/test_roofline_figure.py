"""Points of a roofline are where their work, traffic and time put them, and under their roofs."""

from __future__ import annotations

import csv
import io
import json
import warnings

import numpy as np
import pytest
from matplotlib.text import Text

import moesim as ms
from moesim.errors import ConfigError
from moesim.reporting.figures import DARK, PRINT, Roof, RooflinePoint, roofline

MACHINES = (
    "h200-sxm-8", "b200-sxm-8", "mi300x-8", "cloudmatrix384", "m3-ultra", "h100-duplex-4", "attacc-8",
    "cent-32",
)  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
def test_no_operation_is_above_its_roof(machine):
    hardware, asked = ms.load_hardware(machine), 0
    ranks = min(hardware.domain, 8)
    for tp, dp, model in ((1, ranks, "qwen3-30b-a3b"), (ranks, 1, "gpt-oss-20b")):
        for concurrency in (2, 256):
            layout = ms.Parallelism(tp=tp, dp=dp, ep=dp)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ms.OutOfDomainWarning)
                try:
                    load = ms.Workload(512, 128, concurrency)
                    found = ms.predict(ms.load_model(model), hardware, layout, load).roofline
                except ms.InfeasibleError:
                    continue
            asked += 1
            roofs = {roof.name: roof for roof in found.roofs}
            for op in found.ops:
                roof = roofs[op.roof]
                assert op.flops / op.seconds <= roof.flops_per_s * (1 + 1e-9), (machine, op)
                assert op.bytes / op.seconds <= roof.bytes_per_s * (1 + 1e-9), (machine, op)
    assert asked


def test_operations_are_those_of_the_step(predictions):
    answer = predictions[1]
    found, step = answer.roofline, answer.decode
    flops = step.work.table.total("flops")[0] + step.expert_mean("mean_flops")[0]
    assert sum(op.flops for op in found.ops) == pytest.approx(flops)
    moved = step.work.table.total("bytes")[0] + step.expert_mean("mean_bytes")[0]
    assert sum(op.bytes for op in found.ops) == pytest.approx(moved)
    lines = {line.op: line for line in answer.breakdown}
    for op in found.ops:
        assert op.seconds == pytest.approx(lines[op.op].seconds)
        assert op.bound_by == lines[op.op].bound_by
    (experts,) = (op for op in found.ops if op.op == "experts")
    assert experts.seconds == pytest.approx(step.expert_mean("balanced_s")[0])
    assert json.loads(json.dumps(answer.to_dict()["roofline"])) == found.to_dict()


def test_a_faster_memory_lifts_the_slope():
    model, layout, load = ms.load_model("gpt-oss-20b"), ms.Parallelism(dp=8, ep=8), ms.Workload(1024, 256, 64)
    slow, fast = (
        ms.predict(model, ms.load_hardware(name), layout, load).roofline
        for name in ("h100-sxm-8", "h200-sxm-8")
    )
    for one, other in zip(slow.roofs, fast.roofs, strict=True):
        assert one.flops_per_s == other.flops_per_s
        assert other.bytes_per_s / one.bytes_per_s == pytest.approx(4.8 / 3.35)
    assert {(op.op, op.flops) for op in slow.ops} == {(op.op, op.flops) for op in fast.ops}


POINTS = (
    RooflinePoint("experts", 2e12, 2e10, 0.02, "fp8", "memory"),
    RooflinePoint("attention", 1e12, 5e9, 0.01, "bf16", "compute"),
    RooflinePoint("embedding", 0.0, 1e6, 1e-6, "fp32", "launch"),
)
ROOFS = (Roof("fp32", 6e13, 4e12), Roof("fp8", 2e15, 4e12), Roof("bf16", 1e15, 4e12))


@pytest.mark.parametrize("theme", [PRINT, DARK], ids=lambda theme: theme.name)
def test_marks_and_roofs_are_where_they_should_be(canvases, theme):
    figure = roofline(POINTS, ROOFS)
    figure.svg("r", theme)
    axes, words = canvases[0].axes
    marks = {tuple(xy) for group in axes.collections for xy in group.get_offsets()}
    assert marks == {(100.0, 1e14), (200.0, 1e14)}
    # Two roofs: nothing that is drawn computes in fp32.
    for line, roof in zip(axes.lines, ROOFS[1:], strict=True):
        x, y = line.get_data()
        assert np.allclose(y, np.minimum(roof.flops_per_s, np.array(x) * roof.bytes_per_s))
        assert x[1] == roof.flops_per_s / roof.bytes_per_s
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    written = [text.get_text() for text in (*axes.texts, *words.texts)]
    assert {"1", "2", "experts", "attention", "25%", "12%", "memory", "compute"} <= set(written)
    assert {"fp8: 2,000 TFLOP/s", "bf16: 1,000 TFLOP/s", "4 TB/s"} <= set(written)
    assert "without arithmetic: embedding" in figure.caption
    assert figure.facts == (
        "attained arithmetic of the operations of a decode step [FLOP/s against FLOP/byte]; "
        "n = 2 operations; no randomness"
    )


def test_area_of_a_mark_is_its_share_of_time(canvases):
    roofline(POINTS, ROOFS).svg()
    sizes = sorted(float(s) for group in canvases[0].axes[0].collections for s in group.get_sizes())
    assert (sizes[1] - 22) / (sizes[0] - 22) == pytest.approx(2, rel=1e-3)


def test_numbers_do_not_cover_each_other(predictions, canvases):
    found = predictions[1].roofline
    roofline(found.ops, found.roofs).svg()
    axes = canvases[0].axes[0]
    boxes = [Text.get_window_extent(text) for text in axes.texts if text.get_text().isdecimal()]
    assert len(boxes) == min(sum(op.flops > 0 for op in found.ops), 18)
    covered = sum(one.overlaps(other) for nth, one in enumerate(boxes) for other in boxes[:nth])
    assert not covered


def test_data_is_what_was_given_and_comes_back_from_csv():
    figure = roofline(POINTS, ROOFS)
    rows = list(csv.DictReader(io.StringIO(figure.csv())))
    assert [row["op"] for row in rows] == ["experts", "attention"]
    assert [float(row["of_roof"]) for row in rows] == [0.25, 0.125]
    assert [float(row[name]) for row in rows for name in ("flops", "bytes", "seconds")] == [
        2e12, 2e10, 0.02, 1e12, 5e9, 0.01
    ]  # fmt: skip


def test_faults_are_named():
    stray = [RooflinePoint(name, 1.0, 1.0, 1.0, "fp6") for name in ("a", "b")]
    with pytest.raises(ConfigError) as caught:
        roofline(stray, ROOFS)
    assert [fault.where for fault in caught.value.faults] == ["a", "b"]
    with pytest.raises(ConfigError, match="nothing here does arithmetic"):
        roofline(POINTS[2:], ROOFS)
