"""SGLang: ``{"physical_to_logical_map": [[...]]}``, a row for every decoder layer.

Dense layers have rows too: experts in order, then spare copies. SGLang 0.5.23 forwards any other name in the
file as an argument and fails, and takes a wrong number of rows, a wrong width and an expert twice on a rank
without a word (``srt/eplb/expert_location.py``). A name that does not end in ``.json`` is not taken for a
file.
"""

from __future__ import annotations

import json
from typing import Any

from moesim.layout import ExpertMap
from moesim.layout.expert_map import IntArray
from moesim.placement.files.findings import Findings
from moesim.placement.files.launch import Launch, line
from moesim.placement.files.rows import check_rows
from moesim.placement.files.target import Target

KEY = "physical_to_logical_map"

#: SGLang's flag for each rule a plan may be made for; for any other rule, a draw among the nearest replicas.
_ALGORITHMS = {"sglang-static": "static", "sglang-dynamic": "dynamic", "lp": "lp"}


def recognises(document: object) -> bool:
    """Whether a JSON document is meant for SGLang."""
    return isinstance(document, dict) and KEY in document


def write(expert_map: ExpertMap, target: Target) -> bytes:
    """The file's content."""
    return (json.dumps(document_of(expert_map, target)) + "\n").encode()


def document_of(expert_map: ExpertMap, target: Target) -> dict[str, Any]:
    """The document, with dense rows filled in order.

    Examples
    --------
    >>> import numpy as np
    >>> plan = ExpertMap(np.array([[1, 0, 2, 1]]), num_experts=3, ranks=2)
    >>> document_of(plan, Target("tiny", num_layers=2, moe_layer_ids=(1,), num_experts=3, ranks=2))
    {'physical_to_logical_map': [[0, 1, 2, 0], [1, 0, 2, 1]]}
    """
    rows = ExpertMap.contiguous(
        target.num_layers, target.num_experts, target.ranks, expert_map.redundant
    ).physical_to_logical.copy()
    rows[list(target.moe_layer_ids)] = expert_map.physical_to_logical
    return {KEY: rows.tolist()}


def read(document: Any, target: Target, found: Findings) -> IntArray | None:  # noqa: ANN401 - any JSON
    """The rows of the MoE layers, int64 ``[moe_layers, slots]``, or None; faults go to `found`."""
    if not recognises(document):
        found.add("is missing", KEY, None, f"an object with the one name {KEY}")
        return None
    for name in document:
        if name != KEY:
            found.add("is no name SGLang takes beside the map", str(name)[:40], None, f"{KEY} alone")
    rows = document[KEY]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        found.add("must be a list of rows", KEY, _kind(rows), "a list of lists of expert ids")
        return None
    if len(rows) != target.num_layers:
        found.add("must have a row per decoder layer, dense ones too", KEY, len(rows), str(target.num_layers))
    table = check_rows(rows, lambda i, j: f"{KEY}[{i}]" + (f"[{j}]" if j >= 0 else ""), target, found)
    return table[list(target.moe_layer_ids)] if table is not None and not found else None


def _kind(value: object) -> str:
    return type(value).__name__


def command(launch: Launch) -> str:
    """The line that starts SGLang with the plan.

    Examples
    --------
    >>> from pathlib import Path
    >>> print(command(Launch("some/moe", Path("plan.json"), ranks=4, redundant=4, dispatch="sglang-static")))
    python -m sglang.launch_server --model-path some/moe --tp-size 4 --dp-size 4 --enable-dp-attention \
--ep-size 4 --moe-a2a-backend deepep --init-expert-location plan.json --ep-num-redundant-experts 4 \
--ep-dispatch-algorithm static
    """
    ranks = launch.ranks
    words: list[object] = ["python", "-m", "sglang.launch_server", "--model-path", launch.model]
    words += ["--tp-size", ranks, "--dp-size", ranks, "--enable-dp-attention", "--ep-size", ranks]
    words += ["--moe-a2a-backend", "deepep", "--init-expert-location", launch.path]
    words += ["--ep-num-redundant-experts", launch.redundant]
    words += ["--ep-dispatch-algorithm", _ALGORITHMS.get(launch.dispatch, "dynamic")]
    if launch.nodes > 1:
        words += [
            "--nnodes",
            launch.nodes,
            "--node-rank",
            "$NODE_RANK",
            "--dist-init-addr",
            "$HEAD_NODE:5000",
        ]
    return line(*words)


def notes(launch: Launch) -> tuple[str, ...]:
    """What the line needs, or what it cannot do."""
    found = ["from SGLang 0.5.23 on, --attn-dp-size N stands for --dp-size N --enable-dp-attention"]
    if launch.redundant and launch.dispatch not in _ALGORITHMS:
        found.append(
            f"SGLang has no dispatch rule {launch.dispatch!r}: dynamic, a draw among the nearest replicas "
            "for each token, is the closest"
        )
    if launch.dispatch == "lp":
        found.append("SGLang's lp is for models of the DeepSeek-V2 family")
    return tuple(found)
