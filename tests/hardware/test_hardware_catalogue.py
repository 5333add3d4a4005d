"""The shipped machines, their names, and their facts."""

from __future__ import annotations

import csv
import importlib.metadata
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from moesim.errors import ConfigError, UnknownNameError
from moesim.files import data_dir
from moesim.hardware import aliases, load_hardware, names
from moesim.hardware.catalogue import find, read_description
from moesim.hardware.describe import catalogue_table, check_catalogue, unchecked_table
from moesim.hardware.topology import bisection_bytes_per_s, graph

EXPECTED = {
    "a100-sxm-80gb-8", "h100-sxm-8", "h800-sxm-8", "h20-8", "h200-sxm-8", "b200-sxm-8", "b300-sxm-8",
    "gb200-nvl72", "gb300-nvl72", "l40s-8", "rtx-pro-6000-8", "mi300x-8", "rtx-4090-workstation",
    "cloudmatrix384",
}  # fmt: skip
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "hardware.md"


def test_the_catalogue_is_complete_and_faultless():
    assert set(names()) >= EXPECTED
    for report in check_catalogue():
        assert not report.faults, report
        assert not report.warnings, report


@pytest.mark.parametrize("name", names())
def test_every_number_has_a_source_and_every_curve_a_shape(name):
    machine = load_hardware(name)
    description = read_description(find(name))
    assert description.spec.name == name
    assert {origin.key for origin in description.origins} == set(description.spec.sources)
    for processor in [*machine.device.processors, *([machine.host.processor] if machine.host else [])]:
        for efficiency in processor.efficiency.values():
            assert efficiency.source
            for curve in (efficiency.compute, efficiency.memory):
                assert all(0 < value <= 1 for _, value in curve)
                assert all(a < b for (a, _), (b, _) in pairwise(curve))
    for kind in ("gemm", "expert_gemm", "attention_prefill", "attention_decode", "elementwise"):
        assert machine.device.processor.efficiency_of(kind, "bf16").source
    assert machine.domain == min(machine.scale_up.domain, machine.num_devices)


def test_a_larger_operation_never_takes_less_time():
    import numpy as np

    for name in names():
        for efficiency in load_hardware(name).device.processor.efficiency.values():
            for curve in (efficiency.compute, efficiency.memory):
                sizes = np.geomspace(1e3, 1e16, 2000)
                share = np.interp(np.log(sizes), *zip(*((np.log(x), y) for x, y in curve), strict=True))
                assert np.all(np.diff(sizes / share) > 0), (name, curve)


def test_aliases_and_spelling_do_not_matter():
    for spelling in ("h200_sxm", "H200-SXM-8", "h200", " dgx-H200 ", "HGX_H200"):
        assert load_hardware(spelling).name == "h200-sxm-8"
    assert load_hardware("gb200").name == "gb200-nvl72"
    assert load_hardware("b200_sxm").name == "b200-sxm-8"
    table = aliases()
    assert set(table.values()) <= set(names())
    assert not set(table) & set(names())


def test_aliases_are_unique_and_on_one_line():
    seen: dict[str, str] = {}
    for name in names():
        spec = read_description(find(name)).spec
        for alias in spec.aliases:
            assert seen.setdefault(alias, name) == name
            assert aliases()[alias] == name


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        load_hardware("h200-smx-8")
    assert caught.value.nearest[0] == "h200-sxm-8"
    for odd in ("", "..", "*", "a/b", "x" * 5000, "x" * 5000 + ".yaml", "a\0.yaml"):
        with pytest.raises(ConfigError):
            load_hardware(odd)


def test_nodes():
    assert load_hardware("h200", nodes=4).num_devices == 32
    assert load_hardware("gb200").num_devices == 72
    assert load_hardware("gb200", nodes=1).domain == 4
    assert load_hardware("gb200", nodes=36).domain == 72
    supernode = load_hardware("cloudmatrix384")
    assert (supernode.num_devices, supernode.domain, supernode.nodes) == (768, 768, 48)
    for name, nodes in (("cloudmatrix384", 49), ("rtx-4090", 2), ("l40s", 2), ("h200", 0), ("h200", 1.5)):
        with pytest.raises(ConfigError, match="--nodes"):
            load_hardware(name, nodes=nodes)


