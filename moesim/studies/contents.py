"""What the files of a study hold, as hashes: a configuration is what its files say, not their names."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.files import data_dir
from moesim.hardware import load_hardware
from moesim.hardware.catalogue import find
from moesim.model import load_model

#: Settings that name a file, and nothing else.
FILES = ("trace", "plan", "calibration", "requests.path")


def located(text: str, folder: Path, *, named: bool) -> str:
    """A path as the study file means it, relative to its folder.

    Parameters
    ----------
    named
        Whether it may also be a name of the catalogue, which wins over a file without suffix or folder.
    """
    path = folder / Path(text).expanduser()
    if named and not (path.exists() and ("/" in text or path.suffix in (".yaml", ".yml", ".json"))):
        return text
    return str(path.resolve())


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of names and contents of all files of a folder.

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        inside = sorted(p for p in path.rglob("*") if p.is_file())
    except OSError as error:
        raise ConfigError(Fault(f"cannot be read: {(error.strerror or str(error)).lower()}"), path) from None
    whole = hashlib.sha256()
    for file in inside:
        whole.update(f"{file.relative_to(path).as_posix()}\0{digest_of(file)}\0".encode())
    return whole.hexdigest()


def hardware_digest(path: Path) -> str:
    """SHA-256 of a description together with the efficiency curves and measured kernels that it names.

    What it names is looked for among all words of the text: one too many only tells like files apart.
    """
    own = data_dir("hardware")
    known: dict[str, set[Path]] = {}
    for folder in (own, path.parent):
        for file in (*(folder / "efficiency").glob("*.yaml"), *(folder / "kernels").glob("*.json")):
            known.setdefault(file.stem, set()).add(file)
    needed, waiting = {path}, [path]
    while waiting:
        text = waiting.pop().read_text(encoding="utf-8", errors="replace")
        named = set().union(*(known.get(word, ()) for word in set(re.findall(r"[\w.+-]+", text))))
        waiting += [file for file in named - needed if file.suffix == ".yaml"]
        needed |= named
    hashes = sorted(digest_of(file) for file in needed - {path})
    return hashlib.sha256("".join([digest_of(path), *hashes]).encode()).hexdigest()


@functools.lru_cache(maxsize=4096)
def model_content(name: str) -> dict[str, str]:
    """Name and hash of a model."""
    model = load_model(name)
    return {"name": model.name, "sha256": digest_of(Path(model.path)) if model.path else ""}


@functools.lru_cache(maxsize=4096)
def hardware_content(name: str) -> dict[str, str]:
    """Name and hash of a machine."""
    return {"name": load_hardware(name).name, "sha256": hardware_digest(find(name))}


@functools.lru_cache(maxsize=4096)
def file_content(path: str) -> dict[str, str]:
    """Hash of a file."""
    return {"sha256": digest_of(Path(path))}


@functools.lru_cache(maxsize=256)
def calibration_content(path: str | None) -> dict[str, str]:
    """Hash of a calibration: a user's own, the shipped one by default, or none."""
    if path == "none":
        return {"sha256": "none"}
    own = data_dir("hardware") / "serving" / "calibration.json"
    return {"sha256": digest_of(own if path is None else Path(path))}


def content_of(role: str, name: Any) -> dict[str, str] | None:  # noqa: ANN401 - a setting
    """What the file or catalogue entry behind a setting holds; None where nothing is named."""
    if role == "calibration":
        return calibration_content(name)
    if name is None:
        return None
    return {"model": model_content, "hardware": hardware_content}.get(role, file_content)(name)


def forget() -> None:
    """Look at all files anew."""
    for cached in (model_content, hardware_content, file_content, calibration_content):
        cached.cache_clear()
