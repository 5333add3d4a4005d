"""Run CUDA kernels without a GPU: their source compiled by a C++ compiler, threads as fibers.

`build` compiles the text of kernels together with the host's bodies of their primitives
(`kernels/fibers.hpp`, `kernels/prims_emu.hpp`); `Emulation.launch` runs one kernel to its end. Checked are
deadlocks, misaligned accesses, and writes past the ends of guarded arrays; shared memory and guarded
arrays are poisoned with NaNs. What cannot be seen here: speed, races of memory, memory order.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.reference.cuda import cache

#: Bytes before a guarded array that are watched, and bytes behind it that cannot be read.
GUARD = 1 << 16
#: What memory holds before anything is written: NaN as float32 and as bfloat16, -1 as an integer.
POISON = 0xFF
#: A declaration of a kernel, with or without launch bounds.
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_FLAGS = (
    "-std=c++17", "-O2", "-shared", "-fPIC", "-x", "c++", "-DMOESIM_EMULATED", "-fvisibility=hidden",
    "-fno-strict-aliasing", "-fno-threadsafe-statics", "-Wno-attributes", "-Wno-unknown-pragmas",
    "-Wno-psabi",
)  # fmt: skip


#: A kernel under way has the process's handlers of bad accesses.
_ONE_AT_A_TIME = threading.Lock()


class EmulationError(RuntimeError):
    """A kernel does what it must not: waits for ever, or fails a check. A bug of the kernel."""


class Emulation:
    """Kernels compiled for the host.

    Parameters
    ----------
    path
        The shared object.
    kernels
        Names of its kernels.
    """

    def __init__(self, path: Path, kernels: tuple[str, ...]) -> None:
        self.path = path
        self.kernels = kernels
        self.library = ctypes.CDLL(str(path))
        self.library.emulate_error.restype = ctypes.c_char_p

    def launch(
        self, kernel: str, grid: int, threads: int, args: Sequence[object], smem: int = 0, order: int = 0
    ) -> None:
        """Run a kernel to its end.

        Parameters
        ----------
        kernel
            Its name.
        grid, threads
            Blocks, and threads of each.
        args
            Its arguments in their order: arrays (a pointer to their data), numpy scalars, ``int`` and
            ``float`` (both 32 bits), or ctypes objects, which are passed as they are.
        smem
            Bytes of dynamic shared memory.
        order
            In which threads take turns: 0 ascending, 1 descending, else shuffled from this seed.

        Raises
        ------
        EmulationError
            If the kernel fails, naming it and what its threads wait for.
        """
        values = [_value(argument) for argument in args]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        with _ONE_AT_A_TIME:
            self.library.emulate_order(ctypes.c_uint(order))
            code = self.library.emulate(kernel.encode(), *map(ctypes.c_uint, (grid, threads, smem)), pointers)
            if code:
                raise EmulationError(self.library.emulate_error().decode())
        for place, argument in enumerate(args):
            if isinstance(argument, np.ndarray) and not intact(argument):
                raise EmulationError(f"{kernel}: writes outside of its argument {place}")


def source(files: Sequence[str]) -> str:
    """Text that includes files of the kernels' folder, for either compiler.

    >>> print(source(["route.cuh", "permute.cuh"]), end="")
    #include "route.cuh"
    #include "permute.cuh"
    """
    return "".join(f'#include "{name}"\n' for name in files)


def build(text: str, defines: Mapping[str, object] | None = None) -> Emulation:
    """Compile kernels for the host, or find them compiled.

    Parameters
    ----------
    text
        CUDA C++ over the primitives of ``prims.cuh``; it may include files of the kernels' folder.
    defines
        Macros.

    Raises
    ------
    ConfigError
        If there is no C++ compiler, or it refuses the text.
    """
    compiler = _compiler()
    kernels = _kernels(text)
    flags = [*_FLAGS, f"-I{cache.KERNELS}", *(f"-D{name}={value}" for name, value in (defines or {}).items())]
    table = "".join(f"MOESIM_KERNEL({name})" for name in kernels)
    unit = f'#include "prims.cuh"\n{text}\n#include "fibers_run.hpp"\nMOESIM_DOORS({table})\n'
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = "\0".join([version, *flags, unit]).encode() + cache.kernels_digest()

    def make(target: Path) -> None:
        command = [compiler, *flags, "-o", str(target), "-"]
        done = subprocess.run(command, input=unit, capture_output=True, text=True)
        if done.returncode:
            raise ConfigError(Fault(f"does not compile for the host: {done.stderr[-4000:]}", "kernels"))

    return Emulation(cache.built("emulated.so", key, make), kernels)


def guarded(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A poisoned array whose surroundings are watched.

    Memory behind it cannot be touched, and `Emulation.launch` fails if what lies before it is written to. It
    starts at a multiple of 16 bytes and ends where a page does, but for the fewer than 16 bytes between.

    >>> a = guarded((2, 3), np.float32)
    >>> a.shape, bool(np.isnan(a).all()), intact(a)
    ((2, 3), True, True)
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    ends = -(-(GUARD + size) // GUARD) * GUARD
    room = mmap.mmap(-1, ends + GUARD)
    whole = np.frombuffer(room, np.uint8)
    whole[:ends] = POISON
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    protect(whole.ctypes.data + ends, GUARD, 0)
    start = (ends - size) // 16 * 16
    return whole[start : start + size].view(dtype).reshape(shape)


def intact(array: npt.NDArray[Any]) -> bool:
    """Whether the surroundings of a guarded array are as they were; true of arrays that are not guarded."""
    whole = array.base
    if not isinstance(whole, np.ndarray):
        return True
    if not isinstance(getattr(whole.base, "obj", None), mmap.mmap):  # numpy keeps a view of the map
        return True
    start = array.ctypes.data - whole.ctypes.data
    ends = whole.size - GUARD
    before, behind = whole[:start], whole[start + array.nbytes : ends]
    return bool((before == POISON).all() and (behind == POISON).all())


def _value(argument: object) -> Any:  # noqa: ANN401 - ctypes' objects have no common type
    if isinstance(argument, np.ndarray):
        if not argument.flags.c_contiguous:
            raise ValueError("arrays for kernels are contiguous")
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, np.generic):
        kind: Any = np.ctypeslib.as_ctypes_type
        return kind(argument.dtype)(argument.item())
    if isinstance(argument, int):
        return ctypes.c_int32(argument)
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return argument


def _kernels(text: str) -> tuple[str, ...]:
    """Names of the kernels in a text and in the files that it includes."""
    names: dict[str, None] = {}
    seen: set[str] = set()

    def walk(part: str) -> None:
        for name in _INCLUDE.findall(part):
            if name not in seen and (cache.KERNELS / name).is_file():
                seen.add(name)
                walk((cache.KERNELS / name).read_text(encoding="utf-8"))
        names.update(dict.fromkeys(_KERNEL.findall(part)))

    walk(text)
    return tuple(names)


def _compiler() -> str:
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    for name in wanted:
        found = shutil.which(name)
        if found:
            return found
    fault = Fault(
        "kernels run without a GPU only where a C++ compiler is found",
        "CXX",
        os.environ.get("CXX"),
        "g++ or clang++ on the PATH, or CXX set to one",
    )
    raise ConfigError(fault)
