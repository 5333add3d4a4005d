"""TensorRT-LLM: YAML for ``moe_config.load_balancer``, a list of slots for each MoE layer by decoder index.

Its ``MoeLoadBalancerConfig`` refuses other names, a layer that is missing, a list of another length than
``num_slots``, and a ``num_slots`` that does not divide over the ranks. It ignores layers that the model does
not have, and looks for no expert that is missing or twice on a rank (``tensorrt_llm/llmapi/llm_args.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moesim.layout import ExpertMap
from moesim.layout.expert_map import IntArray
from moesim.placement.files.findings import Findings
from moesim.placement.files.launch import Launch, line
from moesim.placement.files.rows import check_rows
from moesim.placement.files.target import Target, slot_faults

SLOTS, LAYERS, UPDATES = "num_slots", "initial_global_assignments", "layer_updates_per_iter"


def recognises(document: object) -> bool:
    """Whether a document is meant for TensorRT-LLM."""
    return isinstance(document, dict) and (SLOTS in document or LAYERS in document)


def write(expert_map: ExpertMap, target: Target) -> bytes:
    """The file's content.

    Examples
    --------
    >>> import numpy as np
    >>> plan = ExpertMap(np.array([[1, 0, 2, 1]]), num_experts=3, ranks=2)
    >>> target = Target("tiny", num_layers=2, moe_layer_ids=(1,), num_experts=3, ranks=2)
    >>> print(write(plan, target).decode(), end="")
    num_slots: 4
    initial_global_assignments:
      1: [1, 0, 2, 1]
    layer_updates_per_iter: 0
    """
    rows = zip(target.moe_layer_ids, expert_map.physical_to_logical.tolist(), strict=True)
    lines = [f"{SLOTS}: {expert_map.slots}", f"{LAYERS}:", *(f"  {layer}: {row}" for layer, row in rows)]
    return ("\n".join([*lines, f"{UPDATES}: 0"]) + "\n").encode()


def read(document: Any, target: Target, found: Findings) -> IntArray | None:  # noqa: ANN401 - any YAML
    """The plan's table, int64 ``[moe_layers, slots]``, or None; faults go to `found`."""
    if not isinstance(document, dict):
        found.add("must be a mapping", "", type(document).__name__, f"{SLOTS}, {LAYERS}, {UPDATES}")
        return None
    for name in document:
        if name not in (SLOTS, LAYERS, UPDATES):
            found.add("is no name TensorRT-LLM takes", str(name)[:40], None, f"{SLOTS}, {LAYERS}, {UPDATES}")
    slots = _slots(document.get(SLOTS), target, found)
    updates = document.get(UPDATES, 0)
    if type(updates) is not int or updates != 0:
        found.add("moves experts while serving, away from the plan", UPDATES, updates, "0")
    layers = document.get(LAYERS)
    if not isinstance(layers, dict):
        found.add(
            "is missing" if layers is None else "must be a mapping", LAYERS, None, "lists by decoder layer"
        )
        return None
    rows = _rows(layers, target, found)
    ids = list(rows)
    table = check_rows(
        list(rows.values()),
        lambda i, j: f"{LAYERS}.{ids[i]}" + (f"[{j}]" if j >= 0 else ""),
        replace(target, slots=slots),
        found,
    )
    return table if not found else None


def _slots(slots: object, target: Target, found: Findings) -> int | None:
    """The number of slots that lists are checked against."""
    if type(slots) is not int:
        found.add("is missing" if slots is None else "is no number of slots", SLOTS, slots, "a whole number")
        return target.slots
    faults = slot_faults(slots, target.num_experts, target.ranks, SLOTS)
    found.extend(faults)
    if target.slots is not None and slots != target.slots:
        found.add("is not the number of slots asked for", SLOTS, slots, str(target.slots))
        return target.slots
    return target.slots if faults else slots


def _rows(layers: Mapping[object, object], target: Target, found: Findings) -> dict[int, list[object]]:
    """Lists of the model's MoE layers, in their order."""
    wanted = set(target.moe_layer_ids)
    allowed = f"the {len(wanted)} MoE layers from {target.moe_layer_ids[0]} to {target.moe_layer_ids[-1]}"
    for name in layers:
        if name not in wanted:
            found.add("is no MoE layer of the model", f"{LAYERS}.{str(name)[:40]}", None, allowed)
    rows = {}
    for layer in target.moe_layer_ids:
        row = layers.get(layer)
        if isinstance(row, list):
            rows[layer] = row
        else:
            message = "must be a list of expert ids" if layer in layers else "is missing"
            found.add(message, f"{LAYERS}.{layer}", row, "a list of expert ids")
    return rows


def command(launch: Launch) -> str:
    """The options file and the line that start TensorRT-LLM with the plan."""
    options = "trtllm-options.yaml"
    path = str(launch.path)
    quoted = "'" + path.replace("'", "''") + "'"
    serve: list[object] = ["trtllm-serve", launch.model, "--tp_size", launch.ranks, "--ep_size", launch.ranks]
    if launch.nodes > 1:
        serve = ["trtllm-llmapi-launch", *serve]
    return "\n".join(
        [
            f"cat > {options} <<'EOF'",
            "enable_attention_dp: true",
            "moe_config:",
            "  backend: WIDEEP",
            f"  load_balancer: {quoted}",
            "EOF",
            line(*serve, "--extra_llm_api_options", options),
        ]
    )


def notes(launch: Launch) -> tuple[str, ...]:
    """What the line needs."""
    found = [
        "plans are for the PyTorch backend; newer releases also take CUTLASS, TRTLLM or CUTEDSL as backend"
    ]
    if launch.nodes > 1:
        found.append(f"start one task per device on the {launch.nodes} nodes, as with srun or mpirun")
    return tuple(found)
