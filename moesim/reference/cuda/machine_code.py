"""What a compiled kernel costs and contains: registers and spills from the assembler's log, and instructions.

Code is read by NVIDIA's ``nvdisasm``, which needs no GPU: from the package ``nvidia-cuda-nvdisasm``, the
``PATH`` or a CUDA toolkit.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SECTION = re.compile(r"^\.text\.(\w+):", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a thread of a kernel takes.

    Parameters
    ----------
    registers
        When it starts.
    stack_bytes, spilled_bytes
        Local memory: of arrays and calls; of registers that did not fit, stores and loads.
    """

    registers: int
    stack_bytes: int
    spilled_bytes: int


def resources(log: str) -> dict[str, Resources]:
    """By kernel, from the log of an assembler that was told ``-v``.

    >>> log = '''ptxas info    : Compiling entry function 'experts_up' for 'sm_90a'
    ...     0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
    ... ptxas info    : Used 168 registers, used 1 barriers'''
    >>> resources(log)
    {'experts_up': Resources(registers=168, stack_bytes=0, spilled_bytes=12)}
    """
    found = {}
    parts = _ENTRY.split(log)[1:]
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        stack, registers = _STACK.search(text), _REGISTERS.search(text)
        if stack and registers:
            frame, stores, loads = map(int, stack.groups())
            found[name] = Resources(int(registers[1]), frame, stores + loads)
    return found


def disassembler() -> Path | None:
    """Path of ``nvdisasm``, if there is one."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [tool for place in places for tool in sorted(Path(place).glob("*/bin/nvdisasm"))]
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvdisasm"
    on_path = shutil.which("nvdisasm")
    candidates = [*found, *([Path(on_path)] if on_path else []), toolkit]
    return next((tool for tool in candidates if os.access(tool, os.X_OK)), None)


def instructions(cubin: bytes, tool: Path) -> dict[str, Counter[str]]:
    """How often each kernel's code has each instruction, by the first part of its name (``HGMMA``)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    parts = _SECTION.split(text)[1:]
    return {
        name: Counter(word.partition(".")[0] for word in _INSTRUCTION.findall(body))
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
