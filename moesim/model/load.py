"""Find a model: a catalogue name or Hugging Face id, a ``config.json``, or the folder that holds one."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault, UnknownNameError
from moesim.model.hf import from_config
from moesim.model.spellings import SPELLINGS
from moesim.model.types import Model

CATALOGUE = Path(__file__).resolve().parent / "catalogue"

MAX_NAME = 100

#: A config is a few kilobytes; lists of excluded modules reach some hundred.
MAX_CONFIG_BYTES = 16 * 2**20


def names() -> list[str]:
    """Names of the catalogue, in order."""
    return sorted(p.stem for p in CATALOGUE.glob("*.json"))


def load_model(name: str | os.PathLike[str]) -> Model:
    """Load a model.

    Parameters
    ----------
    name
        A catalogue name (``deepseek-v3``), a Hugging Face id of any owner (``deepseek-ai/DeepSeek-V3``), the
        path of a ``config.json``, or a folder that holds one. Upper and lower case are the same in names. A
        path with a separator wins over an id of the same spelling.

    Returns
    -------
    Model

    Raises
    ------
    UnknownNameError
        If it is neither a file nor in the catalogue; the nearest names are given.
    ConfigError
        If the file cannot be read as a model config.

    Examples
    --------
    >>> model = load_model("Qwen/Qwen3-30B-A3B")
    >>> model.name, model.num_layers, model.num_experts, model.top_k
    ('qwen3-30b-a3b', 48, 128, 8)
    """
    text = os.fspath(name)
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - unlike Path's, it never raises
    # A path that exists is meant, even if an id is spelled the same; a bare name is the catalogue's.
    config = _config_at(path) if text and path.name != text else None
    known = catalogue_name(text)
    if config is None and known:
        return _from_catalogue(known)
    config = config or (_config_at(path) if text else None)
    if config:
        return load_config(config)
    if text and _is_folder(path):
        raise ConfigError(Fault("the folder holds no config.json", allowed="a Hugging Face folder"), text)
    if text.endswith(".json") or text.startswith((".", "/", "~")):
        raise ConfigError(Fault("there is no such file", allowed="a config.json or a catalogue name"), text)
    hint = "see `moesim model list`, or give a config.json"
    raise UnknownNameError("model", text[:MAX_NAME], [*names(), *SPELLINGS], hint)


def _config_at(path: Path) -> Path | None:
    """The config file that a path is, or that a folder holds."""
    file = path / "config.json" if _is_folder(path) else path
    try:
        return file if file.is_file() else None
    except (OSError, ValueError):
        return None


def _is_folder(path: Path) -> bool:
    """Whether the path is a folder; one that the system refuses is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def catalogue_name(text: str) -> str | None:
    """Return the catalogue name that `text` stands for, or None; owners and case do not matter.

    >>> catalogue_name("anyone/DeepSeek-V3"), catalogue_name("no-such-model")
    ('deepseek-v3', None)
    """
    folded = text.strip().lower()
    if folded.count("/") == 1:
        folded = folded.split("/")[1]
    folded = SPELLINGS.get(folded, folded)
    plain = (
        0 < len(folded) <= MAX_NAME
        and all(c.isalnum() or c in "-._" for c in folded)
        and not folded.startswith(".")
    )
    return folded if plain and (CATALOGUE / f"{folded}.json").is_file() else None


@lru_cache(maxsize=128)
def _from_catalogue(name: str) -> Model:
    path = CATALOGUE / f"{name}.json"
    return from_config(read_config(path), name=name, path=str(path))


def load_config(path: Path) -> Model:
    """Load a ``config.json``, named after the file, or after its folder if the file has the usual name."""
    stem = path.resolve().parent.name if path.name == "config.json" else path.stem
    return from_config(read_config(path), name=stem.split("--")[-1], path=str(path))


def read_config(path: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Parse a config file.

    Raises
    ------
    ConfigError
        If it cannot be read, is larger than 16 MiB, or is no JSON.
    """
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            fault = Fault(
                "is too large for a config", value=f"{size} bytes", allowed=f"{MAX_CONFIG_BYTES} bytes"
            )
            raise ConfigError(fault, path)
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot be read: {(error.strerror or str(error)).lower()}", path) from None
    except json.JSONDecodeError as error:
        fault = Fault(f"is no JSON: {error.msg}", f"line {error.lineno}, column {error.colno}")
        raise ConfigError(fault, path) from None
    except (ValueError, RecursionError):
        raise ConfigError("is no JSON that can be read: wrong encoding, or nested too deeply", path) from None
