"""The hardware file of a machine that was calibrated: one YAML that stands alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from moesim._version import __version__
from moesim.calibrate.kernel_file import fit_entry
from moesim.calibrate.reference.cpu import Copies, CpuCalibration
from moesim.calibrate.reference.written import anchor_entry, yaml_of

#: Experts are copied by the core itself: what is measured is all there is.
_WHOLE = {"value": 1, "note": "what was measured is all there is"}
_COMMENT = """\
# Written by: {command}
# One core of this machine. Copy it, edit it, and pass its path: --hardware edited.yaml
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the machine and the run without measuring.

    Parameters
    ----------
    machine
        `moesim.reference.machine.state`.
    date
        Of the run.
    command
        That was given.
    storage_bytes
        Of the file system of temporary files.
    wall_s
        How long it took.
    """

    machine: Mapping[str, Any]
    date: str
    command: str
    storage_bytes: float
    wall_s: float


def verdict(found: CpuCalibration) -> str:
    """``measured``, or ``inconclusive`` where the machine was too noisy."""
    return "measured" if found.floor.conclusive else "inconclusive"


def summary(found: CpuCalibration) -> dict[str, Any]:
    """Ceilings, errors, noise and verdict, as JSON types."""
    return {
        "verdict": verdict(found),
        "floor": {"median": found.floor.median, "p95": found.floor.p95},
        "rounds": found.rounds,
        "ceilings": asdict(found.ceilings),
        "copies": asdict(found.copies),
        "file_reads": asdict(found.reads) if found.reads else None,
        "surfaces": [
            {
                "kernel": fit.surface.kernel,
                "dtype": fit.surface.dtype,
                "rows": fit.rows,
                "floor_s": fit.surface.floor_s,
                "sharpness": fit.surface.sharpness,
                "log_error": list(fit.surface.log_error),
                "left_out": fit.left_out.to_dict(),
            }
            for fit in found.fits
        ],
    }


def description(found: CpuCalibration, facts: Facts) -> dict[str, Any]:
    """What the file holds."""
    cpu, limits = str(facts.machine["cpu"]), found.ceilings
    read, copied = _rate(limits.read_bytes_per_s), _rate(limits.copy_bytes_per_s)
    memory = {
        "capacity": {
            "value": _bytes(facts.machine["memory_bytes"]["total"]),
            "source": "system",
            "status": "seen",
        },
        "bandwidth": {"value": read, "note": "one core reads"},
    }
    peak = {name: f"{value / 1e9:.5g} GFLOP/s" for name, value in limits.flops_per_s.items()}
    return {
        "schema_version": 1,
        "name": "this-cpu",
        "title": f"{cpu}, one core",
        "kind": "cpu",
        "sources": {
            "run": f"measured by moesim calibrate cpu on {cpu}, {facts.date} (moesim {__version__})",
            "system": "as the operating system reports it",
        },
        "source": "run",
        "status": "measured",
        "devices": {
            "cpu": {
                "title": f"{cpu}, one core",
                "processors": {
                    "core": {
                        "cores": 1,
                        "peak": peak,
                        "efficiency": "cpu-avx",
                        "kernels": {
                            "fits": [fit_entry(fit) for fit in found.fits],
                            "measured": _measured(found, facts),
                        },
                    }
                },
                "memories": {"ram": memory},
            }
        },
        "node": {
            "devices": {"value": 1, "note": "one core, from one thread"},
            "scale_up": _link({"value": copied, "note": "no link; one memory"}, 0.0) | {"domain": 1},
            "host_link": _link(
                {"value": _rate(found.copies.bytes_per_s), "note": "what loading an expert adds to a layer"},
                found.copies.latency_s,
            ),
            "host": {
                "title": f"{cpu}; its memory is the device's own",
                "sockets": 1,
                "processor": {"cores": 1, "peak": {"fp32": peak["fp32"]}, "efficiency": "cpu-avx"},
                "memory": memory,
                **_storage(found.reads, facts),
            },
        },
    }


def text_of(document: Mapping[str, Any], command: str) -> str:
    """The document as YAML, with a comment on top."""
    return _COMMENT.format(command=command) + yaml_of(document)


def _link(bandwidth: object, latency_s: float) -> dict[str, Any]:
    return {
        "name": "memory",
        "bandwidth": bandwidth,
        "latency": f"{latency_s * 1e6:.4g} us",
        "efficiency": _WHOLE,
        "topology": "tree",
    }


def _storage(reads: Copies | None, facts: Facts) -> dict[str, Any]:
    if reads is None:
        return {}
    capacity = {"value": _bytes(facts.storage_bytes), "source": "system", "status": "seen"}
    bandwidth = {"value": _rate(reads.bytes_per_s), "note": "a file that the system has read before"}
    return {"storage": {"capacity": capacity, "bandwidth": bandwidth}}


def _measured(found: CpuCalibration, facts: Facts) -> dict[str, Any]:
    """How the file came about."""
    limits = found.ceilings
    return {
        "verdict": verdict(found),
        "floor": {"median": _short(found.floor.median), "p95": _short(found.floor.p95)},
        "date": facts.date,
        "command": facts.command,
        "wall_s": _short(facts.wall_s),
        "rounds": found.rounds,
        "ceilings": {
            name: {k: _short(v) for k, v in value.items()} if isinstance(value, dict) else _short(value)
            for name, value in asdict(limits).items()
        },
        "copies": _copies(found.copies),
        "copies_log_error": [_short(q) for q in found.copies.log_error],
        **({"file_reads": _copies(found.reads)} if found.reads else {}),
        "machine": dict(facts.machine),
        "anchors": [anchor_entry(t.case, t.counts, _short(seconds)) for t, seconds in found.anchors],
    }


def _copies(copies: Copies) -> dict[str, float]:
    names = ("latency_s", "bytes_per_s", "residual", "loads")
    return {name: _short(getattr(copies, name)) for name in names}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.5g} GB/s"


def _bytes(value: object) -> str:
    size = value if isinstance(value, int | float) else 1e9
    return f"{size / 1e9:.5g} GB"
