"""Prompts from a file: one per line, or JSON lines with a ``prompt``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from moesim.errors import ConfigError, Fault

MAX_BYTES = 256 * 2**20
_SHOWN = 5


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """Read prompts.

    Parameters
    ----------
    path
        UTF-8 text. Files named ``.jsonl`` hold one JSON object per line, with the text under ``prompt``;
        in any other file every line is a prompt. Blank lines are left out.

    Returns
    -------
    list of str
        At least one prompt.

    Raises
    ------
    ConfigError
        If the file cannot be read or holds no prompt, or naming the lines that are none.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(
                Fault("is larger than a file of prompts may be", "--prompts", file.stat().st_size, "256 MiB"),
                file,
            )
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(Fault("is not UTF-8 text", "--prompts"), file) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(Fault(f"cannot be read: {reason}", "--prompts"), file) from None
    # Not splitlines: a form feed or a line separator inside a prompt ends no line.
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ConfigError(Fault("holds no prompt", "--prompts"), file)
    if file.suffix != ".jsonl":
        return [line.removesuffix("\r") for _, line in lines]
    prompts, faults = [], []
    for number, line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        prompt = entry.get("prompt") if isinstance(entry, dict) else None
        if isinstance(prompt, str) and prompt:
            prompts.append(prompt)
        else:
            faults.append(
                Fault("has no prompt", f"line {number}", line[:40], 'an object with "prompt": text')
            )
    if faults:
        more = len(faults) - _SHOWN
        raise ConfigError(faults[:_SHOWN] + ([Fault(f"and {more} more lines")] if more > 0 else []), file)
    return prompts
