"""Every command that the documentation shows is one that the program reads, whether it is run or not."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from docs.reference_parts.program import commands
from moesim.cli.app import app
from moesim.cli.many import spread

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "reports" / "README.md"]
_BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROGRAM = typer.main.get_command(app)


def _shown(page: Path) -> list[str]:
    """Commands in fenced blocks, lines that go on joined."""
    found = []
    for language, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in ("py", "python", "pycon", "yaml", "json") or page.parent.name == "reference":
            continue
        for line in re.sub(r" *\\\n\s*", " ", block).splitlines():
            prompt = r"^\$ moesim " if language == "console" else r"^(?:\$ )?moesim "
            if re.match(prompt, line):
                found += re.split(r" && |; ", line.removeprefix("$ "))
    return [command for command in found if command.startswith("moesim ")]


def _parse(command: str) -> None:
    """Read a command as the program does, up to where it would run; what may be left out is taken along."""
    words = shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", command), comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    words = words[: words.index("|")] if "|" in words else words
    now, context, rest = _PROGRAM, None, spread(words)
    while hasattr(now, "commands") and rest and not rest[0].startswith("-"):
        now, rest = now.commands[rest[0]], rest[1:]
    if hasattr(now, "commands") or "--help" in rest or "-h" in rest:
        return
    context = now.make_context(now.name, rest)
    context.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_are_read(page):
    wrong = []
    for command in _shown(page):
        try:
            _parse(command)
        except Exception as error:
            wrong.append(f"{command}: {getattr(error, 'message', None) or error!r}")
    assert wrong == []


@pytest.mark.parametrize(
    "command",
    [
        "moesim predict --modell x --hardware y",
        "moesim predict --model x",
        "moesim foresee",
        "moesim trace look x",
    ],
)
def test_a_wrong_command_is_found(command):
    with pytest.raises(Exception, match=r".") as found:
        _parse(command)
    assert not isinstance(found.value, AttributeError)


def test_the_walk_sees_what_the_program_reads():
    """The reference is made of signatures; the program that reads the command line must agree."""
    for command in commands():
        made = _PROGRAM
        for word in command.words:
            made = made.commands[word]
        read = {
            n for p in made.params if not p.hidden for n in (*p.opts, *p.secondary_opts) if n.startswith("-")
        }
        assert {name for p in command.parameters if p.is_option for name in p.names} == read, command.words
        needed = {p.opts[0] for p in made.params if p.required and p.opts[0].startswith("-")}
        assert {p.names[0] for p in command.parameters if p.required and p.is_option} == needed
