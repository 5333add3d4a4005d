"""How an engine is started with a plan."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moesim.errors import Fault


@dataclass(frozen=True, slots=True)
class Launch:
    """What a command line is made for.

    Parameters
    ----------
    model
        Folder or Hugging Face id, as engines take it.
    path
        The plan file.
    ranks, redundant
        Expert-parallel ranks, each with attention of its own, and physical experts beyond one of each.
    nodes
        Machines; with several, ``$NODE_RANK`` and ``$HEAD_NODE`` stand in the line.
    dispatch
        The rule the plan was made for, one of `moesim.layout.DISPATCH`.
    """

    model: str
    path: Path
    ranks: int
    redundant: int = 0
    nodes: int = 1
    dispatch: str = "even"


def line(*words: object) -> str:
    """A shell line; ``$`` names stay for the shell.

    >>> line("serve", "--plan", "my plan.json", "--rank", "$NODE_RANK")
    "serve --plan 'my plan.json' --rank $NODE_RANK"
    """
    return " ".join(_word(str(word)) for word in words)


def _word(text: str) -> str:
    return text if text in ("$NODE_RANK", "$HEAD_NODE", "$HEAD_NODE:5000") else shlex.quote(text)


def json_name(path: Path, where: str) -> list[Fault]:
    """What an engine that goes by the ending has against a path: SGLang 0.5.23, vllm-ascend 0.23.0.

    >>> print(json_name(Path("plan.txt"), "--emit")[0])
    --emit: the engine takes no other name for a plan (got 'plan.txt'); allowed: a name ending in .json
    """
    if path.name.endswith(".json"):
        return []
    message = "the engine takes no other name for a plan"
    return [Fault(message, where, str(path), "a name ending in .json")]


def vllm_line(launch: Launch, extra: Iterable[object]) -> str:
    """`vllm serve` with one data-parallel rank per expert-parallel rank."""
    words: list[object] = ["vllm", "serve", launch.model, "--tensor-parallel-size", 1]
    words += ["--data-parallel-size", launch.ranks]
    if launch.nodes > 1:
        local = launch.ranks // launch.nodes
        words += ["--data-parallel-size-local", local, "--data-parallel-address", "$HEAD_NODE"]
    text = line(*words, "--enable-expert-parallel", *extra)
    if launch.nodes > 1:
        text += f" --data-parallel-start-rank $((NODE_RANK * {launch.ranks // launch.nodes}))"
    return text


def compact(document: object) -> str:
    """JSON for a command line."""
    return json.dumps(document, separators=(",", ":"))
