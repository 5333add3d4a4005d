"""The last result that was accepted: what a change of the model is held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write

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


def write_accepted(
    scores: Mapping[str, Any], file_sha256: str, date: str, note: str = "", path: Path = SHIPPED
) -> None:
    """Make a result the accepted one.

    Parameters
    ----------
    scores
        By metric, then by set of rows, as in the ``summary`` of `moesim.validate.report.Evaluation`.
    file_sha256
        Of the measurements: another file's scores are not compared.
    date, note
        When and why it was accepted.
    """
    document = {"file_sha256": file_sha256, "date": date, "note": note, "scores": scores}
    with atomic_write(path) as stream:
        stream.write(json.dumps(document, indent=2) + "\n")  # type: ignore[call-overload]