def test_an_edited_copy_differs_where_it_was_edited(tmp_path):
    shipped = load_hardware("h200-sxm-8", nodes=2)
    path = tmp_path / "edited.yaml"
    text = Path(shipped.path).read_text(encoding="utf-8")
    path.write_text(text.replace("bandwidth: 4.8 TB/s", "bandwidth: 9.6 TB/s"), encoding="utf-8")
    edited = load_hardware(path, nodes=2)
    assert edited.device.memory.bandwidth_bytes_per_s == 2 * shipped.device.memory.bandwidth_bytes_per_s
    assert edited.device.processor.bandwidth_bytes_per_s["hbm"] == 9.6e12
    assert edited.device.processor.peak_flops_per_s == shipped.device.processor.peak_flops_per_s
    assert edited.device.processor.efficiency == shipped.device.processor.efficiency
    assert (edited.scale_up, edited.scale_out, edited.host) == (
        shipped.scale_up,
        shipped.scale_out,
        shipped.host,
    )


def test_half_a_link_halves_its_collectives(tmp_path):
    shipped = load_hardware("h200-sxm-8")
    path = tmp_path / "slow.yaml"
    text = Path(shipped.path).read_text(encoding="utf-8")
    path.write_text(text.replace("value: 450 GB/s", "value: 225 GB/s"), encoding="utf-8")
    slow = load_hardware(path)
    for name, fits in shipped.scale_up.collectives.items():
        for fast, half in zip(fits, slow.scale_up.collectives[name], strict=True):
            assert half.busbw_bytes_per_s == pytest.approx(fast.busbw_bytes_per_s / 2)
            assert (half.ranks, half.alpha_s) == (fast.ranks, fast.alpha_s)


def test_plugins_are_asked_only_for_unknown_names(tmp_path, monkeypatch):
    shipped = Path(load_hardware("h200-sxm-8").path).read_text(encoding="utf-8")
    mine = shipped.replace("name: h200-sxm-8", "name: mine-8").replace(
        "aliases: [h200, ", "aliases: [my-own, "
    )
    (tmp_path / "mine-8.yaml").write_text(mine, encoding="utf-8")
    asked = []

    class Point:
        name = "mine"

        def load(self):
            return lambda: tmp_path

    def entry_points(*, group):
        asked.append(group)
        return [Point()] if group == "moesim.hardware" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert load_hardware("h200").name == "h200-sxm-8"
    assert asked == []
    assert load_hardware("my_own").name == "mine-8"
    assert load_hardware("mine-8").name == "mine-8"
    assert "mine-8" in names()


