"""FLAME-MoE traces: a folder of Parquet files, one per layer, whose rows are the same tokens.

``actives/iter_<n>/layer_<l>.parquet`` has lists `indices` and `scores`; ``samples/<n>.parquet`` has
`token_id`. Each iteration is a checkpoint of the model, and a trace of its own: a folder with several must be
entered. The number in a layer's name is taken as its decoder layer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.assemble import Origin
from moesim.trace.limits import MAX_BYTES, size_fault
from moesim.trace.peek import Peek
from moesim.trace.readers.base import token_reader
from moesim.trace.schema import MAX_LAYERS, MAX_TOP_K
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
from moesim.trace.types import PREFILL

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Array = npt.NDArray[Any]
_LAYER = re.compile(r"(?:(?:actives/)?(iter_\d+)/)?layer_(\d{1,4})\.parquet")
_SAMPLE = re.compile(r"samples/[^/]+\.parquet")
_ROWS = 65536


def _sniff(peek: Peek) -> float:
    return 1.0 if any(_LAYER.fullmatch(name) for name in peek.names) else 0.0


def _tokens(peek: Peek, hints: Hints) -> Tokens:  # noqa: ARG001 - every reader is called alike
    found = [(match, name) for name in peek.names if (match := _LAYER.fullmatch(name))]
    checkpoints = sorted({match[1] or "" for match, _ in found})
    if len(checkpoints) > 1:
        what = f"holds {len(checkpoints)} checkpoints, each a trace of its own"
        raise TraceError(
            Fault(what, allowed="one of their folders: " + ", ".join(checkpoints[:8])), peek.path
        )
    files = sorted((int(match[2]), peek.path / name) for match, name in found)
    layers = [layer for layer, _ in files]
    if len(set(layers)) < len(layers) or layers[-1] >= MAX_LAYERS:
        raise TraceError(Fault("has a layer twice, or one that cannot be", value=layers[:20]), peek.path)
    ids: Array = np.zeros(0)
    weights: Array | None = None
    tokens = top_k = 0
    notes: list[str] = []
    for i, (_, path) in enumerate(files):
        with _Columns(path) as layer:
            if i == 0:
                tokens, top_k = layer.rows, layer.top_k()
                cells = tokens * len(files) * top_k
                fault = size_fault(2 * cells, "the ids")
                if fault:
                    raise TraceError(fault, peek.path)
                ids = np.empty((tokens, len(files), top_k), np.int16)
                if 4 * cells <= MAX_BYTES:
                    weights = np.empty(ids.shape, np.float16)
                else:
                    notes.append("scores were left out for want of memory")
            if layer.rows != tokens:
                raise TraceError(Fault(f"has {layer.rows} rows, layer {layers[0]} has {tokens}"), path)
            layer.fill(ids[:, i], None if weights is None else weights[:, i])
    origin = Origin(
        peek.path, layer_ids=tuple(layers), warnings=tuple(notes), metadata={"checkpoint": checkpoints[0]}
    )
    phase, token_id = np.full(tokens, PREFILL, np.int8), _token_ids(peek, tokens)
    return Tokens(ids, origin, phase=phase, weights=weights, token_id=token_id)


class _Columns:
    """The lists of one layer, read a batch at a time."""

    def __init__(self, path: Path) -> None:
        from moesim.trace.arrow import open_parquet

        self._path = path
        self._file: pq.ParquetFile = open_parquet(path)
        self.rows: int = self._file.metadata.num_rows

    def __enter__(self) -> _Columns:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def top_k(self) -> int:
        """Length of the lists."""
        from moesim.trace.parquet_footer import column_values

        for rows, columns in column_values(self._path):
            for name, values in columns:
                if name.split(".")[0] == "indices" and 0 < rows <= values <= rows * MAX_TOP_K:
                    return values // rows
        raise TraceError(Fault("holds no lists of experts", "indices"), self._path)

    def fill(self, ids: Array, weights: Array | None) -> None:
        """Copy the layer into ``[tokens, top_k]`` arrays."""
        import pyarrow as pa

        from moesim.trace.arrow import (
            BROKEN_PARQUET,
            check_pages,
            damaged,
            length_faults,
            list_faults,
            matrix,
        )

        whole = (pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16())
        real = (pa.float16(), pa.float32(), pa.float64())
        top_k = ids.shape[1]
        faults = list_faults(self._file, "indices", top_k, whole)
        if weights is not None:
            faults += list_faults(self._file, "scores", top_k, real)
        if not faults:
            faults = length_faults(self._path, top_k, ("indices", "scores"))
        if faults:
            raise TraceError(faults, self._path)
        names = ["indices"] if weights is None else ["indices", "scores"]
        check_pages(self._path, names)
        at = 0
        try:
            for batch in self._file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
                rows = slice(at, at + batch.num_rows)
                chosen = matrix(batch.column("indices"), top_k, "indices")
                if len(chosen) and not (chosen.min() >= 0 and chosen.max() < 2**15):
                    raise TraceError(
                        Fault("holds no expert ids", "indices", f"{chosen.min()} to {chosen.max()}")
                    )
                ids[rows] = chosen
                if weights is not None:
                    with np.errstate(over="ignore"):
                        weights[rows] = matrix(batch.column("scores"), top_k, "scores")
                at = rows.stop
        except TraceError as error:
            raise TraceError(error.faults, self._path) from None
        except BROKEN_PARQUET as error:
            raise damaged(error, self._path) from None
        if at != len(ids):
            raise TraceError(Fault(f"is truncated: {at} of {len(ids)} rows are there"), self._path)


def _token_ids(peek: Peek, tokens: int) -> Array | None:
    """Vocabulary ids of all samples, where their folder is at hand: beside `actives`."""
    from moesim.trace.arrow import BROKEN_PARQUET, check_pages, damaged, open_parquet, vector

    own = [peek.path / name for name in peek.names if _SAMPLE.fullmatch(name)]
    beside = peek.path.resolve().parent
    if not own and beside.name == "actives":
        own = sorted((beside.parent / "samples").glob("*.parquet"))
    if not own:
        return None
    parts, rows = [], 0
    for path in own:
        file = open_parquet(path)
        try:
            if "token_id" not in file.schema_arrow.names:
                raise TraceError(Fault("has no such column", "token_id"), path)
            check_pages(path, ("token_id",))
            for batch in file.iter_batches(batch_size=_ROWS, columns=["token_id"], use_threads=False):
                parts.append(vector(batch.column(0), "token_id"))
                rows += len(parts[-1])
                if rows > tokens:
                    raise TraceError(
                        Fault(f"has more tokens than the {tokens} of the layers", "samples"), peek.path
                    )
        except BROKEN_PARQUET as error:
            raise damaged(error, path) from None
        finally:
            file.close()
    if rows != tokens or any(part.dtype.kind not in "iu" for part in parts):
        raise TraceError(Fault(f"has {rows} token ids, the layers have {tokens}", "samples"), peek.path)
    return np.concatenate(parts)


READER = token_reader("flame", "FLAME-MoE's folder of Parquet layers", _sniff, _tokens)
