"""The weights that EPLB balances: how much each expert of each MoE layer is used, ``[layers, experts]``.

An ``.npz`` with the array `weight` (and, where moesim wrote it, `moe_layer_ids`), or JSON, a list of lists.
"""

from __future__ import annotations

import re

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.arrays import Array, layer_list, read_npz
from moesim.trace.assemble import Origin, load_counts
from moesim.trace.json_text import Faults, read_json, short, shown
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.shape import Hints
from moesim.trace.types import LoadCounts

_NAMES = ("weight", "weights")
_ROWS = re.compile(rb"\s*\[\s*\[\s*-?[\d.]")
_KEYED = re.compile(rb'\s*\{\s*"weights?"\s*:\s*\[\s*\[')


def _sniff(peek: Peek) -> float:
    if {f"{name}.npy" for name in _NAMES} & set(peek.zip_names):
        return 0.8
    head = peek.text_head.removeprefix(b"\xef\xbb\xbf")
    return 0.6 if _ROWS.match(head) or _KEYED.match(head) else 0.0


def _read(peek: Peek, hints: Hints) -> LoadCounts:
    layers = None
    if peek.zip_names:
        arrays = read_npz(peek.path, (*_NAMES, "moe_layer_ids"))
        weight = next(arrays[name] for name in _NAMES if name in arrays)
        layers = arrays.get("moe_layer_ids")
    else:
        weight = _from_json(peek)
    if weight.ndim != 2 or weight.dtype.kind not in "iuf" or not weight.size:
        what = f"is {weight.dtype} {list(weight.shape)}"
        raise TraceError(Fault(what, "weight", allowed="numbers [layers, experts]"), peek.path)
    if _is_plan(weight):
        what = "holds every expert in each row: a placement (slots to experts), not the load of experts"
        raise TraceError(Fault(what, "weight"), peek.path)
    return load_counts(weight, Origin(peek.path, layer_ids=layer_list(layers, len(weight), peek.path)), hints)


def _is_plan(weight: Array) -> bool:
    """Whether every row names each of the experts 0, 1, ... at least once."""
    top = weight.max()
    if weight.dtype.kind not in "iu" or weight.shape[1] < 4 or not 1 < top < weight.shape[1]:
        return False
    wanted = set(range(int(top) + 1))
    return all(set(row) == wanted for row in weight.tolist())


def _from_json(peek: Peek) -> Array:
    document = read_json(peek)
    if isinstance(document, dict):
        document = next((document[name] for name in _NAMES if name in document), None)
    if not isinstance(document, list) or not document:
        raise TraceError(Fault("is no list of rows", "weight"), peek.path)
    width = len(document[0]) if isinstance(document[0], list) else 0
    faults = Faults()
    for i, row in enumerate(document):
        if not isinstance(row, list) or len(row) != width or not width:
            faults.append(Fault("is no row as long as the first", f"weight[{i}]", short(row)))
        elif not all(type(v) in (int, float) and -1e300 < v < 1e300 for v in row):
            faults.append(Fault("is no row of numbers", f"weight[{i}]", short(row)))
    if faults:
        raise TraceError(shown(faults), peek.path)
    whole = all(type(v) is int and abs(v) < 2**62 for row in document for v in row)
    return np.array(document, np.int64 if whole else np.float64)


READER = Reader("eplb", "EPLB weights [layers, experts], .npz or JSON", _sniff, _read)
