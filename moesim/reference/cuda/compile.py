"""Compile kernels at run time with NVRTC, once per machine: the code and the compiler's log are kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault, MoesimError
from moesim.reference.cuda import cache

#: Oldest architecture with bf16 products and asynchronous copies.
OLDEST = (8, 0)
#: Compiled programs that are kept; the oldest go first.
KEPT_FILES = 512
_OPTIONS = ("--std=c++17", "--ptxas-options=-v", "-lineinfo")
_FOUND = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes spill (?:stores|loads)")


@dataclass(frozen=True, slots=True)
class Program:
    """Kernels that are compiled together.

    Parameters
    ----------
    files
        Names of sources in ``kernels/``.
    defines
        Macros: names and values.
    tensor
        Whether it needs what only Hopper has (``sm_90a``).
    """

    files: tuple[str, ...]
    defines: tuple[tuple[str, int], ...] = ()
    tensor: bool = False

    @property
    def text(self) -> str:
        """The source: an include of each file.

        >>> print(Program(("route.cuh",)).text, end="")
        #include "route.cuh"
        """
        return "".join(f'#include "{name}"\n' for name in self.files)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made.

    Parameters
    ----------
    cubin
        Code for one architecture.
    log
        Of the compiler, with registers and spills of each kernel.
    """

    cubin: bytes
    log: str

    @property
    def registers(self) -> int:
        """Of the kernel with most."""
        return max(map(int, _FOUND.findall(self.log)), default=0)

    @property
    def spilled_bytes(self) -> int:
        """Registers that did not fit and went to memory."""
        return sum(map(int, _SPILLED.findall(self.log)))


def architecture(capability: tuple[int, int], *, tensor: bool = False) -> str:
    """Name of the architecture that NVRTC compiles for.

    Parameters
    ----------
    capability
        Compute capability of the device.
    tensor
        Whether the program uses Hopper's own instructions.

    Raises
    ------
    ConfigError
        If the device is older than `OLDEST`, or not a Hopper where one is needed.

    >>> architecture((9, 0), tensor=True), architecture((12, 0))
    ('sm_90a', 'sm_120')
    """
    major, minor = capability
    if capability < OLDEST:
        raise ConfigError(
            Fault("is too old for bf16 kernels", "compute capability", f"{major}.{minor}", "8.0 and newer")
        )
    if tensor and capability != (9, 0):
        raise ConfigError(Fault("lacks wgmma", "compute capability", f"{major}.{minor}", "9.0"))
    return f"sm_{major}{minor}{'a' if tensor else ''}"


def compiled(program: Program, arch: str) -> Compiled:
    """Compile a program, or take it from the user's cache.

    Raises
    ------
    ConfigError
        If the package or its compiler is missing, or does not know the architecture.
    MoesimError
        If the source does not compile: moesim's own fault.
    """
    nvrtc, version = compiler()
    options = [f"--gpu-architecture={arch}", *_OPTIONS, f"-I{cache.KERNELS}"]
    options += [f"-D{name}={value}" for name, value in program.defines]
    key = hashlib.sha256()
    for part in (program.text, *options[:-1], str(version)):
        key.update(part.encode() + b"\0")
    key.update(cache.kernels_digest())

    def make(path: Path) -> None:
        made = _compile(nvrtc, program, options)
        prune(cache.folder(), KEPT_FILES)
        path.write_bytes(made.log.encode() + b"\0" + made.cubin)

    path = cache.built(f"{program.files[-1].partition('.')[0]}-{arch}.cubin", key.digest(), make)
    log, _, cubin = path.read_bytes().partition(b"\0")
    return Compiled(cubin, log.decode())


def compiler() -> tuple[Any, tuple[int, int]]:
    """NVRTC and its version.

    Raises
    ------
    ConfigError
        If either is missing.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        raise ConfigError(missing_package()) from None
    try:
        status, major, minor = nvrtc.nvrtcVersion()
    except (RuntimeError, OSError, ImportError) as error:
        raise ConfigError(
            Fault(f"NVRTC cannot be loaded ({_first_line(error)})", allowed="pip install 'moesim[cuda]'")
        ) from None
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise ConfigError(f"NVRTC does not work: {status.name}")
    return nvrtc, (major, minor)


def prune(folder: Path, kept: int) -> None:
    """Delete the oldest compiled programs, so that fewer than `kept` are left."""
    files = sorted(folder.glob("*.cubin"), key=lambda file: file.stat().st_mtime)
    for file in files[: max(len(files) - kept + 1, 0)]:
        file.unlink(missing_ok=True)


def missing_package() -> Fault:
    """Said where the extra is not installed."""
    return Fault("the packages for CUDA are not installed", allowed="pip install 'moesim[cuda]'")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _compile(nvrtc: Any, program: Program, options: list[str]) -> Compiled:  # noqa: ANN401
    def checked(result: tuple[Any, ...]) -> Any:  # noqa: ANN401
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise MoesimError(f"NVRTC: {result[0].name}")
        return result[1] if len(result) > 1 else None

    def text(size: Callable[[Any], Any], get: Callable[[Any, bytes], Any]) -> bytes:
        buffer = b"\0" * int(checked(size(handle)))
        checked(get(handle, buffer))
        return buffer

    # Not a name of a file that it includes.
    name = b"moesim.cu"
    handle = checked(nvrtc.nvrtcCreateProgram(program.text.encode(), name, 0, [], []))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(handle, len(options), [option.encode() for option in options])
        log = text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode().strip("\0\n ")
        if status == nvrtc.nvrtcResult.NVRTC_ERROR_INVALID_OPTION:
            raise ConfigError(
                Fault("NVRTC does not know an option or the architecture", value=options[0], allowed=log)
            )
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise MoesimError(f"{program.files[-1]} does not compile with {' '.join(options)}:\n{log}")
        return Compiled(text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN), log)
    finally:
        nvrtc.nvrtcDestroyProgram(handle)
