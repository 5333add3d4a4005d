"""Write the canonical Parquet of routing traces, batch by batch, so that a trace may exceed memory.

One row per token: `request` int32, `position` int32, `phase` int8, optional `token_id` int32, and per MoE
layer a fixed-size list ``L003`` of uint8 or uint16 expert ids and, optionally, ``W003`` of float16 router
weights. The header (`moesim.trace.schema`) is in the file's metadata. There are no holes: every token has
`top_k` experts in every layer.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from moesim.errors import ConfigError, Fault, TraceError
from moesim.files import atomic_write
from moesim.trace.arrow import arrow_metadata, fixed_list, lists
from moesim.trace.schema import PHASES, ROUTING, SCALARS, TOKEN_ID, Header, id_column, weight_column

Array = npt.NDArray[Any]
ROWS = 65536


class TraceWriter:
    """Write a routing trace; the file appears when the ``with`` block ends well, and not otherwise.

    Parameters
    ----------
    path
        The file to write.
    header
        What the trace is; of kind ``routing_trace``.
    weights, token_ids
        Whether router weights and token ids are written.
    rows
        Tokens per row group, and the most that wait in memory.

    Raises
    ------
    ConfigError
        If the path cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Header,
        *,
        weights: bool = False,
        token_ids: bool = False,
        rows: int = ROWS,
    ) -> None:
        if header.kind != ROUTING or header.top_k is None or rows < 1:
            raise ConfigError(
                Fault("a trace needs a routing header with top_k, and rows of at least 1"), path
            )
        self.path = Path(path)
        self.header = header
        self._shape = (len(header.moe_layer_ids), header.top_k)
        self._id_type = np.uint8 if header.num_experts <= 256 else np.uint16
        self._weights, self._token_ids, self._rows = weights, token_ids, rows
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._schema = self._arrow_schema()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(atomic_write(self.path, "wb"))
            self._writer = pq.ParquetWriter(stream, self._schema, compression="zstd", write_statistics=False)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush(whole_groups_only=False)
            self._writer.close()
        except BaseException as failure:
            # Or its destructor tries once more, on a stream that is closed by then.
            self._writer.is_open = False
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            if isinstance(failure, OSError):
                reason = failure.strerror or str(failure)
                raise ConfigError(Fault(f"cannot be written: {reason.lower()}"), self.path) from None
            raise
        self._stack.__exit__(kind, error, trace)

    def append(
        self,
        topk_ids: Array,
        request: Array,
        position: Array,
        phase: Array,
        topk_weights: Array | None = None,
        token_id: Array | None = None,
    ) -> None:
        """Add tokens.

        Parameters
        ----------
        topk_ids
            Whole numbers below `num_experts`, ``[tokens, moe_layers, top_k]``.
        request, position, phase, token_id
            Whole numbers ``[tokens]``.
        topk_weights
            ``[tokens, moe_layers, top_k]``.

        Raises
        ------
        TraceError
            Naming every array whose shape, type or range is wrong; nothing of the batch is kept.
        """
        n = len(topk_ids)
        columns: dict[str, Array | None] = {"request": request, "position": position, "phase": phase}
        if self._token_ids:
            columns[TOKEN_ID] = token_id
        faults = [fault for name, array in columns.items() if (fault := _column_fault(name, array, n))]
        cubes: dict[str, Array | None] = {"topk_ids": topk_ids}
        if self._weights:
            cubes["topk_weights"] = topk_weights
        faults += [f for name, array in cubes.items() if (f := _cube_fault(name, array, (n, *self._shape)))]
        if not faults and n:
            low, high = int(topk_ids.min()), int(topk_ids.max())
            if low < 0 or high >= self.header.num_experts:
                wrong = low if low < 0 else high
                faults.append(Fault("is no expert", "topk_ids", wrong, f"0 to {self.header.num_experts - 1}"))
        if faults:
            raise TraceError(faults, self.path)
        if n == 0:
            return
        arrays = [
            pa.array(a.astype(_numpy_type(name), copy=False)) for name, a in columns.items() if a is not None
        ]
        arrays += [lists(topk_ids[:, i].astype(self._id_type, copy=False)) for i in range(self._shape[0])]
        if self._weights and topk_weights is not None:
            arrays += [
                lists(topk_weights[:, i].astype(np.float16, copy=False)) for i in range(self._shape[0])
            ]
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._waiting_rows += n
        if self._waiting_rows >= self._rows:
            self._flush()

    def _flush(self, whole_groups_only: bool = True) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        ready = len(table) // self._rows * self._rows if whole_groups_only else len(table)
        if ready:
            self._writer.write_table(table.slice(0, ready), row_group_size=self._rows)
        self._waiting = table.slice(ready).to_batches()
        self._waiting_rows = len(table) - ready

    def _arrow_schema(self) -> pa.Schema:
        names = (*SCALARS, TOKEN_ID) if self._token_ids else SCALARS
        fields = [pa.field(n, pa.from_numpy_dtype(_numpy_type(n)), nullable=False) for n in names]
        layers, k = self.header.moe_layer_ids, self._shape[1]
        fields += [fixed_list(id_column(i), pa.from_numpy_dtype(self._id_type), k) for i in layers]
        if self._weights:
            fields += [fixed_list(weight_column(i), pa.float16(), k) for i in layers]
        return pa.schema(fields, metadata=arrow_metadata(self.header))


def _numpy_type(name: str) -> type[np.int8] | type[np.int32]:
    return np.int8 if name == "phase" else np.int32


def _column_fault(name: str, array: Array | None, n: int) -> Fault | None:
    if array is None or array.shape != (n,) or array.dtype.kind not in "iu":
        what = "is missing" if array is None else f"is {array.dtype} {list(array.shape)}"
        return Fault(what, name, allowed=f"whole numbers [{n}]")
    top = max(PHASES) if name == "phase" else 2**31 - 1
    if n and not (int(array.min()) >= 0 and int(array.max()) <= top):
        return Fault(f"holds {array.min()} to {array.max()}", name, allowed=f"0 to {top}")
    return None


def _cube_fault(name: str, array: Array | None, shape: tuple[int, ...]) -> Fault | None:
    kinds = "iu" if name == "topk_ids" else "f"
    if array is None or array.shape != shape or array.dtype.kind not in kinds:
        what = "is missing" if array is None else f"is {array.dtype} {list(array.shape)}"
        return Fault(what, name, allowed=f"{'whole' if kinds == 'iu' else 'real'} numbers {list(shape)}")
    if kinds == "f":
        with np.errstate(invalid="ignore"):
            if not (np.abs(array) <= np.finfo(np.float16).max).all():
                return Fault("holds NaN, or values beyond float16", name)
    return None
