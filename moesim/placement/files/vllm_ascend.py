"""vllm-ascend: JSON for ``eplb_config.expert_map_path``, experts by device for each MoE layer counted from 0.

Its loader (0.23.0, ``vllm_ascend/eplb/core/eplb_utils.py``) goes by position: it reads no ``layer_id``,
``device_id`` or ``device_count``, so that a file with devices in another order loads as another plan.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

from moesim.layout import ExpertMap
from moesim.layout.expert_map import IntArray
from moesim.placement.files.findings import Findings
from moesim.placement.files.launch import Launch, compact, vllm_line
from moesim.placement.files.rows import check_rows
from moesim.placement.files.target import Target

_TOP = ("moe_layer_count", "layer_list")
_LAYER = ("layer_id", "device_count", "device_list")
_DEVICE = ("device_id", "device_expert")


def recognises(document: object) -> bool:
    """Whether a JSON document is meant for vllm-ascend."""
    return isinstance(document, dict) and any(name in document for name in _TOP)


def write(expert_map: ExpertMap, target: Target) -> bytes:
    """The file's content."""
    shape = (expert_map.layers, target.ranks, expert_map.slots_per_rank)
    layers = [
        {
            "layer_id": i,
            "device_count": target.ranks,
            "device_list": [{"device_id": j, "device_expert": experts} for j, experts in enumerate(devices)],
        }
        for i, devices in enumerate(expert_map.physical_to_logical.reshape(shape).tolist())
    ]
    return (json.dumps({"moe_layer_count": len(layers), "layer_list": layers}) + "\n").encode()


def read(document: Any, target: Target, found: Findings) -> IntArray | None:  # noqa: ANN401 - any JSON
    """The plan's table, int64 ``[moe_layers, slots]``, or None; faults go to `found`."""
    if not _fields(document, _TOP, "", found):
        return None
    wanted = len(target.moe_layer_ids)
    _number(document, "moe_layer_count", "", wanted, found)
    layers = document.get("layer_list")
    if not isinstance(layers, list):
        found.add("must be a list of layers", "layer_list", None, "a list")
        return None
    if len(layers) != wanted:
        found.add("must have an entry per MoE layer", "layer_list", len(layers), str(wanted))
    rows: list[list[object]] = []
    lengths: list[list[int]] = []
    for i, layer in enumerate(layers):
        devices = _devices(layer, i, target, found)
        rows.append([expert for device in devices for expert in device])
        lengths.append([len(device) for device in devices])

    def where(i: int, slot: int) -> str:
        if slot < 0:
            return f"layer_list[{i}]"
        ends = list(accumulate(lengths[i]))
        device = next(j for j, end in enumerate(ends) if slot < end)
        start = ends[device] - lengths[i][device]
        return f"layer_list[{i}].device_list[{device}].device_expert[{slot - start}]"

    even = all(len(set(devices)) <= 1 and len(devices) == target.ranks for devices in lengths)
    table = check_rows(rows, where, target, found, even)
    return table if not found else None


def _devices(layer: object, i: int, target: Target, found: Findings) -> list[list[object]]:
    """Experts of each device of a layer."""
    at = f"layer_list[{i}]."
    if not _fields(layer, _LAYER, at, found):
        return []
    assert isinstance(layer, dict)
    _number(layer, "layer_id", at, i, found)
    _number(layer, "device_count", at, target.ranks, found)
    devices = layer.get("device_list")
    if not isinstance(devices, list):
        found.add("must be a list of devices", at + "device_list", None, "a list")
        return []
    if len(devices) != target.ranks:
        found.add("must have an entry per rank", at + "device_list", len(devices), str(target.ranks))
    experts: list[list[object]] = []
    for j, device in enumerate(devices):
        inside = f"{at}device_list[{j}]."
        if not _fields(device, _DEVICE, inside, found):
            continue
        _number(device, "device_id", inside, j, found)
        held = device.get("device_expert")
        if isinstance(held, list):
            if experts and len(held) != len(experts[0]):
                place = inside + "device_expert"
                found.add("has another length", place, len(held), f"{len(experts[0])}, as the first device")
            experts.append(held)
        else:
            found.add("must be a list of expert ids", inside + "device_expert", None, "a list")
    return experts


def _fields(value: object, names: tuple[str, ...], at: str, found: Findings) -> bool:
    """Whether a value is an object; its missing and foreign names are faults."""
    if not isinstance(value, dict):
        found.add("must be an object", at.rstrip("."), type(value).__name__, ", ".join(names))
        return False
    for name in names:
        if name not in value:
            found.add("is missing", at + name, None, ", ".join(names), kind=f"{name} is missing")
    for name in value:
        if name not in names:
            found.add("is a foreign name", at + str(name)[:40], None, ", ".join(names))
    return True


def _number(value: dict[str, object], name: str, at: str, wanted: int, found: Findings) -> None:
    if name in value and (type(value[name]) is not int or value[name] != wanted):
        kind = "its position" if name in ("layer_id", "device_id") else "the model's or the ranks'"
        found.add(f"is not {kind}", at + name, value[name], str(wanted), kind=f"{name} is not {kind}")


def command(launch: Launch) -> str:
    """The line that starts vllm-ascend with the plan.

    Examples
    --------
    >>> from pathlib import Path
    >>> print(command(Launch("some/moe", Path("map.json"), ranks=4, redundant=4)))
    vllm serve some/moe --tensor-parallel-size 1 --data-parallel-size 4 --enable-expert-parallel \
--additional-config '{"eplb_config":{"expert_map_path":"map.json"}}'
    """
    config = {"eplb_config": {"expert_map_path": str(launch.path)}}
    return vllm_line(launch, ["--additional-config", compact(config)])


def notes(launch: Launch) -> tuple[str, ...]:
    """What the line needs."""
    found = ["static maps are for vllm-ascend's model runner V1 with quantised experts, up to v0.25.0"]
    if launch.redundant:
        found.append("Atlas A2 does not support redundant experts")
    return tuple(found)
