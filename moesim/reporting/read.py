"""Read the JSON documents that commands print. They may come from anywhere: nothing in them is trusted."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.reporting.documents import (
    HardwareSources,
    PlacementDocument,
    PredictionDocument,
    Provenance,
    ReportDocument,
    checked,
)
from moesim.reporting.sections import labels_of

MAX_BYTES = 32_000_000
_KINDS = "the JSON that moesim predict, moesim place or the data link of a report gives"


def read_documents(paths: Sequence[str | os.PathLike[str]], *, title: str = "") -> ReportDocument:
    """One report from several files.

    Parameters
    ----------
    paths
        Files with what ``moesim predict --json`` or ``moesim place --json`` printed, or the data of a page.
    title
        Heading of the page.

    Raises
    ------
    ConfigError
        With every fault of every file.
    """
    faults: list[Fault] = []
    results: list[PredictionDocument | PlacementDocument] = []
    names: list[str] = []
    notes: list[str] = []
    machines: dict[str, HardwareSources] = {}
    for path in map(Path, paths):
        try:
            found = read_document(path)
        except ConfigError as error:
            faults += [Fault(f"{error.source}: {fault}") for fault in error.faults]
            continue
        if isinstance(found, ReportDocument):
            results += found.results
            names += found.labels or labels_of(found.results)
            notes += [note for note in found.notes if note not in notes]
            machines.update({machine.name: machine for machine in found.hardware})
            title = title or (found.title if len(paths) == 1 else "")
        else:
            results.append(found)
            names.append(path.stem)
    if faults:
        raise ConfigError(faults)
    labels = names if len(set(names)) == len(names) > 1 else []
    raw = {
        "title": title,
        "notes": notes,
        "results": [result.model_dump() for result in results],
        "labels": labels,
        "hardware": [machine.model_dump() for machine in machines.values()],
        "provenance": _merged([result.provenance for result in results]).model_dump(),
    }
    return checked(ReportDocument, raw, "report")


def read_document(path: Path) -> PredictionDocument | PlacementDocument | ReportDocument:
    """The document in one file.

    Raises
    ------
    ConfigError
        With every fault: unreadable, too big, no JSON, of another kind, infeasible, wrong inside.
    """
    raw = _load(path)
    if not isinstance(raw, dict):
        raise ConfigError(Fault("is no JSON object", allowed=_KINDS), path)
    version = raw.get("schema_version", 1)
    if version != 1:
        raise ConfigError(Fault("is of another version", "schema_version", version, "1"), path)
    if raw.get("kind") == "report":
        return checked(ReportDocument, raw, path)
    if raw.get("feasible") is False:
        reason = str(raw.get("reason", ""))[:200]
        raise ConfigError(Fault(f"says that the configuration is infeasible ({reason})", "feasible"), path)
    if "load_imbalance" in raw and isinstance(raw["load_imbalance"], dict):
        return checked(PlacementDocument, raw, path)
    if "tpot_s" in raw or "feasible" in raw:
        return checked(PredictionDocument, raw, path)
    raise ConfigError(Fault("is neither a prediction nor a placement", allowed=_KINDS), path)


def _load(path: Path) -> Any:  # noqa: ANN401 - any JSON
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ConfigError(Fault("is no file", allowed=_KINDS), path)
        if size > MAX_BYTES:
            raise ConfigError(Fault("is too big", value=f"{size:,} bytes", allowed=f"{MAX_BYTES:,}"), path)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(Fault(f"cannot be read: {reason}", allowed=_KINDS), path) from None
    except UnicodeDecodeError:
        raise ConfigError(Fault("is no UTF-8 text", allowed=_KINDS), path) from None
    try:
        return json.loads(text, parse_constant=_not_finite)
    except RecursionError:
        raise ConfigError(Fault("is nested too deeply", allowed=_KINDS), path) from None
    except ValueError as error:
        raise ConfigError(Fault(f"is no JSON: {error}", allowed=_KINDS), path) from None


def _not_finite(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _merged(found: Sequence[Provenance]) -> Provenance:
    """Versions that all share, and all inputs; only the last part of a path is of use elsewhere."""
    inputs = {
        name.replace("\\", "/").rpartition("/")[2]: digest
        for one in found
        for name, digest in one.inputs.items()
    }
    seeds = {one.seed for one in found}
    return Provenance(
        moesim=", ".join(sorted({one.moesim for one in found if one.moesim})),
        python=", ".join(sorted({one.python for one in found if one.python})),
        seed=seeds.pop() if len(seeds) == 1 else None,
        inputs=inputs,
    )
