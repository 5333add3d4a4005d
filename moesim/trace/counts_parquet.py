"""The canonical Parquet of load counts.

One row per step and MoE layer, step-major: `step` int32, `layer` int16 (the decoder index), `counts` a
fixed-size list of float64, one value per expert. The header (`moesim.trace.schema`) is in the file's
metadata.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moesim.errors import Fault, TraceError
from moesim.files import atomic_write
from moesim.trace.arrow import (
    BROKEN_PARQUET,
    arrow_metadata,
    check_pages,
    damaged,
    fixed_list,
    length_faults,
    list_faults,
    lists,
    matrix,
    open_parquet,
    read_header,
    scalar_fault,
    vector,
)
from moesim.trace.assemble import value_faults
from moesim.trace.limits import size_fault
from moesim.trace.schema import LOADS, PREFIX, Header
from moesim.trace.types import LoadCounts


def write_counts(counts: LoadCounts, path: str | os.PathLike[str]) -> None:
    """Write load counts.

    Raises
    ------
    ConfigError
        If the path cannot be written.
    """
    header = Header.of(counts)
    steps, layers, experts = counts.counts.shape
    fields = [pa.field("step", pa.int32(), nullable=False), pa.field("layer", pa.int16(), nullable=False)]
    schema = pa.schema(
        [*fields, fixed_list("counts", pa.float64(), experts)], metadata=arrow_metadata(header)
    )
    columns = [
        pa.array(np.repeat(np.arange(steps, dtype=np.int32), layers)),
        pa.array(np.tile(np.array(header.moe_layer_ids, np.int16), steps)),
        lists(counts.counts.reshape(steps * layers, experts).astype(np.float64, copy=False)),
    ]
    with atomic_write(path, "wb") as stream:
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), stream, compression="zstd")


def read_counts(path: str | os.PathLike[str]) -> LoadCounts:
    """Read load counts back.

    Raises
    ------
    TraceError
        If the file is no such table, or its rows are not every step with every layer in order.
    """
    path = Path(path)
    file = open_parquet(path)
    try:
        header = read_header(file, path)
        schema, layers, experts = file.schema_arrow, len(header.moe_layer_ids), header.num_experts
        if header.kind != LOADS:
            raise TraceError(Fault("holds tokens, not load counts", f"{PREFIX}kind"), path)
        rows = file.metadata.num_rows
        faults = [
            f for n, t in (("step", pa.int32()), ("layer", pa.int16())) if (f := scalar_fault(schema, n, t))
        ]
        faults += list_faults(file, "counts", experts, (pa.float64(),))
        if rows == 0 or rows % layers:
            faults.append(Fault(f"has {rows} rows", allowed=f"a multiple of its {layers} layers"))
        too_large = size_fault(rows * experts * 8, "counts")
        faults += [too_large] if too_large else length_faults(path, experts) if not faults else []
        if faults:
            raise TraceError(faults, path)
        check_pages(path, ("step", "layer", "counts"))
        table = file.read(columns=["step", "layer", "counts"], use_threads=False).combine_chunks()
        step, layer = (vector(table.column(n).combine_chunks(), n) for n in ("step", "layer"))
        values = matrix(table.column("counts").combine_chunks(), experts, "counts")
    except BROKEN_PARQUET as error:
        raise damaged(error, path) from None
    finally:
        file.close()
    steps = rows // layers
    in_order = (layer == np.tile(header.moe_layer_ids, steps)).all()
    if not in_order or (step != np.repeat(np.arange(steps), layers)).any():
        raise TraceError(Fault("rows are not each step with each layer in order", "step, layer"), path)
    counts = values.reshape(steps, layers, experts).copy()
    wrong = value_faults(counts)
    if wrong:
        raise TraceError(wrong, path)
    return LoadCounts(
        counts=counts,
        moe_layer_ids=header.moe_layer_ids,
        top_k=header.top_k,
        model=header.model,
        source=header.source,
        licence=header.licence,
        warnings=header.warnings,
        metadata=header.metadata,
    )
