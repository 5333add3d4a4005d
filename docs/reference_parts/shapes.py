"""The parts of the reference about models, and about the columns of files in Parquet."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from docs.reference_parts.markdown import table
from docs.reference_parts.names import entries, numpydoc

_COLUMNS = {
    "request": "request of the token; tokens of a request are in order",
    "position": "position inside the request",
    "phase": "0 prefill, 1 decode",
    "token_id": "vocabulary id; optional",
    "L003": "logical expert ids of decoder layer 3; one such column per MoE layer",
    "W003": "router weights of that layer; optional",
    "step": "step, from 0",
    "layer": "decoder index of the MoE layer",
    "counts": "token-expert selections of each logical expert",
    "arrival_s": "seconds from the beginning",
    "input_tokens": "tokens of the prompt",
    "output_tokens": "tokens of the answer",
    "session": "conversation of the request; optional",
    "prefix_hashes": "blocks of the prompt, equal where prompts begin alike; optional",
    "start_s": "when the step begins, s",
    "seconds": "how long the step takes, s",
    "row": "row of the routing trace that the token's experts are from",
}


def model() -> Iterator[str]:
    """What a model is, and under which names a config is read."""
    from moesim.model import types
    from moesim.model.aliases import ALIASES, NESTED

    yield "# Reference: models"
    yield cleandoc(
        """
        `moesim model show NAME` and `ms.load_model` make these values of a Hugging Face `config.json`;
        [Models](../models.md) says how, and what is done about families nobody knows.
        """
    )
    yield (
        "## Fields of a config\n\nThe first name that a config has counts. Sections that are looked into: "
        + (", ".join(f"`{name}`" for name in NESTED) + ".")
    )
    yield table(
        ["what", "names in `config.json`"],
        [[what, ", ".join(f"`{name}`" for name in names)] for what, names in ALIASES.values()],
    )
    yield "## Values"
    kinds = [
        types.Model,
        types.Layer,
        types.MoE,
        types.Dense,
        types.GroupedQuery,
        types.Latent,
        types.Indexer,
    ]
    for kind in [*kinds, types.Compressed, types.LinearAttention, types.StateSpace]:
        text = numpydoc(kind)
        meanings = {
            name.strip("`"): meaning
            for names, meaning in entries(text.get("Parameters", ""))
            for name in names.split(", ")
        }
        yield f"### {kind.__name__}\n\n{text['']}"
        yield table(
            ["field", "type", "default", "meaning"],
            [
                [f"`{f.name}`", f"`{f.type}`", _default(f), meanings.get(f.name, "")]
                for f in dataclasses.fields(kind)
            ],
        )


def files() -> Iterator[str]:
    """Columns of the files that moesim writes, read off files written here."""
    yield "# Reference: files in Parquet"
    yield cleandoc(
        """
        Columns of the files that moesim writes and reads back; [Routing traces](../traces.md) and
        [Requests](../requests.md) say which other formats are read. The metadata of each file holds
        `moesim.kind`, `moesim.schema_version` and the fields named below, each as JSON. No column has
        nulls.
        """
    )
    with tempfile.TemporaryDirectory() as folder:
        for title, path, said in _written(Path(folder)):
            schema = pq.read_schema(path)
            yield f"## {title}\n\n{said}"
            yield table(
                ["column", "type", "meaning"],
                [[f"`{f.name}`", f"`{_type(f.type)}`", _COLUMNS[f.name]] for f in schema],
            )
            keys = sorted(k.decode() for k in schema.metadata or {} if k.startswith(b"moesim."))
            yield "Metadata: " + ", ".join(f"`{key}`" for key in keys) + "."


def _written(folder: Path) -> Iterator[tuple[str, Path, str]]:
    from moesim.batching import batch_requests, write_steps
    from moesim.requests.parquet import write_parquet
    from moesim.requests.types import request_trace
    from moesim.trace import write_trace
    from moesim.trace.counts_parquet import write_counts
    from moesim.trace.types import RoutingTrace

    ids = np.array([[[0, 5]], [[3, 1]]], np.uint8)
    trace = RoutingTrace(
        ids,
        np.zeros(2, np.int32),
        num_experts=8,
        moe_layer_ids=(3,),
        position=np.arange(2, dtype=np.int32),
        phase=np.array([0, 1], np.int8),
        topk_weights=np.full(ids.shape, 0.5, np.float16),
        token_id=np.arange(2, dtype=np.int32),
    )
    path = folder / "trace.parquet"
    write_trace(trace, path)
    yield (
        "A routing trace",
        path,
        "One row per token, here of a model with one MoE layer, 8 experts and top-2.",
    )
    path = folder / "counts.parquet"
    write_counts(trace.load_counts(), path)
    yield "Load counts", path, "One row per step and MoE layer, here of 8 experts; totals are one step."
    path = folder / "requests.parquet"
    requests = request_trace(
        [0.0, 1.0],
        [1, 1],
        [1, 1],
        session=[0, 0],
        prefix_hashes=[7, 7],
        prefix_ptr=[0, 1, 2],
        prefix_block_tokens=16,
    )
    write_parquet(requests, path)
    yield "Requests", path, "One row per request, in order of arrival."
    path = folder / "steps.parquet"
    write_steps(batch_requests(trace, requests, step_time=0.02), path)
    yield "Steps", path, "What `moesim trace batch` writes: one row per scheduled token, in order."


def _type(kind: object) -> str:
    return str(kind).replace(" not null", "").replace("item: ", "").replace("element: ", "")


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    return "needed" if field.default_factory is dataclasses.MISSING else ""
