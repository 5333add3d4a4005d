"""Predictions on meshes, tapered planes and described fabrics."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fabric_machines import fabric_text, link, machine

import moesim as ms
from moesim.training.traffic import send_seconds

WIRES = [(f"device:{i}", f"s{i // 4}", 1e11, 1e-6) for i in range(8)] + [("s0", "s1", 5e10, 1e-6)]
LAYOUTS = (
    ms.Parallelism(tp=8, dp=1, ep=1),
    ms.Parallelism(tp=1, dp=8, ep=8),
    ms.Parallelism(tp=2, dp=4, ep=8),
    ms.Parallelism(tp=1, dp=1, pp=8, ep=1),
)


def tpot_ms(hardware, layout):
    found = ms.predict(
        ms.load_model("olmoe"), hardware, layout, ms.Workload(input_len=512, output_len=64, concurrency=64)
    )
    assert found.tpot_s >= found.bounds["tpot_s"]
    return found.tpot_s * 1e3


@pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")
def test_links_that_are_shared_slow_a_prediction_and_wider_ones_speed_it_up(tmp_path):
    switch = machine(tmp_path, 8, link("switch", domain=8))
    fabric = machine(tmp_path, 8, link("switch", domain=8), fabric=fabric_text(["s0", "s1"], WIRES))
    wires = tuple(
        replace(w, bandwidth_bytes_per_s=100 * w.bandwidth_bytes_per_s) for w in fabric.fabric.wires
    )
    wide = replace(fabric, fabric=replace(fabric.fabric, wires=wires))
    mesh = machine(tmp_path, 8, link("mesh", domain=8, shape=[2, 4]))
    planes = machine(tmp_path, 8, link("planes", domain=8, leaf=4, taper=8))
    for layout in LAYOUTS:
        plain = tpot_ms(switch, layout)
        for shared in (fabric, mesh, planes):
            assert tpot_ms(shared, layout) >= plain * (1 - 1e-9)
        if layout.pp == 1:
            assert tpot_ms(fabric, layout) > 1.05 * plain
            assert tpot_ms(wide, layout) < tpot_ms(fabric, layout)


def test_stages_of_training_send_over_one_link_of_a_mesh(tmp_path):
    mesh = machine(tmp_path, 8, link("mesh", domain=8, shape=[2, 4]))
    switch = machine(tmp_path, 8, link("switch", domain=8))
    # A device's bandwidth is that of four links.
    assert send_seconds(1e9, 1, mesh) - 1e-6 == pytest.approx(4 * (send_seconds(1e9, 1, switch) - 1e-6))
