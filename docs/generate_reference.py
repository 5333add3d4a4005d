"""Write the pages of docs/reference from the program itself: commands, names, schemas, metrics, documents.

Run ``python -m docs.generate_reference`` in the root of a checkout. A test compares the committed pages with
what this writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from inspect import cleandoc
from pathlib import Path

from docs.reference_parts import names, schemas, shapes
from docs.reference_parts.markdown import table
from docs.reference_parts.program import Command, Parameter, commands, groups
from moesim.cli.panels import GROUPED, panel_of

FOLDER = Path(__file__).parent / "reference"
COMMAND = "python -m docs.generate_reference"
_CLI = """
    Every command, as `moesim COMMAND --help` has it. All exit with 0 (ok), 1 (infeasible, or a failed
    check) or 2 (wrong input, every fault named). `--json` prints one JSON document on stdout
    ([documents](documents.md)); progress and warnings go to stderr. An option marked + is given again, or
    takes several values in a row.
    """
_HEAD = f"<!-- Written by `{COMMAND}`: change the code, not this page. -->\n\n"


def cli() -> str:
    """Every command, its arguments, options, defaults and help."""
    found, told = list(commands()), groups()
    parts = [
        "# Reference: the command line",
        cleandoc(_CLI),
        table(
            ["command", "what it does"],
            [[f"[`{' '.join(c.words)}`](#{anchor(c)})", c.help.split("\n")[0]] for c in found],
        ),
    ]
    group: tuple[str, ...] = ()
    for command in found:
        if command.words[:-1] != group:
            group = command.words[:-1]
            parts.append(f"*The commands of `moesim {' '.join(group)}`: {told[group]}*" if group else "")
        parts += [f"## moesim {' '.join(command.words)}", command.help, f"```text\n{command.usage}\n```"]
        parts += [table(["argument", "value", "meaning"], map(_row, _of(command, False)))]
        parts += _options(command)
    return _page(parts)


def _options(command: Command) -> list[str]:
    """A table of the options; of commands that have many, one for each group."""
    columns, options = ["option", "value", "default", "meaning"], _of(command, True)
    if command.words[0] not in GROUPED:
        return [table(columns, map(_row, options))]
    panels: dict[str, list[Parameter]] = {}
    for option in options:
        panels.setdefault(next(filter(None, map(panel_of, option.names)), "Others"), []).append(option)
    return [f"**{panel}**\n\n{table(columns, map(_row, found))}" for panel, found in panels.items()]


def anchor(command: Command) -> str:
    """Where a command's section is on the page."""
    return "-".join(("moesim", *command.words))


def _of(command: Command, options: bool) -> list[Parameter]:
    return [p for p in command.parameters if p.is_option is options]


def _row(p: Parameter) -> list[str]:
    spelled = ", ".join(f"`{name}`" for name in p.names) + (" +" if p.several else "")
    if not p.is_option:
        return [spelled, p.kind + ("" if p.required else ", may be left out"), p.help]
    default = "needed" if p.required else f"`{p.default}`" if p.default else ""
    return [spelled, p.kind or "switch", default, p.help]


def _page(parts: Iterable[str]) -> str:
    return _HEAD + "\n\n".join(part for part in parts if part) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli,
    "python.md": lambda: _page(names.page()),
    "hardware-schema.md": lambda: _page(schemas.hardware()),
    "study-schema.md": lambda: _page(schemas.study()),
    "model.md": lambda: _page(shapes.model()),
    "trace-schema.md": lambda: _page(shapes.files()),
    "documents.md": lambda: _page(schemas.documents()),
}


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(exist_ok=True)
    for name, write in PAGES.items():
        (FOLDER / name).write_text(write(), encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")


if __name__ == "__main__":
    main()
