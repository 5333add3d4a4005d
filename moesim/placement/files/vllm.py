"""vLLM, experimental: ``[[...]]``, a row per MoE layer, or one row for all.

No release loads a plan. `vllm-project/vllm pull request 49572
<https://github.com/vllm-project/vllm/pull/49572>`_ (open in July 2026) adds
``eplb_config.initial_expert_map_path``, which takes this file and checks sizes, ids and that every expert is
there.
"""

from __future__ import annotations

import json
from typing import Any

from moesim.layout import ExpertMap
from moesim.layout.expert_map import IntArray
from moesim.placement.files.findings import Findings
from moesim.placement.files.launch import Launch, compact, vllm_line
from moesim.placement.files.rows import check_rows
from moesim.placement.files.target import Target

#: vLLM rearranges experts after this many steps, 3000 by default; as many as no server runs keep the plan.
_STEPS = 10**9


def recognises(document: object) -> bool:
    """Whether a JSON document is meant for vLLM."""
    return isinstance(document, list)


def write(expert_map: ExpertMap, target: Target) -> bytes:
    """The file's content."""
    del target
    return (json.dumps(expert_map.physical_to_logical.tolist()) + "\n").encode()


def read(document: Any, target: Target, found: Findings) -> IntArray | None:  # noqa: ANN401 - any JSON
    """The plan's table, int64 ``[moe_layers, slots]``, or None; faults go to `found`."""
    layers = len(target.moe_layer_ids)
    allowed = f"{layers} lists of expert ids, or one of them for all layers"
    if not isinstance(document, list) or not document:
        found.add("must be a list", "", type(document).__name__, allowed)
        return None
    if not any(isinstance(row, list) for row in document):
        table = check_rows([document], lambda _, j: f"[{j}]" if j >= 0 else "the row", target, found)
        return table.repeat(layers, axis=0) if table is not None and not found else None
    for i, row in enumerate(document):
        if not isinstance(row, list):
            found.add("must be a list of expert ids", f"[{i}]", row, allowed)
    if found:
        return None
    if len(document) != layers:
        found.add("must have a row per MoE layer", "", len(document), str(layers))
    table = check_rows(document, lambda i, j: f"[{i}]" + (f"[{j}]" if j >= 0 else ""), target, found)
    return table if not found else None


def command(launch: Launch) -> str:
    """The line that starts a vLLM with the pull request and the plan."""
    config = {
        "num_redundant_experts": launch.redundant,
        "initial_expert_map_path": str(launch.path),
        "step_interval": _STEPS,
    }
    return vllm_line(launch, ["--enable-eplb", "--eplb-config", compact(config)])


def notes(launch: Launch) -> tuple[str, ...]:
    """What the line needs."""
    del launch
    return (
        "experimental: needs a vLLM with https://github.com/vllm-project/vllm/pull/49572",
        "the large step_interval keeps vLLM from rearranging the plan",
    )
