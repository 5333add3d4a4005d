"""Kernels with planted bugs: one text with all of them, of which one at a time is switched on at run time."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from moesim.reference.cuda.cache import KERNELS
from moesim.reference.cuda.emulate import Emulation, build

_SWITCH = 'static i32 mutant = -1;\nextern "C" __global__ void set_mutant(i32 number) { mutant = number; }\n'


def flat(files: Sequence[str], seen: set[str] | None = None) -> str:
    """The kernels' text with the files that it includes in it, but for the primitives."""
    seen = set() if seen is None else seen
    parts = []
    for name in files:
        if name in seen:
            continue
        seen.add(name)
        for line in (KERNELS / name).read_text(encoding="utf-8").splitlines(keepends=True):
            inner = re.match(r'#include "(\w+\.cuh)"', line)
            if inner and not inner[1].startswith("prims"):
                parts.append(flat([inner[1]], seen))
            elif not line.startswith("#pragma once"):
                parts.append(line)
    return "".join(parts)


class Mutants:
    """Planted bugs.

    Parameters
    ----------
    files
        Of the kernels' folder.
    bugs
        Expressions and what stands there instead; an expression stands in the text once. Every
        ``__syncthreads()`` is a bug too, by being left out.
    """

    def __init__(self, files: Sequence[str], bugs: Sequence[tuple[str, str]]) -> None:
        text = flat(files)
        self.names: list[str] = []
        for right, wrong in bugs:
            if text.count(right) != 1:
                raise ValueError(f"{right!r} stands {text.count(right)} times in the text")
            text = text.replace(right, f"(mutant == {len(self.names)} ? ({wrong}) : ({right}))")
            self.names.append(f"{right} -> {wrong}")

        def without(found: re.Match[str]) -> str:
            behind = text[found.end() :].split("\n", 2)[1].strip()
            self.names.append(f"no barrier before: {behind}")
            return f"if (mutant != {len(self.names) - 1}) __syncthreads();"

        text = re.sub(r"__syncthreads\(\);", without, text)
        self.emulation: Emulation = build('#include "prims_tensor.cuh"\n' + _SWITCH + text)

    def switch(self, number: int) -> Emulation:
        """The kernels with this bug, or with none for -1."""
        self.emulation.launch("set_mutant", 1, 1, [np.int32(number)])
        return self.emulation
