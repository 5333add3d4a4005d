"""Documentation that runs: Python blocks are executed, console blocks are replayed.

What a line like ``print(x)  # 3`` promises is what it prints.

A console block shows commands after ``$`` and what they print; ``...`` in the output stands for anything.
A line that ends in a backslash goes on, and ``> FILE`` keeps what a command prints on stdout.
Those of the README are run as processes of their own, as a newcomer runs them, the others in this one.
Paths are relative to a scratch folder in which earlier blocks of the same page left their files. A block
preceded by ``<!-- not run: reason -->`` is skipped.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import run_here

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n+)?^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MATCH = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _blocks(page: Path) -> list[tuple[str, str]]:
    return [(m[2], m[3]) for m in BLOCK.finditer(page.read_text(encoding="utf-8")) if not m[1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_page(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    names: dict[str, object] = {"__name__": "docs"}
    for kind, text in _blocks(page):
        if kind == "console":
            _replay(text, _process if page == ROOT / "README.md" else run_here)
            continue
        exec(compile(text, str(page), "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        for promised in re.findall(r"^ *print\(.*\)  # (.*)$", text, flags=re.MULTILINE):
            assert printed.pop(0) == promised


def _process(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moesim", *words],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"NO_COLOR": "1"},
        check=False,
    )


def _replay(text: str, run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = re.sub(r" *\\\n *", " ", part).partition("\n")
        words = shlex.split(command)
        if words[:1] != ["moesim"]:
            continue
        words, kept = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, None)
        done = run(*words[1:])
        if kept is not None:
            Path(kept).write_text(done.stdout, encoding="utf-8")
        printed = (done.stdout if kept is None else "") + done.stderr
        assert doctest.OutputChecker().check_output(expected, printed, MATCH), f"$ {command}\n{printed}"


def test_the_readme_shows_the_newcomers_commands_first():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = text.index("pip install . && moesim demo")
    assert first < 1500
    assert text.index("pip install '.[test]' && pytest") < 2500
