"""Bytes and JSON of a stranger's plan file: bounded before they are parsed."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.placement.files.target import Target

#: Room for comments, names and blanks beside the table itself.
_SPARE_BYTES, _SPARE_VALUES = 1 << 20, 200_000
#: Slots of a layer at most where their number is not told: 16 times the experts of the largest models.
_MOST_SLOTS = 4096
#: What a YAML scanner reads in a few seconds.
_SCANNED_VALUES = 100_000
#: An id, a comma, a line break and its indentation.
_BYTES_PER_VALUE = 32
#: EPLB pads lists of replicas; no expert has as many in any published deployment.
_PADDED_REPLICAS = 128
_MOST_BYTES = 64 << 20


class NotAPlanError(ConfigError):
    """A file that cannot be read as a plan of any format, as opposed to a plan with faults."""


def read_bytes(path: Path, target: Target) -> bytes:
    """The content of a regular file that is no larger than any plan for this target."""
    limit = min(_MOST_BYTES, _SPARE_BYTES + max(_BYTES_PER_VALUE * most_values(target), array_bytes(target)))
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise NotAPlanError(Fault("is a folder", allowed="a file"), path)
        if not stat.S_ISREG(info.st_mode):
            raise NotAPlanError(Fault("is no regular file", allowed="a file"), path)
        if info.st_size > limit:
            raise NotAPlanError(
                Fault("is too large for a plan of this model", "", f"{info.st_size} bytes", f"{limit} bytes"),
                path,
            )
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise NotAPlanError(Fault(f"cannot be read: {reason}"), path) from None
    except ValueError:  # a null character
        raise NotAPlanError(Fault("is no path"), repr(path)) from None
    if not content.strip():
        raise NotAPlanError(Fault("is empty", allowed="a plan"), path)
    return content


def most_values(target: Target) -> int:
    """Values, names and brackets in the longest text of a plan: the table, and a few words per rank."""
    slots = target.most_slots if target.slots is not None else min(target.most_slots, _MOST_SLOTS)
    return target.num_layers * (max(slots, target.num_experts) + 8 * target.ranks + 8)


def array_bytes(target: Target) -> int:
    """Bytes of EPLB's arrays at most; they list as many replicas as there are ranks, or some more."""
    replicas = min(target.most_slots - target.num_experts + 1, max(target.ranks, _PADDED_REPLICAS))
    values = target.most_slots + target.num_experts * (replicas + 1)
    return _SPARE_BYTES + 8 * target.num_layers * values


def check_values(content: bytes, target: Target, path: Path, *, scanned: bool = False) -> None:
    """Refuse a text with more values than a plan for this target; `scanned`: read letter by letter."""
    # A value of JSON or YAML ends at a comma or a line; a container costs memory before it holds any.
    most = min(most_values(target), _SCANNED_VALUES) if scanned else 2 * most_values(target)
    allowed = _SPARE_VALUES // (4 if scanned else 1) + most
    count = sum(map(content.count, (b",", b"\n", b"[", b"{")))
    if count > allowed:
        raise NotAPlanError(
            Fault("holds more values than a plan of this model", "", count, str(allowed)), path
        )


def load_json(content: bytes, target: Target, path: Path) -> Any:  # noqa: ANN401 - any JSON tree
    """The document of a JSON text; a name twice in one object is an error."""
    check_values(content, target, path)
    try:
        return json.loads(content, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise NotAPlanError(Fault(f"is not JSON: {error.msg.lower()}", place), path) from None
    except RecursionError:
        raise NotAPlanError(Fault("is not JSON of a plan: nested too deeply"), path) from None
    except ValueError as error:
        raise NotAPlanError(Fault(f"is not JSON: {error}"), path) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise ValueError(f"the name {name[:40]!r} is there twice")
        document[name] = value
    return document
