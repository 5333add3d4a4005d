"""Where a plan comes from, in a file beside it: engines refuse names they do not know inside the plan.

``plan.json`` has ``plan.json.provenance.json`` beside it, with the plan's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moesim._version import __version__
from moesim.errors import Fault
from moesim.placement.files.target import Target
from moesim.provenance import clean

SCHEMA_VERSION = 1
_MOST_BYTES = 1 << 20


def record_path(path: Path) -> Path:
    """The file beside a plan.

    >>> record_path(Path("out/plan.json")).name
    'plan.json.provenance.json'
    """
    return path.with_name(path.name + ".provenance.json")


def record_of(content: bytes, name: str, target: Target, slots: int, extra: Mapping[str, Any]) -> bytes:
    """What the file says: versions, what the plan is for, how it was found, and the plan's hash."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "moesim": __version__,
        "format": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "model": target.model,
        "num_experts": target.num_experts,
        "moe_layer_ids": list(target.moe_layer_ids),
        "num_layers": target.num_layers,
        "ranks": target.ranks,
        "slots": slots,
        **extra,
    }
    return (json.dumps(clean(document), indent=2, allow_nan=False) + "\n").encode()


def read_record(path: Path) -> Mapping[str, Any] | None:
    """What is beside a plan, or None where nothing readable is."""
    beside = record_path(path)
    try:
        if not beside.is_file() or beside.stat().st_size > _MOST_BYTES:
            return None
        document = json.loads(beside.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def record_faults(content: bytes, path: Path) -> tuple[str, list[Fault]]:
    """Compare a plan with what is beside it.

    Returns
    -------
    tuple of str and list
        What was found, in a sentence; and the fault of a plan that is not the recorded one.
    """
    beside = record_path(path)
    if not beside.exists():
        return f"no {beside.name} beside it", []
    document = read_record(path)
    recorded = document.get("sha256") if document is not None else None
    if not isinstance(recorded, str) or len(recorded) != 64:
        return f"{beside.name} beside it cannot be read", []
    if recorded == hashlib.sha256(content).hexdigest():
        return f"unchanged since it was written, says {beside.name}", []
    message = f"is not the file {beside.name} was written for: it has been changed"
    return message, [Fault(message, "sha256", hashlib.sha256(content).hexdigest()[:16] + "...", recorded)]
