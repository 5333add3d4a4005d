"""EPLB's three arrays as ``.npz``, int64, a row per MoE layer; for scripts, no engine loads them.

``physical_to_logical_map [layers, slots]``, ``logical_to_physical_map [layers, experts, max_replicas]``
padded with -1, ``logical_count [layers, experts]``: what ``rebalance_experts`` of deepseek-ai/EPLB returns.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moesim.errors import Fault, TraceError
from moesim.layout import ExpertMap
from moesim.layout.expert_map import IntArray
from moesim.placement.files.findings import Findings
from moesim.placement.files.launch import Launch
from moesim.placement.files.read import NotAPlanError, array_bytes
from moesim.placement.files.rows import check_rows
from moesim.placement.files.target import Target
from moesim.trace.arrays import BROKEN_ZIP, read_npz

PHYSICAL, LOGICAL, COUNT = "physical_to_logical_map", "logical_to_physical_map", "logical_count"
_NAMES = (PHYSICAL, LOGICAL, COUNT)


def recognises(document: object) -> bool:
    """Whether an archive is one of EPLB."""
    return isinstance(document, Mapping) and PHYSICAL in document


def write(expert_map: ExpertMap, target: Target) -> bytes:
    """The file's content."""
    del target
    stream = io.BytesIO()
    np.savez(
        stream,
        physical_to_logical_map=expert_map.physical_to_logical,
        logical_to_physical_map=expert_map.logical_to_physical,
        logical_count=expert_map.replica_counts,
    )
    return stream.getvalue()


def load(path: Path, target: Target) -> dict[str, Any]:
    """The arrays of an archive by name, None for foreign ones; sizes are checked before any is read."""
    limit = array_bytes(target)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except BROKEN_ZIP as error:
        reason = (str(error) or type(error).__name__).lower()
        raise NotAPlanError(Fault(f"is no readable zip archive: {reason}"), path) from None
    names = [info.filename for info in members]
    size = sum(info.file_size for info in members)
    if len(names) > 64 or len(set(names)) < len(names):
        raise NotAPlanError(Fault("holds too many files, or one twice", "", len(names), "3"), path)
    if size > limit:
        fault = Fault("unpacks to more than a plan of this model", "", f"{size} bytes", f"{limit} bytes")
        raise NotAPlanError(fault, path)
    if f"{PHYSICAL}.npy" not in names:
        shown = ", ".join(names)[:80]
        raise NotAPlanError(Fault("is an archive, but of no plan", "", shown, f"{PHYSICAL}.npy"), path)
    try:
        arrays: dict[str, Any] = dict(read_npz(path, _NAMES))
    except TraceError as error:
        raise NotAPlanError(error.faults, path) from None
    return arrays | {name: None for name in names if name.removesuffix(".npy") not in _NAMES}


def read(document: Any, target: Target, found: Findings) -> IntArray | None:  # noqa: ANN401 - arrays by name
    """The plan's table, int64 ``[moe_layers, slots]``, or None; faults go to `found`."""
    for name in document:
        if name not in _NAMES:
            found.add("is a foreign array", str(name)[:40], None, ", ".join(_NAMES))
    layers = len(target.moe_layer_ids)
    arrays = {
        name: _integers(document.get(name), name, axes, found)
        for name, axes in zip(_NAMES, (2, 3, 2), strict=True)
    }
    physical = arrays[PHYSICAL]
    if physical is None:
        return None
    if len(physical) != layers:
        found.add("must have a row per MoE layer", PHYSICAL, len(physical), str(layers))
    rows = physical.tolist()
    table = check_rows(rows, lambda i, j: f"{PHYSICAL}[{i}" + (f", {j}]" if j >= 0 else "]"), target, found)
    if table is None or found:
        return None
    plan = ExpertMap(table, target.num_experts, target.ranks)
    _same(arrays[COUNT], plan.replica_counts, COUNT, "replicas of each expert in " + PHYSICAL, found)
    logical = arrays[LOGICAL]
    if logical is not None:
        # EPLB lists an expert's slots in any order, and pads to any width.
        trimmed = -np.sort(-logical, axis=2)[:, :, : plan.logical_to_physical.shape[2]]
        rest = -np.sort(-logical, axis=2)[:, :, plan.logical_to_physical.shape[2] :]
        wanted = -np.sort(-plan.logical_to_physical, axis=2)
        _same(trimmed, wanted, LOGICAL, "slots of each expert in " + PHYSICAL, found)
        if (rest != -1).any():
            found.add("lists more slots than there are", LOGICAL, None, "padding with -1")
    return table if not found else None


def _integers(array: Any, name: str, axes: int, found: Findings) -> IntArray | None:  # noqa: ANN401
    if array is None:
        found.add("is missing", name, None, f"an array with {axes} axes", kind=f"{name} is missing")
    elif array.dtype.kind not in "iu" or array.ndim != axes or 0 in array.shape:
        shape = f"{array.dtype} {array.shape}"
        found.add("is no table of whole numbers", name, shape, f"whole numbers with {axes} axes")
    elif array.dtype == np.uint64 and (array >= 1 << 63).any():
        found.add("holds numbers beyond any id", name)
    else:
        return np.asarray(array, dtype=np.int64)
    return None


def _same(has: IntArray | None, wanted: IntArray, name: str, what: str, found: Findings) -> None:
    """Compare an array with what follows from the map."""
    if has is None:
        return
    if has.shape != wanted.shape:
        found.add("has another shape", name, str(has.shape), str(wanted.shape))
        return
    for at in np.argwhere(has != wanted).tolist():
        place = tuple(at)
        found.add(
            "contradicts the map",
            f"{name}[{', '.join(map(str, at[:2]))}]",
            int(has[place]),
            f"{int(wanted[place])}: {what}",
            kind=f"{name} contradicts the map",
        )


def command(launch: Launch) -> str:
    """No engine loads the arrays."""
    del launch
    return ""


def notes(launch: Launch) -> tuple[str, ...]:
    """What they are for."""
    del launch
    return ("no engine loads these arrays; they are for scripts that call EPLB",)
