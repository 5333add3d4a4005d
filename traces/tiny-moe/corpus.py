"""Six kinds of text, each in a part to train on and a part held out.

Python and documentation come from the running interpreter's own standard library, licences from the
interpreter and `/usr/share/common-licenses`, and arithmetic, JSON and lists are drawn from a seed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import random
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data import topics

KINDS = ("python", "docs", "licences", "arithmetic", "json", "lists")
#: Share of the tokens of each kind in training.
SHARES = (0.40, 0.20, 0.06, 0.12, 0.12, 0.10)
_STDLIB = Path(sysconfig.get_path("stdlib"))
_LICENCES = Path("/usr/share/common-licenses")
#: Not prose or code that a person reads: tables, fixtures, other projects' files.
_SKIPPED = {
    "site-packages",
    "test",
    "tests",
    "encodings",
    "pydoc_data",
    "ensurepip",
    "lib2to3",
    "__pycache__",
}
_HELD_OUT_LICENCES = ("CC0-1.0", "LICENSE.txt")
_DOCUMENTS = {False: 6000, True: 300}


def texts(held_out: bool) -> dict[str, list[str]]:
    """Documents of each kind, of the part to train on or of the part held out."""
    sources = [p.read_text("utf-8", "replace") for p in _python_files() if _is_held_out(p.name) == held_out]
    topic_texts = [t for name, t in sorted(topics.topics.items()) if _is_held_out(name) == held_out]
    made = {
        kind: [make(random.Random(f"{kind} {held_out} {i}")) for i in range(_DOCUMENTS[held_out])]
        for kind, make in _MAKERS.items()
    }
    return {
        "python": sources,
        "docs": topic_texts + [d for s in sources for d in _docstrings(s)],
        "licences": list(_licences(held_out)),
        **made,
    }


def digest(parts: dict[str, list[str]]) -> str:
    """SHA-256 of a part, to tell whether another machine's corpus is the same."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] < 26  # one in ten


def _python_files() -> list[Path]:
    found = (p.relative_to(_STDLIB) for p in _STDLIB.rglob("*.py"))
    return [_STDLIB / p for p in sorted(p for p in found if not _SKIPPED & set(p.parts))]


def _docstrings(source: str) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)) and len(text) > 100:
            yield inspect.cleandoc(text)


def _licences(held_out: bool) -> Iterator[str]:
    files = [p for p in sorted(_LICENCES.iterdir()) if not p.is_symlink()] + [_STDLIB / "LICENSE.txt"]
    yield from (p.read_text("utf-8", "replace") for p in files if (p.name in _HELD_OUT_LICENCES) == held_out)


_WORDS = (  # noqa: SIM905 - a list would take a page
    "amber anchor apple arch autumn basket birch bread bridge bronze candle canyon cedar cherry clay "
    "cliff cloud copper coral cotton creek crystal delta desert ember engine falcon feather fern field "
    "flint forest garden garnet glacier grain granite harbor hazel honey island ivory jade jasmine "
    "juniper kettle lake lantern laurel lemon linen maple marble meadow mirror mist moss needle north oak "
    "ocean olive onyx orchid paper pearl pebble pepper pine plum pond quartz raven reed ridge river rose "
    "saddle saffron sage sand shell silver sparrow spring stone storm summer thistle thunder timber tulip "
    "valley velvet violet walnut water willow winter wool"
).split()


def _arithmetic(draw: random.Random) -> str:
    lines = []
    for _ in range(draw.randint(20, 40)):
        a, b = draw.randint(0, 99), draw.randint(0, 99)
        op = draw.choice("+-*")
        value = {"+": a + b, "-": a - b, "*": a * b}[op]
        name = {"+": "plus", "-": "minus", "*": "times"}[op]
        lines.append(
            draw.choice(
                (
                    f"{a} {op} {b} = {value}",
                    f"What is {a} {name} {b}? It is {value}.",
                    f"{a} {op} {b} {'is less than' if value < 100 else 'is at least'} 100",
                    f"{value} = {a} {op} {b}",
                )
            )
        )
    return "\n".join(lines)


def _value(draw: random.Random, depth: int) -> object:
    choice = draw.randrange(5 if depth > 2 else 7)
    if choice < 2:
        return draw.choice(_WORDS)
    if choice == 2:
        return draw.choice((True, False, None))
    if choice == 3:
        return draw.randint(0, 9999)
    if choice == 4:
        return round(draw.uniform(0, 100), 2)
    if choice == 5:
        return [_value(draw, depth + 1) for _ in range(draw.randint(1, 4))]
    return _record(draw, depth + 1)


def _record(draw: random.Random, depth: int = 0) -> dict[str, object]:
    keys = ("id", "name", "colour", "count", "price", "tags", "owner", "active", "size", "parts", "place")
    record: dict[str, object] = {k: _value(draw, depth) for k in draw.sample(keys, draw.randint(2, 5))}
    if depth == 0:
        record = {"id": draw.randint(1, 9999), **record}
    return record


def _json(draw: random.Random) -> str:
    records = [_record(draw) for _ in range(draw.randint(3, 8))]
    if draw.random() < 0.5:
        return json.dumps(records, indent=2)
    return "\n".join(json.dumps(r) for r in records)


def _lists(draw: random.Random) -> str:
    blocks = []
    for _ in range(draw.randint(3, 6)):
        words = draw.sample(_WORDS, draw.randint(4, 12))
        first = words[0]
        style: Callable[..., str] = draw.choice(
            (
                lambda i, w: f"{i}. {w}",
                lambda _, w: f"- {w}",
                lambda i, w: f"{w}: {'*' * (i % 5 + 1)}",
                lambda _, w, first=first: f"* {w} and {first}",
            )
        )
        title = draw.choice(("Words in order", "Words as drawn"))
        words = sorted(words) if title == "Words in order" else words
        blocks.append(title + ":\n" + "\n".join(style(i, w) for i, w in enumerate(words, 1)))
    return "\n\n".join(blocks)


_MAKERS = {"arithmetic": _arithmetic, "json": _json, "lists": _lists}
