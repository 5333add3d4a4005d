"""Write the formats of others: EPLB's weights, vLLM's routed experts, JSON lines of routes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import IO, cast

import numpy as np

from moesim.files import atomic_write
from moesim.trace.readers.route_jsonl import WRITER
from moesim.trace.types import Routing, RoutingTrace


def write_eplb(trace: Routing, path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write what EPLB balances: an ``.npz`` with `weight` ``[layers, experts]``, and `moe_layer_ids`.

    Returns
    -------
    tuple of str
        What is lost.
    """
    loads = trace.load_counts()
    totals = loads.totals
    # Whole up to where a float64 still counts by ones.
    whole = bool((totals == np.rint(totals)).all()) and float(totals.max()) < 2**53
    weight = totals.astype(np.int64) if whole else totals
    with atomic_write(path, "wb") as stream:
        np.savez_compressed(
            cast("IO[bytes]", stream), weight=weight, moe_layer_ids=np.array(loads.moe_layer_ids, np.int64)
        )
    lost = ["requests, positions and the order of tokens"] if isinstance(trace, RoutingTrace) else []
    lost += ["steps"] if len(loads.counts) > 1 else []
    return (*lost, *_unsaid(trace, "top_k", "model", "source", "licence"))


def write_vllm(trace: RoutingTrace, path: str | os.PathLike[str], num_layers: int | None) -> tuple[str, ...]:
    """Write `routed_experts` int32 ``[tokens, decoder layers, top_k]``, zero in dense layers, and columns.

    Returns
    -------
    tuple of str
        What is lost.
    """
    layers = max(*trace.moe_layer_ids, (num_layers or 1) - 1) + 1
    ids = np.zeros((trace.num_tokens, layers, trace.top_k), np.int32)
    ids[:, list(trace.moe_layer_ids)] = trace.topk_ids
    columns = {"request": trace.request, "position": trace.position, "phase": trace.phase}
    if trace.token_id is not None:
        columns["token_id"] = trace.token_id
    with atomic_write(path, "wb") as stream:
        np.savez_compressed(
            cast("IO[bytes]", stream),
            routed_experts=ids,
            num_experts=np.array(trace.num_experts, np.int64),
            moe_layer_ids=np.array(trace.moe_layer_ids, np.int64),
            **columns,  # type: ignore[arg-type]
        )
    lost = ["router weights"] if trace.topk_weights is not None else []
    return (*lost, *_unsaid(trace, "model", "source", "licence"))


def write_route(trace: RoutingTrace, path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write JSON lines: one of metadata, then one for every token and layer.

    Returns
    -------
    tuple of str
        What is lost.
    """
    with atomic_write(path) as stream:
        cast("IO[str]", stream).writelines(_route_lines(trace))
    lost = ["token ids"] if trace.token_id is not None else []
    numbers = np.unique(trace.request)
    if (np.diff(trace.request) < 0).any() or len(numbers) <= numbers[-1]:
        lost.append("numbers of requests, and the order of tokens between them")
    return (*lost, *(["warnings and metadata"] if trace.warnings or trace.metadata else []))


def _route_lines(trace: RoutingTrace) -> Iterator[str]:
    texts = {name: getattr(trace, name) for name in ("model", "source", "licence")}
    meta = {
        "type": "meta",
        "writer": WRITER,
        "num_experts": trace.num_experts,
        "top_k": trace.top_k,
        "moe_layer_ids": [int(i) for i in trace.moe_layer_ids],
    }
    yield json.dumps(meta | texts) + "\n"
    for t in range(trace.num_tokens):
        row = {
            "type": "route",
            "req_id": int(trace.request[t]),
            "token_idx": int(trace.position[t]),
            "phase": int(trace.phase[t]),
        }
        for i, layer in enumerate(trace.moe_layer_ids):
            row |= {"layer": int(layer), "topk_ids": trace.topk_ids[t, i].tolist()}
            if trace.topk_weights is not None:
                row["topk_weights"] = trace.topk_weights[t, i].tolist()
            yield json.dumps(row) + "\n"


def _unsaid(trace: Routing, *names: str) -> list[str]:
    spoken = {"top_k": "top-k"}
    return [spoken.get(name, name) for name in names if getattr(trace, name)]
