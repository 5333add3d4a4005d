"""The part of the reference about Python: what `import moesim` offers, from signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import Any

import moesim as ms
from docs.reference_parts.markdown import code, table

#: Names by what one does with them, for the order of the page.
ORDER = ("functions", "values", "results", "errors")


def page() -> Iterator[str]:
    """The page, part by part."""
    yield "# Reference: Python"
    yield cleandoc(
        """
        `import moesim as ms` offers the names below, and nothing is loaded before it is used. Their
        docstrings, shortened; examples run as tests. Rooms such as `moesim.placement` or `moesim.requests`
        have more, in the docstrings of their `__init__`.
        """
    )
    members = {name: getattr(ms, name) for name in ms.__all__ if name != "__version__"}
    rooms = {name: members.pop(name) for name, found in [*members.items()] if inspect.ismodule(found)}
    sections = {title: [n for n, found in members.items() if _kind(found) == title] for title in ORDER}
    rows = [[f"[`{n}`](#{n.lower()})", _summary(members[n])] for title in ORDER for n in sections[title]]
    yield table(["name", "what it is"], rows + [[f"[`{n}`](#{n})", _summary(r)] for n, r in rooms.items()])
    for title, names in sections.items():
        yield f"## {title.capitalize()}"
        for name in names:
            yield from described(name, members[name])
    for name, room in rooms.items():
        yield f"## {name}\n\n{_summary(room)}"
        for inner in room.__all__:
            if inspect.isfunction(getattr(room, inner)):
                yield from described(f"{name}.{inner}", getattr(room, inner))


def described(name: str, member: Any) -> Iterator[str]:
    """A section about one name: signature, what it does, parameters, errors, example."""
    yield f"### {name}"
    yield f"```py\n{signature(name, member)}\n```"
    text = numpydoc(member)
    yield text[""]
    for title in ("Parameters", "Attributes"):
        yield table(["parameter", "meaning"], entries(text.get(title, "")))
    yield from (f"**{title}** {_flat(text[title])}" for title in ("Returns", "Yields") if title in text)
    yield table(["raises", "when"], entries(text.get("Raises", "")))
    if isinstance(member, type) and not issubclass(member, BaseException | Warning):
        yield table(["member", "meaning"], _members(member))
    if "Examples" in text:
        yield f"```pycon\n{text['Examples'].strip()}\n```"


def signature(name: str, member: Any) -> str:
    """The line that calls a function or makes a value, with types as they are written."""
    if isinstance(member, type) and issubclass(member, BaseException):
        return f"class {name}({', '.join(base.__name__ for base in member.__bases__)})"
    found = []
    star = False
    for p in inspect.signature(member).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not star:
            star = True
            found.append("*")
        kind = p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", "")
        text = p.name + (f": {kind}" if p.annotation is not p.empty else "")
        if p.default is not p.empty:
            text += f" = {_default(p.default)}"
        found.append({p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + text)
    back = inspect.signature(member).return_annotation
    gives = "" if isinstance(member, type) else f" -> {back if isinstance(back, str) else ''}"
    if isinstance(member, type):
        name = f"class {name}"
    line = f"{name}({', '.join(found)}){gives}"
    return (
        line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {text},\n" for text in found) + f"){gives}"
    )


def _default(value: object) -> str:
    if type(value).__repr__ is object.__repr__ or callable(value) or "factory" in repr(value):
        return "..."
    return repr(value)


def numpydoc(member: Any) -> Mapping[str, str]:
    """Sections of a docstring by title; what comes before the first is under an empty one.

    >>> sorted(numpydoc(ms.Workload))[:2]
    ['', 'Parameters']
    """
    doc = cleandoc(member.__doc__ or "")
    pieces = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", doc, flags=re.MULTILINE)
    sections = {"": pieces[0]} | dict(zip(pieces[1::2], pieces[2::2], strict=True))
    sections[""] = code(sections[""]).strip()
    return sections


def entries(text: str) -> list[list[str]]:
    r"""Name and meaning of every entry of a section.

    >>> entries("a, b\n    What they are.\n    More.\nc : int\n    What it is.")
    [['`a`, `b`', 'What they are. More.'], ['`c`', 'What it is.']]
    """
    found: list[list[str]] = []
    for line in text.splitlines():
        if line[:1].strip():
            names = line.split(" : ")[0].split(", ")
            found.append([", ".join(f"`{name}`" for name in names), ""])
        elif line.strip() and found:
            found[-1][1] = f"{found[-1][1]} {code(line.strip())}".strip()
    return found


def _members(member: type) -> list[list[str]]:
    """Properties and methods of a class that have a docstring, in order."""
    found = []
    fields = {f.name for f in dataclasses.fields(member)} if dataclasses.is_dataclass(member) else set()
    for name, value in vars(member).items():
        if name.startswith("_") or name in fields:
            continue
        inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if isinstance(inner, property) or inspect.isfunction(inner):
            call = "" if isinstance(inner, property) else "()"
            found.append([f"`{name}{call}`", _summary(inner)])
    return found


def _kind(member: Any) -> str:
    if not isinstance(member, type):
        return "functions"
    if issubclass(member, BaseException):
        return "errors"
    return "results" if member.__name__ in ("Placed", "Prediction") else "values"


def _summary(member: Any) -> str:
    return code(cleandoc(member.__doc__ or "").split("\n\n")[0].replace("\n", " "))


def _flat(text: str) -> str:
    return "; ".join(f"{name} {meaning}" if meaning else name for name, meaning in entries(text))
