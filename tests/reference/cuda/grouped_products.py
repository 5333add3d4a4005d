"""Grouped products run by the emulated kernels, and the same in float64."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moesim.reference.cuda.cache import KERNELS
from moesim.reference.cuda.emulate import POISON, Emulation, EmulationError, build
from moesim.reference.cuda.variants import Variant


def to_bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(x):
    return (np.asarray(x).astype(np.uint32) << 16).view(np.float32)


class Map(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * 128)]


def encode(library: ctypes.CDLL, array, rows: int, columns: int, box: int, swizzle: int = 3) -> Map:
    made = Map()
    u64, u32 = ctypes.c_uint64, ctypes.c_uint32
    refused = library.encode_tensor_map(
        ctypes.byref(made),
        u64(array.ctypes.data), u64(columns), u64(rows), u64(2 * columns), u32(64), u32(box), u32(swizzle),
    )  # fmt: skip
    assert not refused
    return made


def emulation(
    variants: Mapping[str, Variant], changes: Mapping[str, tuple[str, str]] | None = None
) -> Emulation:
    """Kernels of several variants, compiled together: each in a namespace, names with its key behind.

    `changes` are texts of the sources, by key, and what is to stand there instead; only ``experts_up`` of
    those is compiled.
    """
    text = '#include "prims_tensor.cuh"\n'
    for key, variant in variants.items():
        text += "".join(f"#undef {name}\n#define {name} {value}\n" for name, value in variant.defines)
        code = "".join((KERNELS / name).read_text() for name in ("gemm_tiles.cuh", variant.source))
        if changes and key in changes:
            changed = code.replace(*changes[key])
            assert changed != code, f"no such text: {changes[key][0]}"
            code = changed[: changed.rindex('extern "C"')]
        code = re.sub(r"^#(include.*|pragma once)$", "", code, flags=re.MULTILINE)
        code, kernels = re.subn(r"\b(experts_up|experts_down)\(", rf"\1_{key}(", code)
        doors = "".join(
            f"using in_{key}::{name}_{key};\n" for name in ("experts_up", "experts_down")[:kernels]
        )
        text += f"namespace in_{key} {{\n{code}\n}}\n{doors}"
    return build(text)


@dataclass(frozen=True)
class Problem:
    """Tokens of each expert, and sizes: out [pairs, n or n/2] = tokens [pairs, k] weights [slots, n, k]^T."""

    counts: tuple[int, ...]
    n: int
    k: int
    gated: bool
    seed: int = 0

    @property
    def pairs(self) -> int:
        return sum(self.counts)

    @property
    def width(self) -> int:
        return self.n // 2 if self.gated else self.n

    def slots(self):
        """Experts lie in slots in some other order, and one slot is empty."""
        return np.random.default_rng(self.seed).permutation(len(self.counts) + 1)[: len(self.counts)]

    def inputs(self):
        random = np.random.default_rng(self.seed)
        tokens = to_bf16(random.normal(size=(max(self.pairs, 1), self.k)))
        weights = to_bf16(random.normal(size=(len(self.counts) + 1, self.n, self.k)) / np.sqrt(self.k))
        return tokens, weights

    def reference(self):
        """In float64, rounded to bf16 once at the end."""
        tokens, weights = (from_bf16(x).astype(np.float64) for x in self.inputs())
        ends = np.cumsum(self.counts)
        parts = [np.zeros((0, self.width))]
        for slot, count, end in zip(self.slots(), self.counts, ends, strict=True):
            y = tokens[end - count : end] @ weights[slot].T
            if self.gated:
                gate, up = np.moveaxis(y.reshape(count, self.n // 16, 2, 8), 2, 0)
                y = (gate / (1 + np.exp(-gate)) * up).reshape(count, self.width)
            parts.append(y)
        return from_bf16(to_bf16(np.concatenate(parts)))

    def tiles(self, rows: int):
        ends = np.cumsum(self.counts)
        made = [
            (slot, first, end, 0)
            for slot, count, end in zip(self.slots(), self.counts, ends, strict=True)
            for first in range(end - count, end, rows)
        ]
        return np.array(made or [(0, 0, 0, 0)], np.int32), np.array([len(made)], np.int32)


#: Bytes watched before and behind the output: a tile's rows, for kernels that forget where theirs end.
GUARD = 1 << 18


def run(emulated: Emulation, key: str, variant: Variant, problem: Problem, grid=3, order=0):
    """What the kernel of a key writes; rows it must not write to are watched."""
    tokens, weights = problem.inputs()
    shape = max(problem.pairs, 1), problem.width
    whole = np.full(2 * GUARD + 2 * shape[0] * shape[1], POISON, np.uint8)
    out = whole[GUARD:-GUARD].view(np.uint16).reshape(shape)
    sides = [tokens, weights]
    if variant.tensor_maps:
        rows = max(problem.pairs, 1), weights.shape[0] * problem.n
        boxes = variant.row_box, variant.weight_box
        sides = [
            encode(emulated.library, x, count, problem.k, box)
            for x, count, box in zip(sides, rows, boxes, strict=True)
        ]
    tiles, num_tiles = problem.tiles(variant.rows)
    emulated.launch(
        f"{'experts_up' if problem.gated else 'experts_down'}_{key}",
        grid,
        variant.threads,
        [*sides, out, tiles, num_tiles, problem.n, problem.k],
        smem=variant.smem_bytes,
        order=order,
    )
    if (whole[:GUARD] != POISON).any() or (whole[-GUARD:] != POISON).any():
        raise EmulationError("writes outside of the output")
    return from_bf16(out)


def error(got, expected) -> float:
    """Norm of the difference over the norm; NaN counts as infinite."""
    size = float(np.linalg.norm(expected))
    distance = float(np.linalg.norm(got.astype(np.float64) - expected))  # what is wrong may be large
    return distance / size if np.isfinite(distance) else np.inf
