"""Write plans in the formats serving engines load, and read them back without trust.

``sglang:plan.json``
    ``{"physical_to_logical_map": [[...]]}``, the only key, one row per *decoder* layer. Dense layers
    have rows too: experts in order, then spare copies. Load with ``--init-expert-location plan.json
    --ep-num-redundant-experts R``. SGLang takes a wrong number of rows, a wrong width or an expert twice on a
    rank without a word, so `read_sglang` checks them.
``eplb:plan.npz``
    The triple of EPLB, int64, one row per *MoE* layer: ``physical_to_logical_map [layers, slots]``,
    ``logical_to_physical_map [layers, experts, max_replicas]`` padded with -1, ``logical_count [layers,
    experts]``.

A plan is validated before a byte is written, and a file appears whole or not at all.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from moesim.errors import ConfigError, Fault, nearest
from moesim.files import atomic_write, check_writable
from moesim.layout import ExpertMap
from moesim.layout.expert_map import IntArray
from moesim.layout.expert_map import faults as map_faults

_KEY = "physical_to_logical_map"


@dataclass(frozen=True, slots=True)
class EmittedFile:
    """A plan that was written.

    Parameters
    ----------
    path
        Where.
    format
        In which of `FORMATS`.
    rows
        Layers in the file.
    """

    path: Path
    format: str
    rows: int


def parse_emit(spec: str, option: str = "--emit") -> tuple[str, Path]:
    """Split ``format:path``, and check both.

    Raises
    ------
    ConfigError
        As `emit_faults`.

    Examples
    --------
    >>> name, path = parse_emit("sglang:plan.json")
    >>> name, path.name
    ('sglang', 'plan.json')
    """
    found = emit_faults(spec, option)
    if found:
        raise ConfigError(found)
    name, _, path = spec.partition(":")
    return name, Path(path)


def emit_faults(spec: str, option: str = "--emit") -> list[Fault]:
    """What keeps ``format:path`` from being written, found before any work is done."""
    name, colon, path = spec.partition(":")
    wanted = ", ".join(f"{known}:FILE" for known in FORMATS)
    if not colon or not path:
        return [Fault("names no format and file", option, spec, wanted)]
    found = []
    if name not in FORMATS:
        near = nearest(name, FORMATS)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        found.append(Fault("is no plan format", option, name, hint + wanted))
    return found + check_writable(path, option)


def write(expert_map: ExpertMap, spec: str, moe_layer_ids: Sequence[int], num_layers: int) -> EmittedFile:
    """Write a plan.

    Parameters
    ----------
    expert_map
        The plan; its invariants hold by construction.
    spec
        ``format:path``, as in ``"sglang:plan.json"``.
    moe_layer_ids
        Decoder index of each layer of the plan.
    num_layers
        Decoder layers of the model.

    Raises
    ------
    ConfigError
        If the format is unknown, the layer axis does not fit the model, or the file cannot be written.
    """
    name, path = parse_emit(spec)
    if not expert_map.full:
        raise ConfigError(Fault("has empty slots, which no engine loads", "plan"), path)
    content, rows = FORMATS[name](expert_map, moe_layer_ids, num_layers)
    with atomic_write(path, "wb") as stream:
        cast(IO[bytes], stream).write(content)
    return EmittedFile(path, name, rows)


def to_sglang(expert_map: ExpertMap, moe_layer_ids: Sequence[int], num_layers: int) -> dict[str, Any]:
    """Make the document SGLang loads: a row for every decoder layer, dense ones filled in order.

    Raises
    ------
    ConfigError
        If the layer axis does not fit the model.

    Examples
    --------
    >>> plan = ExpertMap(np.array([[1, 0, 2, 1]]), num_experts=3, ranks=2)
    >>> to_sglang(plan, moe_layer_ids=[1], num_layers=2)
    {'physical_to_logical_map': [[0, 1, 2, 0], [1, 0, 2, 1]]}
    """
    _check_layers(expert_map.layers, moe_layer_ids, num_layers)
    rows = ExpertMap.contiguous(
        num_layers, expert_map.num_experts, expert_map.ranks, expert_map.redundant
    ).physical_to_logical.copy()
    rows[list(moe_layer_ids)] = expert_map.physical_to_logical
    return {_KEY: rows.tolist()}


def read_sglang(
    path: str | os.PathLike[str], ranks: int, num_experts: int, moe_layer_ids: Sequence[int], num_layers: int
) -> ExpertMap:
    """Read a plan for SGLang and check all that SGLang does not.

    Parameters
    ----------
    path
        A JSON file with the single key ``physical_to_logical_map``.
    ranks
        Expert-parallel ranks the plan is for.
    num_experts, moe_layer_ids, num_layers
        Of the model.

    Returns
    -------
    ExpertMap
        The rows of the MoE layers.

    Raises
    ------
    ConfigError
        With every fault, if the file is not such a plan for this model.
    """
    document = _load_json(Path(path), limit_bytes=4096 + 32 * num_layers * num_experts * ranks)
    rows = _rows(document, num_layers, path)
    found = map_faults(rows, num_experts, ranks)
    if found:
        raise ConfigError(found, path)
    _check_layers(len(moe_layer_ids), moe_layer_ids, num_layers)
    return ExpertMap(rows[list(moe_layer_ids)], num_experts, ranks)


def _load_json(path: Path, limit_bytes: int) -> object:
    try:
        size = path.stat().st_size
        if size > limit_bytes:
            raise ConfigError(
                Fault("is too large for a plan of this model", "", f"{size} bytes", f"{limit_bytes} bytes"),
                path,
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(Fault("cannot be read: " + (error.strerror or str(error)).lower()), path) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(Fault("is not JSON", "", str(error)), path) from None


def _rows(document: object, num_layers: int, path: str | os.PathLike[str]) -> IntArray:
    """Rows of the document as an array ``[num_layers, slots]``; ids not yet checked against the model."""
    if not isinstance(document, dict) or list(document) != [_KEY]:
        keys = sorted(map(str, document))[:8] if isinstance(document, dict) else type(document).__name__
        raise ConfigError(Fault("must be an object with one key", "", keys, _KEY), path)
    rows = document[_KEY]
    if not isinstance(rows, list) or not all(isinstance(row, list) and row for row in rows):
        raise ConfigError(Fault("must be a list of rows, none empty", _KEY), path)
    found = []
    if len(rows) != num_layers:
        found.append(
            Fault("must have a row per decoder layer, dense ones included", _KEY, len(rows), str(num_layers))
        )
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        found.append(Fault("has rows of different lengths", _KEY, widths[:8], "one length"))
    foreign = [
        (i, j)
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
        if type(value) is not int or abs(value) >> 62
    ]
    for i, j in foreign[:3]:
        found.append(Fault("is no expert id", f"{_KEY}[{i}][{j}]", rows[i][j], "whole numbers"))
    if len(foreign) > 3:
        found.append(Fault(f"{len(foreign)} entries are no expert ids in all", _KEY))
    if found:
        raise ConfigError(found, path)
    return np.array(rows, dtype=np.int64)


def _check_layers(layers: int, moe_layer_ids: Sequence[int], num_layers: int) -> None:
    ids = list(moe_layer_ids)
    found = []
    if len(ids) != layers:
        found.append(Fault(f"the plan has {layers} layers, the model {len(ids)} MoE layers", "layers"))
    if ids != sorted(set(ids)) or (ids and not 0 <= ids[0] <= ids[-1] < num_layers):
        found.append(Fault("must be rising decoder indices", "moe_layer_ids", ids, f"0 to {num_layers - 1}"))
    if found:
        raise ConfigError(found, "expert placement")


def _sglang(expert_map: ExpertMap, moe_layer_ids: Sequence[int], num_layers: int) -> tuple[bytes, int]:
    document = to_sglang(expert_map, moe_layer_ids, num_layers)
    return (json.dumps(document) + "\n").encode(), num_layers


def _eplb(expert_map: ExpertMap, moe_layer_ids: Sequence[int], num_layers: int) -> tuple[bytes, int]:
    _check_layers(expert_map.layers, moe_layer_ids, num_layers)
    stream = io.BytesIO()
    np.savez(
        stream,
        physical_to_logical_map=expert_map.physical_to_logical,
        logical_to_physical_map=expert_map.logical_to_physical,
        logical_count=expert_map.replica_counts,
    )
    return stream.getvalue(), expert_map.layers


Writer = Callable[[ExpertMap, Sequence[int], int], tuple[bytes, int]]

#: Plan formats: the file's bytes and its number of rows, from (plan, moe_layer_ids, num_layers).
FORMATS: dict[str, Writer] = {"sglang": _sglang, "eplb": _eplb}
