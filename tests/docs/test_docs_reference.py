"""The generated pages are those that the program writes, and do not depend on where they are written."""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate_reference import COMMAND, FOLDER, PAGES
from docs.reference_parts.program import commands

ROOT = Path(__file__).resolve().parents[2]
PARTS = [
    "generate_reference",
    *(f"reference_parts.{n}" for n in ("markdown", "names", "program", "schemas", "shapes", "words")),
]


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_what_the_program_writes(name):
    written = PAGES[name]()
    assert (FOLDER / name).read_text(encoding="utf-8") == written, (
        f"run `{COMMAND}` and commit docs/reference"
    )


def test_nothing_else_lies_there():
    assert sorted(p.name for p in FOLDER.iterdir()) == sorted(PAGES)


@pytest.mark.parametrize("part", PARTS)
def test_examples(part):
    failed, tried = doctest.testmod(importlib.import_module(f"docs.{part}"))
    assert (failed, tried > 0) == (
        0,
        part not in ("generate_reference", "reference_parts.schemas", "reference_parts.shapes"),
    )


def test_a_narrow_terminal_and_other_hash_seeds_change_nothing():
    program = "from docs.generate_reference import PAGES; import sys; sys.stdout.write(PAGES['cli.md']())"
    environment = os.environ | {"COLUMNS": "40", "PYTHONHASHSEED": "7", "NO_COLOR": "1", "LANG": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == (FOLDER / "cli.md").read_text(encoding="utf-8")


def test_every_option_is_explained():
    silent = [
        (*c.words, *p.names) for c in commands() for p in c.parameters if p.is_option and len(p.help) < 5
    ]
    assert silent == []
