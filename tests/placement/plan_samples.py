"""A small model, a plan for it, and its file in every format."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np

from moesim.layout import ExpertMap
from moesim.placement.files import FORMATS, Target

# Five decoder layers, the first two dense, with six experts; two ranks of four slots.
MODEL = SimpleNamespace(name="tiny", num_layers=5, moe_layer_ids=(2, 3, 4), num_experts=6)
RANKS, SLOTS = 2, 8
GOOD = [0, 1, 2, 3, 4, 5, 0, 1]
ROWS = [[5, 1, 2, 3, 4, 0, 1, 5], GOOD, [0, 1, 2, 5, 3, 4, 5, 0]]
PLAN = ExpertMap(np.array(ROWS), 6, RANKS)
KEY = "physical_to_logical_map"


def file_name(name):
    return FORMATS[name].file


def content(name, plan=PLAN):
    return FORMATS[name].write(plan, Target.of(MODEL, RANKS))


def npz(save=np.savez, **arrays):
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def sglang(rows):
    return json.dumps({KEY: rows}).encode()


def trtllm(rows=None, **changed):
    rows = dict(zip((2, 3, 4), ROWS, strict=True)) if rows is None else rows
    fields = {"num_slots": 8, "initial_global_assignments": rows, "layer_updates_per_iter": 0} | changed
    lines = []
    for name, value in fields.items():
        if value is None:
            continue
        if isinstance(value, dict):
            lines += [f"{name}:", *(f"  {k}: {v}" for k, v in value.items())]
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines).encode()


def ascend(change):
    document = json.loads(content("vllm-ascend"))
    change(document)
    return json.dumps(document).encode()


def eplb(**changed):
    arrays = {
        KEY: PLAN.physical_to_logical,
        "logical_to_physical_map": PLAN.logical_to_physical,
        "logical_count": PLAN.replica_counts,
    } | changed
    return npz(**{name: array for name, array in arrays.items() if array is not None})
