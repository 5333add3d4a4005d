"""What it takes to get the same answer again: versions, seed, and hashes of what was read."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moesim._version import __version__

#: Of the JSON documents that commands print.
SCHEMA_VERSION = 1


def provenance(inputs: Iterable[str | os.PathLike[str]], seed: int | None) -> dict[str, Any]:
    """Versions, seed and the SHA-256 of each input that is a file."""
    hashes = {}
    for name in inputs:
        path = Path(name)
        if path.is_file():
            with path.open("rb") as stream:
                hashes[str(path)] = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"moesim": __version__, "python": platform.python_version(), "seed": seed, "inputs": hashes}


def clean(value: Any) -> Any:  # noqa: ANN401 - any JSON-like tree
    """Plain JSON types of a tree of numpy values; what is not finite becomes None.

    >>> clean({"a": (1.0, float("nan"))})
    {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return clean(value.tolist())
    if isinstance(value, Iterable):
        return [clean(v) for v in value]
    return str(value)
