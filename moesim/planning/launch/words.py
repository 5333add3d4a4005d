"""Shell lines, and what a launch is made of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: Placeholders of addresses: the shell fills them in. ``HEAD_NODE`` is the first node of an instance,
#: ``LOCAL_IP`` the node a line runs on, ``SERVER_3`` the head of the fourth instance.
_PLACEHOLDER = re.compile(r"^[\w:/.=-]*\$[A-Z][A-Z0-9_]*(:\d+)?$")
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Command:
    """One line to start.

    Parameters
    ----------
    role
        ``serve``, ``prefill``, ``decode`` or ``router``.
    node
        Which node of its instance it runs on, 0 first; None for all, as a scheduler of jobs starts them.
    nodes
        Nodes of the instance.
    instances
        How many instances are started with it, each with addresses of its own.
    devices
        Devices of the node that the instance takes; empty for all of them.
    text
        The line.
    """

    role: str
    node: int | None
    nodes: int
    instances: int
    devices: tuple[int, ...]
    text: str

    @property
    def where(self) -> str:
        """Where it runs, in words."""
        if self.role == "router":
            return "on any node"
        parts = [f"{self.instances} instance" + ("s" if self.instances > 1 else "")]
        if self.nodes > 1:
            which = "all" if self.node is None else f"number {self.node} of the"
            parts.append(f"{which} {self.nodes} nodes of each")
        if self.devices:
            span = (
                f"s {self.devices[0]} to {self.devices[-1]}"
                if len(self.devices) > 1
                else f" {self.devices[0]}"
            )
            parts.append(f"device{span}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "role": self.role,
            "node": self.node,
            "nodes": self.nodes,
            "instances": self.instances,
            "devices": list(self.devices),
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Launch:
    """How a candidate is started.

    Parameters
    ----------
    engine
        ``vllm``, ``sglang`` or ``trtllm``.
    documented
        The engine's documentation the flags were checked against.
    commands
        Lines to start.
    files
        Files that these lines read, by name.
    notes
        What they need, or cannot do.
    """

    engine: str
    documented: str
    commands: tuple[Command, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "engine": self.engine,
            "documented": self.documented,
            "commands": [command.to_dict() for command in self.commands],
            "files": sorted(self.files),
            "notes": list(self.notes),
        }


def line(words: Iterable[object], env: Mapping[str, object] | None = None) -> str:
    r"""A shell line, continued where it is long; an option stays with its value, ``$`` names stay.

    >>> print(line(["serve", "a b", "--to", "$HEAD_NODE:5000"], {"X": 1}))
    X=1 serve 'a b' --to $HEAD_NODE:5000
    """
    groups: list[str] = [f"{name}={_word(str(value))}" for name, value in (env or {}).items()]
    for word in map(str, words):
        text = _word(word)
        follows = bool(groups) and not word.startswith("-") and groups[-1].startswith("-")
        if follows and " " not in groups[-1]:
            groups[-1] += f" {text}"
        else:
            groups.append(text)
    rows = [""]
    for group in groups:
        if rows[-1] and len(rows[-1]) + len(group) + 1 > _WIDTH - 2:
            rows.append("   ")
        rows[-1] += (" " if rows[-1] else "") + group
    return " \\\n".join(rows)


def _word(text: str) -> str:
    return text if _PLACEHOLDER.match(text) else shlex.quote(text)
