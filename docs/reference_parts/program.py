"""The commands of `moesim` as data: names, options, defaults and help, read from the typer applications.

What typer or click make of them (their classes, the width of a terminal) plays no part, so that the same
program gives the same data under any version of either.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from moesim.cli.app import app
from moesim.cli.many import MANY


@dataclass(frozen=True, slots=True)
class Parameter:
    """An option or argument of a command.

    Parameters
    ----------
    names
        Spellings of an option, the longest first; of an argument its one name in capitals.
    kind
        What a value is: ``text``, ``path``, ``number``, ``whole number``; empty for a switch.
    default
        As typed; empty where there is none.
    several
        Whether it is given more than once, or takes several values in a row.
    """

    names: tuple[str, ...]
    help: str
    kind: str
    default: str
    required: bool
    several: bool

    @property
    def is_option(self) -> bool:
        """Whether it is spelled with dashes."""
        return self.names[0].startswith("-")


@dataclass(frozen=True, slots=True)
class Command:
    """One command: the words that call it, what it does, and what it takes."""

    words: tuple[str, ...]
    help: str
    parameters: tuple[Parameter, ...]

    @property
    def usage(self) -> str:
        """The line that calls it: arguments, needed options, and that there are others."""
        parts = ["moesim", *self.words]
        for p in self.parameters:
            if p.is_option and p.required:
                parts.append(f"{p.names[0]} {p.kind.upper().replace(' ', '-')}")
            elif not p.is_option:
                text = p.names[0] + ("..." if p.several else "")
                parts.append(text if p.required else f"[{text}]")
        return " ".join([*parts, "[OPTIONS]"])


def commands(application: typer.Typer = app, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command, groups in the order in which they are shown.

    >>> "predict" in {" ".join(command.words) for command in commands()}
    True
    """
    for info in application.registered_commands:
        assert info.callback is not None
        name = info.name or info.callback.__name__.replace("_", "-")
        yield _command(info.callback, (*words, name), info.help)
    for group in application.registered_groups:
        assert group.typer_instance is not None
        name = group.name or group.typer_instance.info.name
        yield from commands(group.typer_instance, (*words, str(name)))


def groups(application: typer.Typer = app, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """What is said of every group of commands."""
    info = application.info
    found = {words: info.help if isinstance(info.help, str) else ""}
    for group in application.registered_groups:
        assert group.typer_instance is not None
        name = group.name or group.typer_instance.info.name
        found |= groups(group.typer_instance, (*words, str(name)))
    return found


def _command(callback: Callable[..., Any], words: tuple[str, ...], text: str | None) -> Command:
    hints = typing.get_type_hints(callback, include_extras=True)
    made = []
    for name, parameter in inspect.signature(callback).parameters.items():
        hint, info = _split(hints[name])
        if info is not None and not info.hidden:
            made.append(_parameter(name, hint, info, parameter.default, words))
    # Arguments first, as in the line that calls the command.
    made.sort(key=lambda p: p.is_option)
    return Command(words, inspect.cleandoc(text or callback.__doc__ or ""), tuple(made))


def _split(hint: Any) -> tuple[Any, ParameterInfo | None]:
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, None
    kind, *notes = typing.get_args(hint)
    return kind, next((n for n in notes if isinstance(n, ParameterInfo)), None)


def _parameter(
    name: str,
    hint: Any,
    info: ParameterInfo,
    default: object,
    words: tuple[str, ...],
) -> Parameter:
    kind, several = _kind(hint)
    required = default is inspect.Parameter.empty or default is ...
    if isinstance(info, ArgumentInfo):
        names: tuple[str, ...] = (info.metavar or name.upper(),)
    else:
        assert isinstance(info, OptionInfo)
        # Inside Annotated, the first spelling stands where a default would.
        spellings = [d for d in (info.default, *(info.param_decls or ())) if isinstance(d, str)]
        given = [part for text in spellings for part in text.split("/") if part.startswith("-")]
        plain = f"--{name.replace('_', '-')}"
        names = tuple(given or ([plain, f"--no-{plain[2:]}"] if kind == "" else [plain]))
        kind = info.metavar or kind + _range(info.min, info.max)
    several = several or any(n in MANY.get(words[0], ()) for n in names)
    return Parameter(names, " ".join((info.help or "").split()), kind, _typed(default), required, several)


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f" up to {high:g}"
    return f" from {low:g}" if high is None else f" from {low:g} to {high:g}"


def _kind(hint: Any) -> tuple[str, bool]:
    """What a value is, and whether there may be several.

    >>> _kind(int | None), _kind(list[str]), _kind(bool)
    (('whole number', False), ('text', True), ('', False))
    """
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) in (list, tuple):
        return _kind(typing.get_args(hint)[0])[0], True
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint))), False
    return {bool: "", int: "whole number", float: "number", str: "text"}.get(hint, "path"), False


def _typed(default: object) -> str:
    if default in (None, False, True, inspect.Parameter.empty, ..., (), []) and not isinstance(
        default, int | float
    ):
        return ""
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, list | tuple):
        return " ".join(map(str, default))
    return str(default)
