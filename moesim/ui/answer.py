"""From a scenario to everything a page shows of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim.correction import shipped
from moesim.errors import InfeasibleError
from moesim.prediction import predict
from moesim.provenance import SCHEMA_VERSION, clean, provenance
from moesim.result import Prediction
from moesim.ui.command import launch_lines, predict_line
from moesim.ui.curve import curve, served_for
from moesim.ui.library import Library
from moesim.ui.promise import cost, meets
from moesim.ui.scenario import Asked, read_scenario
from moesim.ui.suggestions import instead

_NO_COST: Mapping[str, Any] = {"usd_per_hour": None, "usd_per_million_output_tokens": None, "price": ""}


def answer(raw: object, library: Library) -> dict[str, Any]:
    """Answer a scenario.

    Parameters
    ----------
    raw
        As a page sent it.
    library
        What may be named.

    Returns
    -------
    dict
        Plain JSON values; what does not fit is an answer too, with ``feasible`` false and the ``reason``.

    Raises
    ------
    ConfigError
        With every fault of the scenario.
    """
    begun, worked = time.perf_counter(), time.thread_time()
    asked = read_scenario(raw, library)
    found, refusal = predicted(asked)
    document = {
        "scenario": asked.scenario.to_dict(),
        "feasible": found is not None,
        "reason": "" if refusal is None else str(refusal),
        "shortage": None if refusal is None else shortage(refusal),
        "suggestions": [] if refusal is None else instead(asked, refusal),
        "faults": [],
        "prediction": None if found is None else prediction_document(asked, found, library),
        "curve": curve(asked, served_for(asked, shipped())),
        "meets": {"ttft": None, "tpot": None} if found is None else meets(asked, found),
        **(_NO_COST if found is None else cost(asked, found)),
        "command": predict_line(asked.scenario, library),
        "launch": launch_lines(asked),
    }
    # What waiting for a core adds is the difference.
    document["server_ms"] = (time.perf_counter() - begun) * 1e3
    document["cpu_ms"] = (time.thread_time() - worked) * 1e3
    return dict(clean(document))


def predicted(asked: Asked) -> tuple[Prediction | None, InfeasibleError | None]:
    """The prediction of a scenario, or what keeps it from being one."""
    try:
        found = predict(
            asked.model,
            asked.hardware,
            asked.layout,
            asked.workload,
            trace=asked.routing,
            plan=asked.plan,
            engine=asked.engine,
            seed=asked.scenario.seed,
        )
    except InfeasibleError as error:
        return None, error
    return found, None


def shortage(error: InfeasibleError) -> dict[str, Any]:
    """What is short, and what would hold it."""
    return {
        "resource": error.resource,
        "needed": error.needed,
        "available": error.available,
        **error.details,
    }


def prediction_document(asked: Asked, found: Prediction, library: Library) -> dict[str, Any]:
    """What ``moesim predict --json`` prints of the same question."""
    files = {asked.model.path: asked.model.path, asked.hardware.path: asked.hardware.path}
    if asked.scenario.trace is not None:
        row = library.traces[asked.scenario.trace]
        # An upload goes by the name that its sender knows.
        files[str(row.path)] = row.spelling
    assumed = asked.routing.warnings if asked.routing is not None else ()
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "prediction",
        **found.to_dict(),
        "warnings": [*assumed, *found.warnings],
        "provenance": _named(files, asked.scenario.seed),
    }


def _named(files: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Provenance with other names for files, by path."""
    found = _provenance(tuple((path, *_stamp(path)) for path in files if path), seed)
    return found | {"inputs": {files[path]: digest for path, digest in found["inputs"].items()}}


def _stamp(path: str) -> tuple[int, int]:
    """What changes when a file does."""
    try:
        stat = Path(path).stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=64)
def _provenance(files: tuple[tuple[str, int, int], ...], seed: int) -> dict[str, Any]:
    return provenance([path for path, _, _ in files], seed)
