"""The hash under which a configuration's result is kept: of everything that the result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from moesim._version import __version__
from moesim.engine.deployment import BACKENDS
from moesim.serving.settings import Scheduler
from moesim.studies.contents import FILES, content_of
from moesim.studies.grid import get, put

#: Raised when the same configuration is to give other columns, or other values by intent.
SCHEMA = 1


def task_of(kind: str, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """One configuration as it is evaluated.

    Parameters
    ----------
    kind
        ``predict`` or ``simulate``.
    configuration
        All settings, with paths that are absolute.

    Returns
    -------
    dict
        ``identity``, everything that the result depends on: settings, hashes in the place of names of files,
        and versions; ``names``, what each of the hashed files is loaded by.
    """
    identity: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in configuration.items()}
    names: dict[str, Any] = {}
    for role in ("model", "hardware", *FILES):
        path = tuple(role.split("."))
        name = get(configuration, path)
        if len(path) > 1 and path[0] not in configuration:
            continue
        content = content_of(role, name)
        put(identity, path, content)
        if name is not None:
            names[role] = name
    replication = identity.pop("replication")
    requests = identity.get("requests")
    if requests is not None:
        # The requests of a file are what they are once, and drawn from by session after that.
        alike = requests["path"] is not None and requests["arrivals"] is None and requests["resample"] is None
        identity["drawn"] = alike and replication > 0
    if identity.get("trace") is None:
        identity["num_experts"] = None
    if "scheduler" in identity:
        # What is not said is the backend's own, and saying it makes no difference.
        backend = identity["engine"]["backend"]
        usual = Scheduler.of(backend) if backend in BACKENDS else Scheduler()
        identity["scheduler"] = {
            k: getattr(usual, k) if v is None else v for k, v in identity["scheduler"].items()
        }
    identity |= {"kind": kind, "moesim": __version__, "schema": SCHEMA}
    return {"identity": identity, "names": names}


def key_of(identity: Mapping[str, Any]) -> str:
    """SHA-256 of canonical JSON; the order of keys does not matter.

    >>> key_of({"a": 1, "b": {"c": 2.0}}) == key_of({"b": {"c": 2.0}, "a": 1})
    True
    """
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def canonical(value: Mapping[str, Any]) -> str:
    """JSON with sorted keys, no spaces, and no number that is none."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
