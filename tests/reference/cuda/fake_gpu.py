"""A process that has a CUDA driver without having a GPU: the real Python packages over `fake_libcuda.cpp`.

Programs are compiled for the host instead of by NVRTC, and the fake driver runs them. What is tested so is
every call to the driver: names, types, order, handles, what is done with errors.
"""

import os
import subprocess
import sys
from pathlib import Path

from moesim.reference.cuda import cache
from moesim.reference.cuda.emulate import build

SOURCE = Path(__file__).with_name("fake_libcuda.cpp")
ROOT = Path(__file__).parents[3]
PRELUDE = """
import ctypes, sys
fake = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
import numpy as np
from moesim.reference.cuda import compile as nvrtc
from moesim.reference.cuda.emulate import build
def compiled(program, arch):
    return nvrtc.Compiled(str(build(program.text, dict(program.defines)).path).encode() + b"\\0", "emulated")
nvrtc.compiled = compiled
from moesim.reference.cuda.backend import Launch, download, open_backend, upload
"""


def library() -> Path:
    """The fake driver, compiled once."""

    def make(target: Path) -> None:
        flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libcuda.so.1"]
        subprocess.run(["g++", *flags, "-o", str(target), str(SOURCE), "-ldl"], check=True)

    return cache.built("fake_libcuda.so", SOURCE.read_bytes(), make)


def run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run Python with the fake driver; `options` are those of its source, without their prefix."""
    tiles = (
        str(build('#include "prims_tensor.cuh"\n').path)
        if (cache.KERNELS / "prims_tensor.cuh").exists()
        else ""
    )
    names = {f"FAKE_CUDA_{name.upper()}": str(value) for name, value in options.items()}
    environment = {**os.environ, "FAKE_CUDA_TILES": tiles, **names}
    command = [sys.executable, "-c", PRELUDE + code, str(library())]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
