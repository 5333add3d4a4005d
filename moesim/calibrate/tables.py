"""Read measured kernel tables as ai-dynamo/aiconfigurator publishes them.

``<gpu>/<operation>/<backend>-<version>/<table>.parquet``, one row per measurement, latency in milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moesim.calibrate.experts import expert_rows
from moesim.calibrate.rows import Array, Rows
from moesim.errors import ConfigError, Fault, nearest
from moesim.hardware import load_hardware
from moesim.ops.attention import decode_work, latent_decode_work, latent_prefill_work, prefill_work
from moesim.ops.primitives import gemm
from moesim.ops.shapes import (
    batched_shape,
    decode_shape,
    latent_decode_shape,
    latent_prefill_shape,
    prefill_shape,
)
from moesim.ops.table import Shape

BACKENDS = ("vllm", "sglang", "trtllm")
#: Data types of dense GEMMs in the tables, and the weights' type that they are counted as.
GEMM_DTYPES = {
    "bfloat16": ("bf16", "bf16"),
    "fp8": ("fp8", "fp8"),
    "fp8_block": ("fp8_block", "fp8"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "int4_wo": ("int4", "int4"),
    "int8_wo": ("int8", "int8"),
}
CACHES = {"bfloat16": ("bf16", 2.0), "fp8": ("fp8", 1.0)}
#: DeepSeek's latent attention, which the tables of latent attention are of.
KV_RANK, ROPE, NOPE, VALUE = 512, 64, 128, 128

#: A row that takes so many times as long as a larger one of its series is a spike.
SPIKE = 1.5

Columns = dict[str, Any]


def folders(root: Path) -> dict[str, Path]:
    """Folders of GPUs under a folder of tables, by name; the folder itself if it is one of a GPU."""
    if (root / "gemm").is_dir() or (root / "moe").is_dir() or (root / "attention").is_dir():
        return {root.name: root}
    if not root.is_dir():
        raise ConfigError(
            Fault("is no folder", allowed="a folder of <gpu>/<operation>/<backend>-<version>"), root
        )
    found = {
        path.name: path
        for path in sorted(root.iterdir())
        if any((path / name).is_dir() for name in ("gemm", "moe", "attention"))
    }
    if not found:
        raise ConfigError(
            Fault("holds no kernel tables", allowed="<gpu>/gemm/<backend>-<version>/*.parquet"), root
        )
    return found


def folder_of(found: Mapping[str, Path], device: str) -> str:
    """Name of the folder with the tables of a machine; one whose name is no machine's is taken at its word.

    Raises
    ------
    ConfigError
        If there is no such machine, or it has no tables.
    """
    if device in found:
        return device
    wanted = load_hardware(device).device.name
    names: dict[str, str | None] = {}
    for name in found:
        try:
            names[name] = load_hardware(name).device.name
        except ConfigError:
            names[name] = None
    for name, owner in names.items():
        if owner == wanted or (owner is None and len(found) == 1):
            return name
    near = ", ".join(nearest(device, list(found)) or found)
    raise ConfigError(Fault("has no tables here", "--device", device, near))


def read_tables(folder: Path, backends: Iterable[str] = BACKENDS) -> list[Rows]:
    """All measurements of one GPU, by kernel, data type and backend.

    Parameters
    ----------
    folder
        Of one GPU.
    backends
        Engines to read.

    Raises
    ------
    ConfigError
        With every table that cannot be read or lacks a column.
    """
    found: list[Rows] = []
    faults: list[Fault] = []
    for operation, name, columns, make in _TABLES:
        for backend in backends:
            path = newest(folder / operation, backend, name)
            if path is None:
                continue
            try:
                table = _read(path, columns)
            except ConfigError as error:
                faults += [Fault(f"{path}: {fault}") for fault in error.faults]
                continue
            found += [rows for rows in make(table, backend, version_of(path)) if len(rows)]
    if faults:
        raise ConfigError(faults, folder)
    return found


def newest(folder: Path, backend: str, name: str) -> Path | None:
    """The table of the newest version of a backend that has it."""
    paths = list(folder.glob(f"{backend}-*/{name}.parquet"))
    return max(paths, key=lambda p: [int(n) for n in re.findall(r"\d+", version_of(p))], default=None)


def version_of(path: Path) -> str:
    """Version of the engine that a table is of, by its folder."""
    return path.parent.name.partition("-")[2]


def _read(path: Path, wanted: Sequence[str]) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else "unreadable"
        raise ConfigError(Fault(f"is no Parquet: {reason}")) from None
    missing = [name for name in (*wanted, "latency") if name not in table.column_names]
    if missing:
        raise ConfigError([Fault("column is missing", name) for name in missing])
    latency = table["latency"]
    if not pa.types.is_floating(latency.type) and not pa.types.is_integer(latency.type):
        raise ConfigError(Fault("is no number", "latency"))
    return table.filter(pc.and_(pc.is_valid(latency), pc.greater(latency, 0.0)))


def fastest(table: pa.Table, keys: Sequence[str], along: str) -> Columns:
    """Columns of the fastest row of every combination of `keys`, without spikes.

    Parameters
    ----------
    keys
        What tells rows apart, without `along`.
    along
        The size that grows within a series: a row that takes `SPIKE` times as long as a larger one of its
        series is a spike.

    Returns
    -------
    dict
        Columns in the order of the keys, ``seconds``, and in ``spikes`` the number of rows left out.
    """
    keys = [*(key for key in keys if key in table.column_names), along]
    best = table.group_by(keys).aggregate([("latency", "min")]).sort_by([(key, "ascending") for key in keys])
    seconds = best["latency_min"].to_numpy().astype(np.float64) * 1e-3
    columns: Columns = {key: best[key].to_numpy(zero_copy_only=False) for key in keys}
    good = ~spikes(seconds, [columns[key] for key in keys[:-1]])
    columns = {
        key: (value.astype(np.float64) if value.dtype.kind in "iuf" else value)[good]
        for key, value in columns.items()
    }
    return columns | {"seconds": seconds[good], "spikes": int((~good).sum())}


def spikes(seconds: Array, series: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """Rows that take much longer than a larger one of their series; rows are sorted by series, then size."""
    starts = np.zeros(len(seconds), dtype=bool)
    for column in series:
        starts[1:] |= column[1:] != column[:-1]
    found = np.zeros(len(seconds), dtype=bool)
    for part in np.split(np.arange(len(seconds)), np.flatnonzero(starts)):
        if len(part) > 1:
            later = np.minimum.accumulate(seconds[part][::-1])[::-1]
            found[part[:-1]] = seconds[part[:-1]] > SPIKE * later[1:]
    return found


def rows_of(
    shape: Shape,
    dtype: str,
    backend: str,
    version: str,
    weights: str,
    kind: str,
    flops: Any,  # noqa: ANN401 - arrays or numbers
    data: Any,  # noqa: ANN401 - arrays or numbers
    seconds: Array,
) -> Rows:
    """Rows from whole columns."""
    n = len(seconds)
    sizes = np.stack([np.broadcast_to(np.asarray(s, np.float64), (n,)) for s in shape.sizes], axis=1)
    flops, data = (np.broadcast_to(np.asarray(a, np.float64), (n,)) for a in (flops, data))
    return Rows(
        shape.kernel, dtype, backend, version, weights, kind, sizes, flops, data, seconds, np.full(n, -1)
    )


def _gemm(table: pa.Table, backend: str, version: str) -> Iterator[Rows]:
    for name, (dtype, weights) in GEMM_DTYPES.items():
        t = fastest(table.filter(pc.equal(table["gemm_dtype"], name)), ["n", "k"], "m")
        if len(t["seconds"]):
            op = gemm("gemm", t["m"], t["k"], t["n"], weights)
            assert op.shape is not None
            yield rows_of(
                op.shape, dtype, backend, version, weights, "gemm", op.flops, op.bytes, t["seconds"]
            )


_ATTENTION = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim")


def _attention(phase: str) -> Callable[[pa.Table, str, str], Iterator[Rows]]:
    def make(table: pa.Table, backend: str, version: str) -> Iterator[Rows]:
        table = table.filter(pc.equal(table["attn_dtype"], "bfloat16"))
        for name, (dtype, width) in CACHES.items():
            part = table.filter(pc.equal(table["kv_cache_dtype"], name))
            windows = (
                part["window_size"].to_numpy()
                if "window_size" in part.column_names
                else np.zeros(part.num_rows)
            )
            made = [
                _attention_rows(
                    phase, part.filter(pa.array(windows == w)), int(w), dtype, width, backend, version
                )
                for w in np.unique(windows)
            ]
            yield from joined(made)

    return make


def _attention_rows(
    phase: str, table: pa.Table, window: int, dtype: str, width: float, backend: str, version: str
) -> Rows:
    along = "step" if phase == "decode" else "isl"
    t = fastest(table, [key for key in _ATTENTION if key != along], along)
    sequences, heads, dim = t["batch_size"], t["num_heads"], t["head_dim"]
    kv_heads = np.asarray(t["num_key_value_heads"], dtype=np.float64)
    kv_heads = np.asarray(np.where(kv_heads == 0, heads, kv_heads), dtype=np.float64)
    seen = window or None
    if phase == "decode":
        context = t["isl"] + t["step"]
        shape = decode_shape(sequences, context, heads, kv_heads, dim, seen)
        flops, cache, moved = decode_work(sequences, context, heads, kv_heads, 2 * dim, width, seen)
    else:
        shape = prefill_shape(sequences, t["isl"], t["step"], heads, kv_heads, dim, seen)
        flops, cache, moved = prefill_work(
            sequences, t["isl"], t["step"], heads, kv_heads, 2 * dim, width, seen
        )
    kind = f"attention_{phase}"
    return rows_of(shape, dtype, backend, version, "bf16", kind, flops, cache + moved, t["seconds"])


def joined(parts: Sequence[Rows]) -> list[Rows]:
    """Rows of equal kernel and data type laid together."""
    by_key: dict[tuple[str, str], list[Rows]] = {}
    for part in parts:
        by_key.setdefault((part.kernel, part.dtype), []).append(part)
    return [
        Rows(
            *(
                getattr(members[0], name)
                for name in ("kernel", "dtype", "backend", "version", "weights", "kind")
            ),
            *(
                np.concatenate([getattr(m, name) for m in members])
                for name in ("sizes", "flops", "data", "seconds", "group")
            ),
        )
        for members in by_key.values()
    ]


def _latent(phase: str) -> Callable[[pa.Table, str, str], Iterator[Rows]]:
    def make(table: pa.Table, backend: str, version: str) -> Iterator[Rows]:
        for name, (dtype, width) in CACHES.items():
            part = table.filter(pc.equal(table["kv_cache_dtype"], name))
            along = "step" if phase == "decode" else "isl"
            t = fastest(
                part, [key for key in ("batch_size", "isl", "step", "num_heads") if key != along], along
            )
            if not len(t["seconds"]):
                continue
            heads = t["num_heads"]
            if phase == "decode":
                context = t["isl"] + t["step"]
                shape = latent_decode_shape(t["batch_size"], context, heads)
                work = latent_decode_work(t["batch_size"], context, heads, KV_RANK, ROPE, width)
            else:
                shape = latent_prefill_shape(t["batch_size"], t["isl"], t["step"], heads)
                work = latent_prefill_work(
                    t["batch_size"], t["isl"], t["step"], heads, NOPE + ROPE + VALUE, (KV_RANK + ROPE) * width
                )
            flops, cache, moved = work
            kind = f"attention_{phase}"
            yield rows_of(shape, dtype, backend, version, "bf16", kind, flops, cache + moved, t["seconds"])

    return make


def _batched(table: pa.Table, backend: str, version: str) -> Iterator[Rows]:
    for name, dtype in (("bfloat16", "bf16"), ("fp8", "fp8")):
        made = []
        for op, inputs, outputs in (("mla_gen_pre", NOPE, KV_RANK), ("mla_gen_post", KV_RANK, VALUE)):
            chosen = pc.and_(pc.equal(table["bmm_dtype"], name), pc.equal(table["op_name"], op))
            t = fastest(table.filter(chosen), ["num_heads"], "num_tokens")
            rows, heads = t["num_tokens"], t["num_heads"]
            width = 2.0 if dtype == "bf16" else 1.0
            data = heads * inputs * outputs * width + rows * heads * (inputs + outputs) * 2.0
            shape = batched_shape(rows, heads, float(outputs), float(inputs))
            flops = 2.0 * heads * rows * inputs * outputs
            made.append(rows_of(shape, dtype, backend, version, dtype, "gemm", flops, data, t["seconds"]))
        yield from joined(made)


_TABLES: tuple[tuple[str, str, tuple[str, ...], Callable[[pa.Table, str, str], Iterator[Rows]]], ...] = (
    ("gemm", "gemm_perf", ("gemm_dtype", "m", "n", "k"), _gemm),
    (
        "attention",
        "generation_attention_perf",
        (*_ATTENTION, "attn_dtype", "kv_cache_dtype"),
        _attention("decode"),
    ),
    (
        "attention",
        "context_attention_perf",
        (*_ATTENTION, "attn_dtype", "kv_cache_dtype"),
        _attention("prefill"),
    ),
    (
        "mla",
        "generation_mla_perf",
        ("batch_size", "isl", "step", "num_heads", "kv_cache_dtype"),
        _latent("decode"),
    ),
    (
        "mla",
        "context_mla_perf",
        ("batch_size", "isl", "step", "num_heads", "kv_cache_dtype"),
        _latent("prefill"),
    ),
    ("mla_bmm", "mla_bmm_perf", ("bmm_dtype", "op_name", "num_tokens", "num_heads"), _batched),
    (
        "moe",
        "moe_perf",
        (
            "moe_dtype",
            "kernel_source",
            "distribution",
            "num_tokens",
            "hidden_size",
            "inter_size",
            "topk",
            "num_experts",
            "moe_tp_size",
            "moe_ep_size",
        ),
        expert_rows,
    ),
)