def test_facts_agree_with_the_fact_base(shared):
    """Device figures are those of the fact base; where it has several, one of them."""
    of = {
        "a100-sxm-80gb-8": "A100-SXM-80GB", "h100-sxm-8": "H100-SXM", "h800-sxm-8": "H800-SXM",
        "h20-8": "H20",
        "h200-sxm-8": "H200-SXM", "b200-sxm-8": "B200-SXM", "b300-sxm-8": "B300-SXM",
        "gb200-nvl72": "GB200-NVL72(per GPU)", "gb300-nvl72": "GB300-NVL72(per GPU)", "l40s-8": "L40S",
        "rtx-pro-6000-8": "RTX-PRO-6000-Server", "mi300x-8": "MI300X", "mi355x-8": "MI355X",
        "rtx-4090-workstation": "RTX-4090", "rtx-5090-workstation": "RTX-5090", "h100-pcie-8": "H100-PCIe",
    }  # fmt: skip
    facts: dict[tuple[str, str], set[float]] = {}
    with shared("facts").joinpath("hardware_facts.csv").open(encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            try:
                facts.setdefault((line["device"], line["field"]), set()).add(float(line["value"]))
            except ValueError:
                continue
    compared = 0
    for name, key in of.items():
        device = load_hardware(name).device
        peaks = device.processor.peak_flops_per_s
        ours = {
            f"peak_{d}_dense": peaks[d] / 1e12 for d in ("bf16", "fp16", "fp8", "int8", "fp4") if d in peaks
        }
        ours |= {f"peak_{d}": peaks[d] / 1e12 for d in ("fp32", "tf32") if d in peaks}
        ours |= {"mem_capacity": device.memory.capacity_bytes / 1e9}
        ours |= {"mem_bandwidth": device.memory.bandwidth_bytes_per_s / 1e9}
        ours |= {"tdp": device.tdp_w} if device.tdp_w else {}
        ours |= {"sm_or_core_count": device.processor.cores} if device.processor.cores else {}
        for field, value in ours.items():
            if (key, field) in facts:
                assert any(value == pytest.approx(fact) for fact in facts[key, field]), (name, field, value)
                compared += 1
    assert compared > 100


def test_collective_fits_agree_with_the_fact_base(shared):
    rows = {}
    with shared("facts").joinpath("nccl_alpha_beta_fits.csv").open(encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            key = (line["system"], line["nccl_dir_version"], line["collective"], int(line["num_gpus"]))
            rows[key] = (float(line["alpha_small_us(median<=32KiB)"]), float(line["busbw_large_GBps"]))
    systems = {
        "h100-sxm-8": "h100_sxm",
        "h200-sxm-8": "h200_sxm",
        "b200-sxm-8": "b200_sxm",
        "gb200-nvl72": "gb200",
    }
    for name, system in systems.items():
        fits = load_hardware(name).scale_up.collectives
        for collective, theirs in (("all_reduce", "all_reduce"), ("all_to_all", "alltoall")):
            for fit in fits[collective]:
                alpha, busbw = rows[system, "2.29.2", theirs, fit.ranks]
                assert fit.alpha_s == pytest.approx(alpha * 1e-6)
                assert fit.busbw_bytes_per_s == pytest.approx(busbw * 1e9, rel=2e-3)


def test_ascend_is_one_die():
    device = load_hardware("cloudmatrix384").device
    assert device.processor.peak_flops_per_s["bf16"] == 376e12
    assert (device.memory.capacity_bytes, device.memory.bandwidth_bytes_per_s) == (64e9, 1.6e12)


def test_a100_has_no_fp8_and_blackwell_ultra_little_int8():
    assert "fp8" not in load_hardware("a100").device.processor.peak_flops_per_s
    ultra = load_hardware("b300").device.processor.peak_flops_per_s
    assert ultra["int8"] < ultra["bf16"] / 10


def _table(marker: str) -> str:
    match = re.search(
        rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", DOCUMENT.read_text("utf-8"), re.DOTALL
    )
    assert match
    return match[1]


def test_the_documentation_has_todays_tables():
    assert _table("catalogue") == catalogue_table()
    assert _table("unchecked") == unchecked_table()


def test_the_documented_example_is_valid(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(blocks[0], encoding="utf-8")
    machine = load_hardware(path, nodes=128)
    assert (machine.name, machine.num_devices) == ("my-machine-8", 1024)
    changed = blocks[0].replace("efficiency: hopper       # a family, or curves of its own", "@")
    efficiency = next(block for block in blocks if block.startswith("efficiency:"))
    inner = "efficiency:\n" + "\n".join("        " + line for line in efficiency.splitlines()[1:])
    path.write_text(changed.replace("@", inner), encoding="utf-8")
    assert load_hardware(path).device.processor.efficiency_of("expert_gemm", "fp8").compute == ((1.0, 0.7),)


def test_the_documented_fabric_and_energies_are_valid(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    fabric = next(block for block in blocks if block.startswith("fabric:"))
    pair = Path(load_hardware("a800-pcie-2").path).read_text("utf-8")
    path = tmp_path / "fabric.yaml"
    path.write_text(pair + fabric, encoding="utf-8")
    assert len(load_hardware(path).fabric.wires) == 4
    energies = next(block for block in blocks if "path_energy" in block)
    energies = energies.replace("\n    energy:", "\n    peak: {bf16: 1 TFLOP/s}\n    energy:")
    energies = energies.replace("\n    path_energy:", "\n    peak: {bf16: 1 TFLOP/s}\n    path_energy:")
    head, _, rest = pair.partition("devices:\n")
    node = rest[rest.index("\nnode:") :]
    device = "".join(f"    {line}\n" for line in energies.splitlines())
    path.write_text(f"{head}devices:\n  toy:\n    title: Toy\n{device}{node}", encoding="utf-8")
    toy = load_hardware(path).device
    assert toy.processors[1].energy_per_byte["hbm"].joules == pytest.approx(0.55e-12 * 8)
    assert toy.idle_w == 70


def test_one_name_reads_one_machine():
    """A single load must not read the rest of the catalogue: cold start pays for every file."""
    code = (
        "import moesim.hardware.read as r\n"
        "seen = []\nold = r.read_yaml\n"
        "r.read_yaml = lambda p: (seen.append(p.name), old(p))[1]\n"
        "from moesim.hardware import load_hardware\n"
        "load_hardware('h200_sxm', nodes=4)\nprint(sorted(seen))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cpu.yaml', 'h200-sxm-8.yaml', 'hopper.yaml']"


def test_shipped_files_are_where_the_wheel_takes_them_from():
    folder = data_dir("hardware")
    assert {path.stem for path in folder.glob("*.yaml")} == set(names())


def test_fitted_files_stay_below_two_megabytes():
    folder = data_dir("hardware")
    fitted = [*(folder / "kernels").rglob("*"), *(folder / "serving").rglob("*")]
    assert 0 < sum(path.stat().st_size for path in fitted if path.is_file()) < 2_000_000


def test_graph_of_a_node_is_connected_and_as_wide_as_its_links():
    import networkx as nx

    for name in names():
        machine = load_hardware(name)
        if machine.num_devices > 80:
            continue
        made = graph(machine)
        assert nx.is_connected(made), name
        assert sum(kind == "device" for _, kind in made.nodes(data="kind")) == machine.num_devices
        assert all(edge["bandwidth_bytes_per_s"] > 0 for *_, edge in made.edges(data=True))


@pytest.mark.parametrize(
    ("name", "nodes", "expected"),
    [
        ("h200-sxm-8", 1, 4 * 450e9),
        ("h200-sxm-8", 4, 16 * 50e9),
        ("gb200-nvl72", 18, 36 * 900e9),
        ("gb200-nvl72", 36, 72 * 100e9),
        # Each of four devices on one side has a link to each of four on the other: 16 links of 448 / 7 GB/s.
        ("mi300x-8", 1, 16 * 64e9),
        ("cloudmatrix384", 2, 16 * 196e9),
    ],
)
def test_bisection_by_hand(name, nodes, expected):
    assert bisection_bytes_per_s(load_hardware(name, nodes=nodes)) == pytest.approx(expected)


def test_latency_between_devices_is_that_of_the_link():
    import networkx as nx

    made = graph(load_hardware("h200-sxm-8", nodes=2))
    hops = nx.shortest_path_length(made, "device:0", "device:7", weight="latency_s")
    assert hops == pytest.approx(3.4e-6)
    same_rail = nx.shortest_path_length(made, "device:0", "device:8", weight="latency_s")
    assert same_rail == pytest.approx(14e-6)


def test_names_are_as_they_are_looked_up():
    for name in names():
        assert name == name.lower()
        assert "_" not in name
        assert load_hardware(name.upper().replace("-", "_")).name == name
