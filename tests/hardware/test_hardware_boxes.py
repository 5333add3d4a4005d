"""Boxes of offloading systems: what their publications print, and near-data processors."""

from __future__ import annotations

import csv

import pytest

from moesim.cost import peak_flops_per_s
from moesim.hardware import load_hardware, names

#: What the publication prints of its box: device memory, host memory, storage, devices.
PRINTED = {
    "t4-24core": (16e9, 192e9, None, 1),
    "l4-24core": (24e9, 192e9, None, 1),
    "t4-2-32core": (16e9, 416e9, None, 2),
    "t4-4-32core": (16e9, 416e9, None, 4),
    "a5000-epyc-256gb": (24e9, 256e9, None, 1),
    "a5000-epyc-512gb": (24e9, 512e9, None, 1),
    "a6000-epyc-480gb": (48e9, 480e9, None, 1),
    "rtx-3090-6-threadripper": (24e9, 480e9, None, 6),
    "rtx-4090-64core": (24e9, 256e9, 3e9, 1),
    "jetson-agx-orin-32gb": (32e9, 32e9, 3e9, 1),
    "rtx-3060-laptop": (6e9, 32e9, 3.5e9, 1),
    "a100-pcie-epyc": (80e9, 1.8e12, None, 1),
    "v100-sxm-32gb-8": (32e9, 700e9, None, 8),
}


@pytest.mark.parametrize("name", PRINTED)
def test_boxes_are_as_printed(name):
    box = load_hardware(name)
    device, host, storage, count = PRINTED[name]
    assert box.device.memory.capacity_bytes == device
    assert box.host is not None
    assert box.host.memory.capacity_bytes == host
    assert box.num_devices == count
    if storage is not None:
        assert box.host.storage is not None
        assert box.host.storage.bandwidth_bytes_per_s == storage


def test_every_offloading_box_can_be_priced():
    """A link to the host, a CPU with a peak, and a 16-bit peak of the device."""
    boxes = [load_hardware(name) for name in names()]
    boxes = [box for box in boxes if box.kind == "cpu-gpu"]
    assert len(boxes) >= 20
    for box in boxes:
        assert box.host is not None, box.name
        assert box.host_link is not None, box.name
        assert peak_flops_per_s(box.host.processor, "bf16") > 0
        assert peak_flops_per_s(box.device.processor, "bf16") > 0
        for kind in ("gemm", "expert_gemm", "attention_decode"):
            assert box.host.processor.efficiency_of(kind, "bf16").source, (box.name, kind)


def test_near_data_memory_is_behind_a_link_for_the_gpu_and_at_hand_for_the_near_processor():
    device = load_hardware("monde").device
    assert device.near is not None
    assert device.near_memory is not None
    assert (device.near_memory.name, device.near_memory.capacity_bytes) == ("ndp", 512e9)
    assert device.near.bandwidth_bytes_per_s["ndp"] == 512e9
    assert device.processor.bandwidth_bytes_per_s["ndp"] == 32e9
    # 64 arrays of 4 x 4 multiply-adds at 1 GHz.
    assert device.near.peak_flops_per_s["bf16"] == 64 * 16 * 2 * 1e9


def test_logic_pim_shares_the_memory_at_eight_operations_per_byte():
    device = load_hardware("duplex").device
    assert device.near is not None
    assert device.near_memory == device.memory
    reach = device.near.bandwidth_bytes_per_s["hbm"]
    assert reach == 4 * device.processor.bandwidth_bytes_per_s["hbm"]
    assert device.near.peak_flops_per_s["bf16"] / reach == pytest.approx(8, rel=0.01)


def test_devices_without_a_second_processor_have_no_near_one():
    device = load_hardware("h100-sxm-8").device
    assert device.near is None
    assert device.near_memory is None


def test_links_agree_with_what_was_measured():
    # 19.5 GB/s of MoE-Lens; 134.2 MB of KV cache in 10.9 ms of MoE-Lightning; 12 GB/s of V100.
    for name, measured in (("a40-xeon-8380", 19.5e9), ("l4-24core", 134.2e6 / 10.9e-3), ("v100", 12e9)):
        link = load_hardware(name).host_link
        assert link is not None
        assert link.bandwidth_bytes_per_s * link.efficiency == pytest.approx(measured, rel=0.01)


def test_facts_of_the_boxes_agree_with_the_fact_base(shared):
    of = {
        "t4-24core": "T4", "l4-24core": "L4", "a40-xeon-8380": "A40", "a6000-xeon-10core": "RTX-A6000",
        "rtx-3090-workstation": "RTX-3090", "v100-sxm-32gb-8": "V100-SXM-32GB",
        "a100-pcie-epyc": "A100-PCIe-80GB",
    }  # fmt: skip
    facts: dict[tuple[str, str], float] = {}
    with shared("facts").joinpath("hardware_facts.csv").open(encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            try:
                facts[line["device"], line["field"]] = float(line["value"])
            except ValueError:
                continue
    compared = 0
    for name, key in of.items():
        device = load_hardware(name).device
        peaks = device.processor.peak_flops_per_s
        ours = {f"peak_{dtype}_dense": peak / 1e12 for dtype, peak in peaks.items()}
        ours |= {"mem_capacity": device.memory.capacity_bytes / 1e9}
        ours |= {"mem_bandwidth": device.memory.bandwidth_bytes_per_s / 1e9}
        for field, value in ours.items():
            if (key, field) in facts:
                assert value == pytest.approx(facts[key, field], rel=0.01), (name, field)
                compared += 1
    assert compared > 25
