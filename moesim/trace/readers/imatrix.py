"""llama.cpp's importance matrix: exact counts of the tokens each expert saw.

A GGUF file of the type ``imatrix`` has, for each weight matrix NAME, a tensor ``NAME.counts``; for the
stacked matrices of experts it has one value per expert, the tokens that were routed there. The older
``.dat`` format keeps one count for all experts together, so that it says nothing about load.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin, load_counts
from moesim.trace.gguf import MAGIC, read_gguf
from moesim.trace.limits import size_fault
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.schema import MAX_LAYERS
from moesim.trace.shape import Hints
from moesim.trace.types import LoadCounts

#: Any one of a layer's matrices has the counts; later ones are asked where earlier ones are missing.
_MATRICES = ("ffn_gate_exps", "ffn_down_exps", "ffn_up_exps", "ffn_gate_up_exps")
_NAME = re.compile(rf"blk\.(\d{{1,4}})\.({'|'.join(_MATRICES)})\.weight\.counts")
_LEGACY_NAME = re.compile(rb"(blk\.\d+|output|token_embd)[\w.]*")


def _sniff(peek: Peek) -> float:
    if peek.head.startswith(MAGIC):
        return 1.0
    return 0.8 if _is_legacy(peek.head) else 0.0


def _is_legacy(head: bytes) -> bool:
    entries, length = (int.from_bytes(head[at : at + 4], "little") for at in (0, 4))
    plausible = 0 < entries < 100_000 and 5 < length < 200
    return plausible and _LEGACY_NAME.fullmatch(head[8 : 8 + length]) is not None


def _read(peek: Peek, hints: Hints) -> LoadCounts:
    if not peek.head.startswith(MAGIC):
        what = "is an imatrix in the old .dat format, which has no counts per expert"
        raise TraceError(Fault(what, allowed="the GGUF format, which newer llama.cpp writes"), peek.path)
    file = read_gguf(peek.path)
    if file.values.get("general.type") != "imatrix":
        kind = file.values.get("general.type")
        raise TraceError(Fault("is no imatrix", "general.type", kind, "imatrix"), peek.path)
    found: dict[tuple[int, str], str] = {}
    for name in file.tensors:
        match = _NAME.fullmatch(name)
        if match is not None and int(match[1]) < MAX_LAYERS:
            found[int(match[1]), match[2]] = name
    layers = sorted({layer for layer, _ in found})
    if not layers:
        raise TraceError(Fault("has no counts of experts: the model is dense, or routed nothing"), peek.path)
    rows: list[npt.NDArray[np.float32]] = []
    notes: list[str] = []
    faults: list[Fault] = []
    for layer in layers:
        names = [found[layer, matrix] for matrix in _MATRICES if (layer, matrix) in found]
        row = file.floats(names[0])
        if any(not np.array_equal(row, file.floats(name)) for name in names[1:]):
            notes.append(
                f"layer {layer}: the matrices disagree on the counts; those of {names[0]} were taken"
            )
        if rows and len(row) != len(rows[0]):
            faults.append(Fault(f"has {len(row)} experts, layer {layers[0]} has {len(rows[0])}", names[0]))
        rows.append(row)
    faults = faults or [f for f in [size_fault(8 * len(rows) * len(rows[0]), "the counts")] if f]
    if faults:
        raise TraceError(faults[:5], peek.path)
    metadata = {
        key.removeprefix("imatrix."): str(file.values[key])
        for key in ("imatrix.chunk_count", "imatrix.chunk_size")
        if key in file.values
    }
    origin = Origin(peek.path, layer_ids=tuple(layers), warnings=tuple(notes), metadata=metadata)
    return load_counts(np.stack(rows), origin, hints)


READER = Reader("imatrix", "llama.cpp's imatrix (GGUF)", _sniff, _read)
