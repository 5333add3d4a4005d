"""Write a trace in another format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.trace.schema import Header
from moesim.trace.types import LoadCounts, Routing, RoutingTrace

#: Formats that can be written, and the file suffixes that stand for them: the first format of a suffix.
FORMATS = {
    "parquet": ".parquet",
    "npz": ".npz",
    "sglang": ".json",
    "route": ".jsonl",
    "vllm": ".npz",
    "eplb": ".npz",
}


def format_of(path: str | os.PathLike[str], to: str | None = None) -> str:
    """The format to write: `to`, or what the suffix of `path` says.

    >>> format_of("loads.json"), format_of("trace", "npz")
    ('sglang', 'npz')
    """
    suffix = Path(path).suffix.lower()
    found = to if to is not None else next((f for f, s in FORMATS.items() if s == suffix), None)
    if found not in FORMATS:
        wrong = (
            Fault("is no format to write", "--to", to)
            if to
            else Fault("has a suffix of no format", "output", str(path))
        )
        allowed = ", ".join(FORMATS) if to else ", ".join(dict.fromkeys(FORMATS.values())) + ", or --to"
        raise ConfigError(Fault(wrong.message, wrong.where, wrong.value, allowed))
    return found


def write_trace(
    trace: Routing, path: str | os.PathLike[str], to: str | None = None, *, num_layers: int | None = None
) -> tuple[str, ...]:
    """Write a trace.

    Parameters
    ----------
    trace
        What to write.
    path
        The file; it appears whole or not at all.
    to
        One of `FORMATS`; None for what the suffix says.
    num_layers
        Decoder layers of the model, dense ones included, which SGLang's and vLLM's formats need; None for
        the last MoE layer plus one.

    Returns
    -------
    tuple of str
        What is lost in that format.

    Raises
    ------
    ConfigError
        If the format is unknown, is one of tokens and the trace of loads, or the path cannot be written.
    """
    wanted = format_of(path, to)
    try:
        if wanted == "parquet":
            _write_parquet(trace, path)
        elif wanted == "npz":
            _write_npz(trace, path)
        elif wanted == "sglang":
            return _write_sglang(trace.load_counts(), path, num_layers, isinstance(trace, RoutingTrace))
        else:
            from moesim.trace.write_foreign import write_eplb, write_route, write_vllm

            if wanted == "eplb":
                return write_eplb(trace, path)
            if isinstance(trace, LoadCounts):
                what = "is a format of tokens, and the trace holds load counts alone"
                raise ConfigError(Fault(what, "--to", wanted, "parquet, npz, sglang, eplb"))
            return write_route(trace, path) if wanted == "route" else write_vllm(trace, path, num_layers)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(Fault(f"cannot be written: {reason.lower()}"), path) from None
    return ()


def _write_parquet(trace: Routing, path: str | os.PathLike[str]) -> None:
    if isinstance(trace, LoadCounts):
        from moesim.trace.counts_parquet import write_counts

        write_counts(trace, path)
        return
    from moesim.trace.writer import ROWS, TraceWriter

    with TraceWriter(
        path,
        Header.of(trace),
        weights=trace.topk_weights is not None,
        token_ids=trace.token_id is not None,
    ) as writer:
        for start in range(0, trace.num_tokens, ROWS):
            part = slice(start, start + ROWS)
            writer.append(
                trace.topk_ids[part],
                trace.request[part],
                trace.position[part],
                trace.phase[part],
                None if trace.topk_weights is None else trace.topk_weights[part],
                None if trace.token_id is None else trace.token_id[part],
            )


def _write_npz(trace: Routing, path: str | os.PathLike[str]) -> None:
    header = {name: json.loads(value) for name, value in Header.of(trace).fields().items()}
    arrays = {"moesim": np.array(json.dumps(header, sort_keys=True))}
    if isinstance(trace, LoadCounts):
        arrays["counts"] = trace.counts
    else:
        arrays |= {
            "topk_ids": trace.topk_ids,
            "request": trace.request,
            "position": trace.position,
            "phase": trace.phase,
        }
        if trace.topk_weights is not None:
            arrays["topk_weights"] = trace.topk_weights
        if trace.token_id is not None:
            arrays["token_id"] = trace.token_id
    with atomic_write(path, "wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def _write_sglang(
    loads: LoadCounts, path: str | os.PathLike[str], num_layers: int | None, from_tokens: bool
) -> tuple[str, ...]:
    layers = max(loads.moe_layer_ids) + 1
    lost = ["requests, positions and the order of tokens"] if from_tokens else []
    lost += [
        what
        for what, value in (("top-k", loads.top_k), ("model", loads.model), ("source", loads.source))
        if value
    ]
    if num_layers is not None:
        layers = max(layers, num_layers)
    every = np.zeros((len(loads.counts), layers, loads.num_experts))
    every[:, list(loads.moe_layer_ids)] = loads.counts
    with atomic_write(path) as stream:
        cast("IO[str]", stream).writelines(_json_pieces(every))
    return tuple(lost)


def _json_pieces(counts: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Iterator[str]:
    """The document in pieces, a layer at a time; whole numbers without a fraction."""
    yield '{"logical_count": '
    for s, step in enumerate(counts):
        yield ("[" if s == 0 else ",\n") * (len(counts) > 1)
        for i, row in enumerate(step):
            yield "[" if i == 0 else ",\n"
            yield json.dumps([int(v) if v.is_integer() else v for v in row.tolist()])
        yield "]"
    yield "]}\n" if len(counts) > 1 else "}\n"
