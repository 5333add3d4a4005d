"""SGLang's expert load as JSON: ``{"logical_count": [layers][experts]}``, or ``[steps][layers][experts]``.

SGLang writes a row for every decoder layer; the rows of dense layers are zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin, load_counts
from moesim.trace.json_text import Faults, read_json, short, shown
from moesim.trace.limits import MAX_JSON_BYTES
from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.shape import Hints
from moesim.trace.types import LoadCounts

_KEY = "logical_count"


def _sniff(peek: Peek) -> float:
    opens = peek.text_head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    return 1.0 if opens and peek.contains(f'"{_KEY}"'.encode(), MAX_JSON_BYTES) else 0.0


def _read(peek: Peek, hints: Hints) -> LoadCounts:
    document = read_json(peek)
    if not isinstance(document, dict) or _KEY not in document:
        raise TraceError(Fault(f"has no {_KEY} at its top level"), peek.path)
    rows = document[_KEY]
    stepwise = _depth(rows) == 3
    faults = _row_faults(rows, stepwise)
    if faults:
        raise TraceError(shown(faults, _KEY), peek.path)
    counts = np.array(rows, dtype=np.float64)
    return load_counts(counts, Origin(peek.path), hints)


def _depth(value: object) -> int:
    depth = 0
    while isinstance(value, list):
        value, depth = (value[0] if value else None), depth + 1
    return depth


def _row_faults(rows: object, stepwise: bool) -> list[Fault]:
    """Every row that is no row of as many numbers as the first one, and every value that is no load."""
    if not isinstance(rows, list) or not rows:
        return [Fault("is no list of rows", _KEY, allowed="[layers][experts] or [steps][layers][experts]")]
    steps = [(f"{_KEY}[{s}]", step) for s, step in enumerate(rows)] if stepwise else [(_KEY, rows)]
    faults = Faults()
    layers = width = None
    for name, step in steps:
        if not isinstance(step, list) or not step:
            faults.append(Fault("is no list of rows", name))
            continue
        layers = layers or len(step)
        if len(step) != layers:
            faults.append(Fault(f"has {len(step)} layers, the first step has {layers}", name))
        for i, row in enumerate(step):
            if not isinstance(row, list) or not row:
                faults.append(Fault("is no list of numbers", f"{name}[{i}]"))
                continue
            width = width or len(row)
            if len(row) != width:
                faults.append(Fault(f"has {len(row)} experts, the first row has {width}", f"{name}[{i}]"))
            faults.extend(_value_faults(row, f"{name}[{i}]"))
    return faults


def _value_faults(row: list[object], name: str) -> Iterator[Fault]:
    if all(type(v) is float or type(v) is int for v in row):
        good = all(0 <= v < 1e300 for v in row)  # type: ignore[operator]
        if good:
            return
    for e, v in enumerate(row):
        if type(v) not in (int, float) or not 0 <= v < 1e300:  # type: ignore[operator]
            yield Fault("is no load", f"{name}[{e}]", short(v), "a number of at least 0")


READER = Reader("sglang-json", 'SGLang JSON {"logical_count": ...}', _sniff, _read)
