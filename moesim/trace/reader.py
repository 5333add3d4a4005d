"""Read the canonical Parquet of routing traces: its metadata, some layers, or everything, in batches."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moesim.errors import ConfigError, Fault, TraceError
from moesim.trace.arrow import (
    BROKEN_PARQUET,
    check_pages,
    damaged,
    length_faults,
    list_faults,
    matrix,
    open_parquet,
    read_header,
    scalar_fault,
    vector,
)
from moesim.trace.limits import size_fault
from moesim.trace.schema import PHASES, PREFIX, ROUTING, SCALARS, TOKEN_ID, id_column, weight_column
from moesim.trace.types import RoutingTrace
from moesim.trace.writer import ROWS

_ID_TYPES = (pa.uint8(), pa.uint16())


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Some consecutive tokens of a trace.

    Parameters
    ----------
    topk_ids
        uint8 or uint16 ``[tokens, layers, top_k]``.
    request, position
        int32 ``[tokens]``.
    phase
        int8 ``[tokens]``.
    topk_weights
        float16 of the shape of `topk_ids`, or None.
    token_id
        int32 ``[tokens]``, or None.
    """

    topk_ids: npt.NDArray[np.unsignedinteger]
    request: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    phase: npt.NDArray[np.int8]
    topk_weights: npt.NDArray[np.float16] | None = None
    token_id: npt.NDArray[np.int32] | None = None


