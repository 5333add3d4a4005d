"""The hardware description that a calibrated GPU is written as: one file that stands alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moesim.calibrate.kernel_file import fit_entry
from moesim.calibrate.reference.cuda_ceilings import Ceilings
from moesim.calibrate.reference.written import yaml_of
from moesim.calibrate.surfaces import Fitted
from moesim.hardware.tiles import TileLaw
from moesim.hardware.types import Device, Memory, Processor

#: Dense bf16 and plain fp32 FLOP of one multiprocessor and clock, by compute capability: those of the largest
#: chip, which bounds the others (NVIDIA's architecture white papers).
PER_CLOCK: dict[tuple[int, int], tuple[float, float]] = {
    (8, 0): (2048.0, 128.0),
    (8, 6): (1024.0, 256.0),
    (8, 7): (1024.0, 256.0),
    (8, 9): (1024.0, 256.0),
    (9, 0): (4096.0, 256.0),
    (10, 0): (8192.0, 256.0),
    (10, 3): (8192.0, 256.0),
    (12, 0): (1024.0, 256.0),
    (12, 1): (1024.0, 256.0),
}
#: Of a device that does not tell its clock; then what was measured decides.
CLOCK_KHZ = 1e6
#: Family of efficiencies that stands in for kernels that are not measured here (attention), by capability.
FAMILIES = {8: "ampere", 9: "hopper", 10: "blackwell", 12: "blackwell"}


def bare_device(
    facts: Mapping[str, Any],
    measured_bandwidth: float,
    measured_flops: float,
    laws: Mapping[str, TileLaw] | None = None,
) -> Device:
    """A device with its peaks: clocks times widths, and never less than was measured.

    Parameters
    ----------
    facts
        As `moesim.reference.cuda.backend.Backend.facts` gives them.
    measured_bandwidth, measured_flops
        Bytes and FLOP per second that were reached.
    laws
        Measured laws of grouped GEMMs.
    """
    cores = int(facts["multiprocessors"])
    capability = tuple(facts["capability"])
    clock = 1e3 * float(facts.get("clock_khz") or CLOCK_KHZ)
    bf16, fp32 = (per * clock * cores for per in PER_CLOCK.get((capability[0], capability[1]), (0.0, 0.0)))
    width = float(facts.get("memory_bus_bits") or 0.0) / 8
    bandwidth = max(2 * 1e3 * float(facts.get("memory_clock_khz") or 0.0) * width, measured_bandwidth)
    bf16 = max(bf16, measured_flops)
    return Device(
        slug(str(facts["name"])),
        str(facts["name"]),
        (
            Processor(
                "sm",
                {"bf16": bf16, "fp32": fp32 or bf16 / 16},
                cores,
                {"hbm": bandwidth},
                {},
                tiles=dict(laws or {}),
            ),
        ),
        (Memory("hbm", float(facts["memory_bytes"]), bandwidth),),
    )


def slug(name: str) -> str:
    """A name as files have it.

    >>> slug("NVIDIA H200 (141 GB)")
    'nvidia-h200-141-gb'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "gpu"


def document(
    device: Device,
    law: TileLaw,
    fits: Sequence[Fitted],
    found: Ceilings,
    measured: Mapping[str, Any],
    capability: Sequence[int],
) -> dict[str, Any]:
    """The description as YAML has it.

    Parameters
    ----------
    device
        Its peaks.
    law
        Of the experts.
    fits
        Surfaces of the small kernels.
    found
        Ceilings; the link to the host is the line of page-locked copies to the device.
    measured
        What is kept beside: machine, residuals, ceilings, anchors.
    capability
        Of the device: it names the family of what was not measured.
    """
    processor, memory = device.processor, device.memory
    to_device = found.host["h2d_pinned"]
    link = {
        "name": "host-link",
        "bandwidth": _rate(to_device.bandwidth_bytes_per_s),
        "latency": _time(to_device.latency_s),
        "efficiency": 1.0,
        "topology": "tree",
    }
    family = FAMILIES.get(capability[0])
    return {
        "schema_version": 1,
        "name": f"cuda-{device.name}",
        "title": f"{device.title}, measured by moesim calibrate cuda",
        "kind": "gpu",
        "sources": {
            "measured": f"moesim calibrate cuda, {measured['date']}",
            "peak": "clocks and widths that the driver tells, times what the architecture does per clock;"
            " never less than was measured",
            "alone": "one GPU: nothing is sent",
        },
        "source": "measured",
        "status": "measured",
        "devices": {
            device.name: {
                "title": device.title,
                "processors": {
                    "sm": {
                        "cores": processor.cores,
                        "peak": {
                            key: {
                                "value": f"{value / 1e12:.6g} TFLOP/s",
                                "source": "peak",
                                "status": "derived",
                            }
                            for key, value in processor.peak_flops_per_s.items()
                        },
                        **({"efficiency": family} if family else {}),
                        "tiles": {"bf16": tiles_document(law)},
                        "kernels": {
                            "licence": "of whoever measured it",
                            "fits": [fit_entry(fit) for fit in fits],
                            "measured": dict(measured),
                        },
                    }
                },
                "memories": {
                    "hbm": {
                        "capacity": f"{memory.capacity_bytes / 1e9:.9g} GB",
                        "bandwidth": {
                            "value": _rate(memory.bandwidth_bytes_per_s),
                            "source": "peak",
                            "status": "derived",
                        },
                    }
                },
            }
        },
        "node": {
            "devices": 1,
            "scale_up": {**link, "domain": 1, "source": "alone", "status": "assumed"},
            "host_link": link,
        },
    }


def tiles_document(law: TileLaw) -> dict[str, Any]:
    """A law as YAML has it."""
    return {
        "launch": _time(law.launch_s),
        "launches": law.launches,
        **({"sharpness": float(f"{law.sharpness:.6g}")} if law.sharpness < float("inf") else {}),
        "memory": _curve(law.memory),
        "moves": _curve(law.moves),
        "log_error": list(law.log_error),
        "configurations": [
            {
                "name": tile.name,
                "rows": tile.rows,
                "columns": tile.columns,
                "compute": float(f"{tile.compute:.6g}"),
                "fill": _time(tile.fill_s),
                "drain": _time(tile.drain_s),
                **({"up_to": float(f"{tile.most:.9g}")} if tile.most < float("inf") else {}),
            }
            for tile in law.tiles
        ],
    }


def text_of(whole: Mapping[str, Any]) -> str:
    """A description as YAML, the same for the same document."""
    comment = "# Written by moesim calibrate cuda; pass its path: --hardware this.yaml\n"
    return comment + yaml_of(_plain(whole))


def _plain(item: Any) -> Any:  # noqa: ANN401 - whatever YAML has
    """Without numpy, tuples, and numbers that YAML readers disagree about."""
    if isinstance(item, Mapping):
        return {str(key): _plain(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(value) for value in item]
    if isinstance(item, np.generic):
        return _plain(item.item())
    if isinstance(item, float) and not np.isfinite(item):
        return None
    return item


def _curve(curve: Sequence[tuple[float, float]]) -> list[list[Any]]:
    return [[f"{size / 1e6:.6g} MB", float(f"{share:.6g}")] for size, share in curve]


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.6g} GB/s"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.6g} us"
