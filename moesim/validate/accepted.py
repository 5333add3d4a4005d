"""The last result that was accepted: what a change of the model is held against.

Physics alone is scored, which no row was fitted to, and errors on held-out runs stand for the calibration:
its errors on the rows that it was fitted to would accept any overfitting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isfinite, nan
from pathlib import Path
from typing import IO, Any, cast

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.validate.score import Score

SHIPPED = Path(__file__).with_name("accepted.json")


def read_accepted(path: Path = SHIPPED) -> dict[str, Any] | None:
    """The accepted result, or None if there is none.

    Raises
    ------
    ConfigError
        If the file holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"is no accepted result: {error}", path) from None
    wanted = {"file_sha256", "date", "scores"}
    if not isinstance(document, dict) or not wanted <= document.keys():
        raise ConfigError(Fault("is no accepted result", allowed=", ".join(sorted(wanted))), path)
    return document


def accepted_score(document: Mapping[str, Any], metric: str, rows: str) -> Score | None:
    """One score of an accepted result, or None if it has none."""
    values = document["scores"].get(metric, {}).get(rows)
    if not isinstance(values, dict):
        return None
    known: dict[str, Any] = {f.name: values.get(f.name) for f in fields(Score)}
    known.update({name: nan for name, value in known.items() if value is None})
    return Score(**known)


def write_accepted(
    scores: Mapping[str, Mapping[str, Score]],
    file_sha256: str,
    date: str,
    note: str = "",
    path: Path = SHIPPED,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Make a result the accepted one.

    Parameters
    ----------
    scores
        Of physics alone, by metric, then by set of rows, as in `moesim.validate.report.Evaluation`.
    file_sha256
        Of the measurements: another file's scores are not compared.
    date, note
        When and why it was accepted.
    provenance
        Of the calibration whose errors on held-out runs are accepted.
    """
    learnt = provenance or {}
    document = {
        "file_sha256": file_sha256,
        "date": date,
        "note": note,
        "calibration": learnt.get("digest"),
        "held_out": learnt.get("held_out", {}),
        "scores": {
            metric: {name: _finite(asdict(found)) for name, found in table.items() if found.n}
            for metric, table in scores.items()
        },
    }
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    with atomic_write(path, "wb") as stream:
        cast("IO[bytes]", stream).write(text.encode())


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not isfinite(v) else v for name, v in values.items()}
