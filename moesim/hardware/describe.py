"""Machines as tables: for the command line and the documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.files import data_dir
from moesim.hardware.catalogue import (
    examine,
    find,
    load_hardware,
    names,
    read_description,
    read_family,
)
from moesim.hardware.types import KINDS, Hardware, Link
from moesim.units import show

COLUMNS = ("name", "devices", "memory", "bandwidth", "bf16", "fp8", "fp4", "scale-up", "scale-out", "price")


@dataclass(frozen=True, slots=True)
class Report:
    """What the checks found in one file.

    Parameters
    ----------
    path
        The file.
    faults
        What keeps it from being used, or what a catalogue file must not have.
    warnings
        What is worth a look.
    """

    path: Path
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]


def check_file(path: str | Path) -> Report:
    """Read a machine and run every check on it; faults are reported, not raised."""
    path = Path(path)
    try:
        _, findings = examine(path)
        faults = [finding.fault for finding in findings if finding.strict]
        if not faults:
            load_hardware(path)
    except ConfigError as error:
        return Report(path, error.faults, ())
    return Report(path, tuple(faults), tuple(finding.fault for finding in findings if not finding.strict))


def check_family(path: str | Path) -> Report:
    """Read an efficiency family and run its checks; faults are reported, not raised."""
    from moesim.hardware.check import check_curves

    path = Path(path)
    try:
        family, origins = read_family(path)
    except ConfigError as error:
        return Report(path, error.faults, ())
    unsourced = [
        Fault("no source", f"kinds.{kind}", None, "a 'source' here or in an enclosing mapping")
        for kind in family.kinds
        if origins[f"kinds.{kind}"].startswith(" [")
    ]
    return Report(path, (*check_curves(family.kinds, "kinds"), *unsourced), ())


def check_catalogue() -> list[Report]:
    """Check every machine and every efficiency family there is."""
    machines = [check_file(find(name)) for name in names()]
    families = sorted((data_dir("hardware") / "efficiency").glob("*.yaml"))
    return machines + [check_family(path) for path in families]


def row(hardware: Hardware) -> tuple[str, ...]:
    """One line of the catalogue's table, in the order of `COLUMNS`."""
    peak = hardware.device.processor.peak_flops_per_s
    price = hardware.device.price
    spread = f" x {hardware.nodes} nodes" if hardware.nodes > 1 else ""
    return (
        hardware.name,
        f"{hardware.devices_per_node}{spread}",
        show(hardware.device.memory.capacity_bytes, "bytes"),
        show(hardware.device.memory.bandwidth_bytes_per_s, "bytes_per_s"),
        _sixteen_cell(peak),
        *(show(peak.get(dtype), "flops_per_s") for dtype in ("fp8", "fp4")),
        _link_cell(hardware.scale_up) if hardware.scale_up.domain > 1 else "-",
        _link_cell(hardware.scale_out),
        f"{price.usd_per_hour:g} USD/h ({price.vendor}, {price.date})" if price else "-",
    )


def _sixteen_cell(peak: Mapping[str, float]) -> str:
    """The peak in bf16; before Ampere there is fp16 only."""
    if "bf16" in peak or "fp16" not in peak:
        return show(peak.get("bf16"), "flops_per_s")
    return f"{show(peak['fp16'], 'flops_per_s')} fp16"


def _link_cell(link: Link | None) -> str:
    return f"{link.name} {show(link.bandwidth_bytes_per_s, 'bytes_per_s')}" if link else "-"


def grouped(machines: Iterable[Hardware]) -> dict[str, list[Hardware]]:
    """Machines by kind, in the order of `moesim.hardware.types.KINDS`; kinds without any are left out."""
    groups: dict[str, list[Hardware]] = {kind: [] for kind in KINDS}
    for machine in machines:
        groups[machine.kind].append(machine)
    return {kind: members for kind, members in groups.items() if members}


def catalogue_table() -> str:
    """The catalogue as Markdown tables, one below a heading for each kind."""
    groups = grouped(load_hardware(name) for name in names())
    return "\n\n".join(
        f"### {KINDS[kind][:1].upper()}{KINDS[kind][1:]}\n\n{markdown(COLUMNS, map(row, members))}"
        for kind, members in groups.items()
    )


def unchecked_table() -> str:
    """What the catalogue recalls or assumes, by machine, as a Markdown table."""
    rows = []
    for name in names():
        origins = read_description(find(name)).origins
        cells = [
            ", ".join(_short(origin.path) for origin in origins if origin.status == status)
            for status in ("recalled", "assumed")
        ]
        rows.append([name, *(cell or "-" for cell in cells)])
    return markdown(("machine", "recalled", "assumed"), rows)


def _short(path: str) -> str:
    """A path without the names that every machine has only one of."""
    parts = path.split(".")
    return ".".join(parts[2:] if parts[0] == "devices" else parts[1:])


def markdown(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table.

    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    head = list(columns)
    lines = [head, ["---"] * len(head), *(list(cells) for cells in rows)]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    text[1] = "|" + "|".join(lines[1]) + "|"
    return "\n".join(text)


def document(hardware: Hardware) -> dict[str, Any]:
    """A machine as JSON types, with the origin of each number of its description."""
    description = read_description(Path(hardware.path))
    whole: Mapping[str, Any] = dataclasses.asdict(hardware)
    return {
        **{key: value for key, value in whole.items() if key != "sources"},
        "num_devices": hardware.num_devices,
        "domain": hardware.domain,
        "numbers": [
            {
                "path": origin.path,
                "value": origin.value,
                "text": origin.text,
                "status": origin.status,
                "source": origin.source,
                "note": origin.note,
            }
            for origin in description.origins
        ],
    }
