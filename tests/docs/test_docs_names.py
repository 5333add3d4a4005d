"""What the documentation calls by its Python name exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from moesim.trace import Header

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("README.md")), *sorted((ROOT / "docs").rglob("*.md"))]
_NAME = re.compile(r"`(moesim(?:\.[A-Za-z_][A-Za-z0-9_]*)+)(?:\([^`]*\))?`")
_PATH = re.compile(
    r"`((?:moesim|hardware|traces|tests|benchmarks|docs|reports)/[A-Za-z0-9_./-]+\.[a-z0-9]+)`"
)


PLUG_INS = (
    "gates",
    "predictors",
    "residencies",
    "executors",
    "batchers",
    "placements",
    "precisions",
    "trace_readers",
)
#: Groups of plug-ins, and keys of a file's metadata, which look like names of Python.
_OTHER = {
    *(f"moesim.{name}" for name in PLUG_INS),
    *(f"moesim.{name}" for name in Header.__dataclass_fields__),
    *(f"moesim.{name}" for name in ("requests", "batcher", "concurrency", "prefix_block_tokens")),
}


def _exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if not hasattr(found, part) and part not in fields:
                return False
            found = getattr(found, part, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_names_and_paths_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = [
        name for name in dict.fromkeys(_NAME.findall(text)) if name not in _OTHER and not _exists(name)
    ]
    missing += [
        path
        for path in dict.fromkeys(_PATH.findall(text))
        if "NAME" not in path and not (ROOT / path).exists()
    ]
    assert missing == []


def test_a_name_that_is_not_there_is_found():
    assert all(map(_exists, ("moesim.metrics.e2el_s", "moesim.hardware.types.Leg.spread")))
    assert not any(map(_exists, ("moesim.metrics.e3el_s", "moesim.nowhere.at_all")))
