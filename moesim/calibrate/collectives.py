"""Latency and bus bandwidth of collectives, from tables of NCCL and of engines' own all-reduce."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

#: Sizes in the tables are in elements of 2 bytes.
ELEMENT_BYTES = 2.0
#: Latency is the median time up to the first size, bus bandwidth the slope from the second on.
SMALL_BYTES, LARGE_BYTES = 32 * 2**10, 64 * 2**20
NAMES = {"alltoall": "all_to_all"}


def collectives(folder: Path, backends: Iterable[str]) -> list[dict[str, Any]]:
    """Fits by engine, collective and number of ranks.

    Parameters
    ----------
    folder
        Tables of one GPU.
    backends
        Engines whose all-reduce inside CUDA graphs is read; NCCL's collectives always are.

    Returns
    -------
    list of dict
        ``backend version collective ranks latency_us busbw_gb_per_s rows``, in the convention of nccl-tests.
    """
    from moesim.calibrate.tables import newest, version_of

    found = []
    for owner, name in (*((b, "custom_allreduce_perf") for b in backends), ("nccl", "nccl_perf")):
        path = newest(folder / "comm", owner, name)
        if path is None:
            continue
        table = pq.read_table(path)
        column = {key: np.array(table[key].to_pylist()) for key in table.column_names}
        usable = np.array(["eager" not in str(s) for s in column["kernel_source"]])
        if owner == "nccl":
            usable &= column["nccl_dtype"] == "half"
        for op in np.unique(column["op_name"]):
            for ranks in np.unique(column["num_gpus"]):
                pick = usable & (column["op_name"] == op) & (column["num_gpus"] == ranks)
                size = column["message_size"][pick] * ELEMENT_BYTES
                seconds = column["latency"][pick] * 1e-3
                if (size <= SMALL_BYTES).any() and (size >= LARGE_BYTES).sum() > 1:
                    found.append(
                        {
                            "backend": owner,
                            "version": version_of(path),
                            "collective": NAMES.get(str(op), str(op)),
                            "ranks": int(ranks),
                            **_fit(size, seconds, str(op), int(ranks)),
                            "rows": int(pick.sum()),
                        }
                    )
    return found


def _fit(size: Any, seconds: Any, op: str, ranks: int) -> dict[str, float]:  # noqa: ANN401 - arrays
    large = size >= LARGE_BYTES
    slope = float(np.polyfit(size[large], seconds[large], 1)[0])
    factor = (2.0 if op == "all_reduce" else 1.0) * (ranks - 1) / ranks
    latency = float(np.median(seconds[size <= SMALL_BYTES]))
    return {
        "latency_us": float(f"{latency * 1e6:.4g}"),
        "busbw_gb_per_s": float(f"{factor / slope / 1e9:.4g}"),
    }