class TraceReader:
    """Read a canonical routing trace; opening it reads and checks the metadata alone.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    header
        What the file says of itself.
    num_tokens
        Rows.
    has_weights, has_token_ids
        Which optional columns there are.

    Raises
    ------
    TraceError
        If it is no canonical Parquet file of tokens, naming every missing or wrong column.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._checked: set[str] = set()
        self._file = open_parquet(self.path)
        try:
            self.header = read_header(self._file, self.path)
            if self.header.kind != ROUTING:
                raise TraceError(Fault("holds load counts, not tokens", f"{PREFIX}kind"), path)
            names = self._file.schema_arrow.names
            self.top_k: int = self.header.top_k or 0
            self.num_tokens: int = self._file.metadata.num_rows
            self.has_token_ids = TOKEN_ID in names
            self.has_weights = weight_column(self.header.moe_layer_ids[0]) in names
            faults = self._faults()
            if faults:
                raise TraceError(faults, path)
        except BROKEN_PARQUET as error:
            self.close()
            raise damaged(error, path) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def group_rows(self) -> list[int]:
        """Tokens of each row group."""
        metadata = self._file.metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def batches(
        self,
        layers: Sequence[int] | None = None,
        rows: int = ROWS,
        *,
        row_groups: Sequence[int] | None = None,
        weights: bool = True,
    ) -> Iterator[TokenBatch]:
        """Tokens in file order, at most `rows` at a time.

        Parameters
        ----------
        layers
            Decoder indices of the MoE layers wanted, in the order wanted; only their columns are read.
            None for all.
        rows
            The most tokens of one batch.
        row_groups
            The row groups to read, for readers that share a file; None for all.
        weights
            Whether router weights are read, where there are any.

        Raises
        ------
        TraceError
            If the file is damaged, or an id is no expert of the model.
        ConfigError
            If the trace has no such layer.
        """
        if rows < 1:
            raise ConfigError(Fault("must be at least 1", "rows", rows))
        wanted = self.header.moe_layer_ids if layers is None else tuple(layers)
        strange = [i for i in wanted if i not in self.header.moe_layer_ids]
        if strange or not wanted:
            have = ", ".join(map(str, self.header.moe_layer_ids))
            raise ConfigError(Fault("no such MoE layers in this trace", "layers", strange, have), self.path)
        names = [*SCALARS, *([TOKEN_ID] if self.has_token_ids else []), *map(id_column, wanted)]
        weights = weights and self.has_weights
        if weights:
            names += map(weight_column, wanted)
        if not self._checked.issuperset(names):
            check_pages(self.path, set(names) - self._checked)
            self._checked.update(names)
        sizes = self.group_rows()
        groups = range(len(sizes)) if row_groups is None else row_groups
        expected, first = sum(sizes[i] for i in groups), 0
        try:
            for batch in self._file.iter_batches(
                batch_size=rows, row_groups=list(groups), columns=names, use_threads=False
            ):
                yield self._batch(batch, wanted, first, weights)
                first += batch.num_rows
        except BROKEN_PARQUET as error:
            raise damaged(error, self.path) from None
        if first != expected:
            raise TraceError(Fault(f"is truncated: {first} of {expected} rows are there"), self.path)

    def read(self) -> RoutingTrace:
        """The whole trace in memory.

        Raises
        ------
        TraceError
            If it is damaged, or too large to hold; read it in batches then.
        """
        header, tokens = self.header, self.num_tokens
        shape = (tokens, len(header.moe_layer_ids), self.top_k)
        id_type: type[np.uint8] | type[np.uint16] = np.uint8 if header.num_experts <= 256 else np.uint16
        cell_bytes = id_type().itemsize + 2 * self.has_weights
        fault = size_fault(math.prod(shape) * cell_bytes, "the whole trace")
        if fault:
            raise TraceError(fault, self.path)
        ids = np.empty(shape, id_type)
        weights = np.empty(shape, np.float16) if self.has_weights else None
        columns = {name: np.empty(tokens, np.int32) for name in ("request", "position", TOKEN_ID)}
        phase, at = np.empty(tokens, np.int8), 0
        for batch in self.batches():
            to = slice(at, at + len(batch.request))
            ids[to], phase[to] = batch.topk_ids, batch.phase
            columns["request"][to], columns["position"][to] = batch.request, batch.position
            if weights is not None:
                weights[to] = batch.topk_weights
            if batch.token_id is not None:
                columns[TOKEN_ID][to] = batch.token_id
            at = to.stop
        return RoutingTrace(
            topk_ids=ids,
            request=columns["request"],
            num_experts=header.num_experts,
            moe_layer_ids=header.moe_layer_ids,
            position=columns["position"],
            phase=phase,
            topk_weights=weights,
            token_id=columns[TOKEN_ID] if self.has_token_ids else None,
            model=header.model,
            source=header.source,
            licence=header.licence,
            warnings=header.warnings,
            metadata=header.metadata,
        )

    def _batch(
        self, batch: pa.RecordBatch, layers: Sequence[int], first: int, with_weights: bool
    ) -> TokenBatch:
        try:
            chosen = [matrix(batch.column(id_column(i)), self.top_k, id_column(i)) for i in layers]
            ids = np.stack(chosen, axis=1)
            scalars: dict[str, Any] = {
                n: vector(batch.column(n), n) for n in batch.schema.names if n in (*SCALARS, TOKEN_ID)
            }
            weights = None
            if with_weights:
                columns = [
                    matrix(batch.column(weight_column(i)), self.top_k, weight_column(i)) for i in layers
                ]
                weights = np.stack(columns, axis=1)
        except TraceError as error:
            raise TraceError(error.faults, self.path) from None
        highest = [int(column.max()) if len(column) else 0 for column in chosen]
        faults = [
            Fault(
                f"has id {top} in rows {first} to {first + len(ids) - 1}",
                id_column(layer),
                allowed=f"0 to {self.header.num_experts - 1}; a token with a missing expert is left out",
            )
            for layer, top in zip(layers, highest, strict=True)
            if top >= self.header.num_experts
        ]
        for name in ("request", "position", TOKEN_ID):
            column = scalars.get(name)
            if column is not None and len(column) and column.min() < 0:
                faults.append(Fault(f"holds {column.min()}", name, allowed="0 or more"))
        if weights is not None and not np.isfinite(weights).all():
            faults.append(Fault(f"has NaN or infinity in rows {first} to {first + len(ids) - 1}", "weights"))
        phase = scalars["phase"]
        if len(phase) and not (phase.min() >= min(PHASES) and phase.max() <= max(PHASES)):
            faults.append(
                Fault(f"holds {phase.min()} to {phase.max()}", "phase", allowed="0 prefill, 1 decode")
            )
        if faults:
            raise TraceError(faults, self.path)
        return TokenBatch(topk_ids=ids, topk_weights=weights, **scalars)

    def _faults(self) -> list[Fault]:
        schema, layers = self._file.schema_arrow, self.header.moe_layer_ids
        types = {name: pa.int8() if name == "phase" else pa.int32() for name in SCALARS}
        if self.has_token_ids:
            types[TOKEN_ID] = pa.int32()
        faults = [f for name, kind in types.items() if (f := scalar_fault(schema, name, kind))]
        for layer in layers:
            faults += list_faults(self._file, id_column(layer), self.top_k, _ID_TYPES)
            if self.has_weights:
                faults += list_faults(self._file, weight_column(layer), self.top_k, (pa.float16(),))
        if self.num_tokens == 0:
            faults.append(Fault("holds no tokens"))
        return faults or length_faults(self.path, self.top_k)
