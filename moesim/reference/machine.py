"""What can be known of the machine that times were taken on."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

#: Where Linux tells of caches, clocks and governors of the first processor.
_CPU = Path("/sys/devices/system/cpu/cpu0")
#: What is asked of nvidia-smi, and as what it is reported.
_GPU = {
    "name": "name",
    "driver": "driver_version",
    "memory_mib": "memory.total",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "sm_clock_mhz": "clocks.sm",
    "max_sm_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def state() -> dict[str, object]:
    """Processor, load, libraries and GPU, as JSON takes it; what cannot be read is None.

    >>> sorted(state())[:4]
    ['blas', 'blas_threads', 'caches_bytes', 'clock_mhz']
    """
    blas = _blas()
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "caches_bytes": caches_bytes(),
        "memory_bytes": memory_bytes(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "governor": _read(_CPU / "cpufreq/scaling_governor"),
        "clock_mhz": _clock_mhz(),
        "virtual": None if _lines("/proc/cpuinfo", "flags") is None else _virtual(),
        "blas": [
            f"{one['internal_api']} {one['version']} {one.get('architecture', '')}".strip() for one in blas
        ],
        "blas_threads": [one["num_threads"] for one in blas],
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("moesim", "numpy", "scipy", "numba")},
        "gpu": _gpu(),
    }


def cpu_name() -> str:
    """Model of the processor."""
    return _lines("/proc/cpuinfo", "model name") or _sysctl("machdep.cpu.brand_string") or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def caches_bytes() -> dict[str, int]:
    """Sizes of the data caches that the first core uses, by level; empty where they cannot be read."""
    found: dict[str, int] = {}
    for index in sorted(_CPU.glob("cache/index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if level and size and kind != "Instruction":
            unit = _UNITS.get(size[-1])
            found[f"L{level}"] = int(size[:-1]) * unit if unit else int(size)
    for level, name in (("L1", "hw.l1dcachesize"), ("L2", "hw.l2cachesize"), ("L3", "hw.l3cachesize")):
        text = None if found.get(level) else _sysctl(name)
        if text and text.isdigit() and int(text):
            found[level] = int(text)
    return found


def memory_bytes() -> dict[str, int | None]:
    """Memory of the machine, and what is free of it; a container's own limit counts."""
    total = _kib("MemTotal")
    free = _kib("MemAvailable")
    limit = _read(Path("/sys/fs/cgroup/memory.max"))
    if limit and limit.isdigit() and (total is None or int(limit) < total):
        used = _read(Path("/sys/fs/cgroup/memory.current"))
        total = int(limit)
        free = min(free or total, total - int(used)) if used and used.isdigit() else free
    text = _sysctl("hw.memsize")
    if total is None and text and text.isdigit():
        total = int(text)
    return {"total": total, "available": free}


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _lines(path: str, key: str) -> str | None:
    text = _read(Path(path)) or ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _kib(key: str) -> int | None:
    text = _lines("/proc/meminfo", key)
    return int(text.split()[0]) * 1024 if text else None


def _clock_mhz() -> float | None:
    text = _lines("/proc/cpuinfo", "cpu MHz")
    return float(text) if text else None


def _virtual() -> bool:
    return "hypervisor" in (_lines("/proc/cpuinfo", "flags") or "").split()


def _blas() -> list[dict[str, object]]:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.dot(np.ones(1), np.ones(1))  # BLAS is there once it has been used
    return [one for one in threadpool_info() if one["user_api"] == "blas"]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _output(command: list[str]) -> str | None:
    program = shutil.which(command[0])
    if program is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def _sysctl(name: str) -> str | None:
    return _output(["sysctl", "-n", name]) if sys.platform == "darwin" else None


def _gpu() -> dict[str, object] | None:
    query = ",".join(_GPU.values())
    text = _output(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-i", "0"])
    if not text:
        return None
    values = [None if value.startswith("[") else value for value in text.splitlines()[0].split(", ")]
    return {
        key: value if value is None or key in ("name", "driver") else float(value)
        for key, value in zip(_GPU, values, strict=False)
    }
