"""YAML of a stranger's plan file, without what makes YAML dangerous or ambiguous."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from moesim.errors import Fault
from moesim.placement.files.read import NotAPlanError, check_values
from moesim.placement.files.target import Target

_INTEGER = r"(?:0|[1-9][0-9]{0,17})"
_PLAIN_INTEGER = re.compile(f"-?{_INTEGER}")
#: A list of ids in brackets, as a plan is full of; JSON reads them a hundred times faster than a scanner.
_BLANK = r"[ \t\r\n]*"
_IDS = re.compile(rf"\[{_BLANK}{_INTEGER}{_BLANK}(?:,{_BLANK}{_INTEGER}{_BLANK})*\]")
_DEEPEST = 8


def load_yaml(content: bytes, target: Target, path: Path) -> Any:  # noqa: ANN401 - any YAML tree
    """The document of a YAML text, built from its events.

    Anchors, aliases, tags, merge keys, several documents and deep nesting are refused, so that a text cannot
    stand for more than it holds. Plain decimal numbers become int; every other scalar stays text, so that
    what YAML 1.1 and 1.2 read differently (``0o10``, ``1_0``, ``010``, ``on``) is no number here.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    check_values(content, target, path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise NotAPlanError(Fault("is no UTF-8 text"), path) from None
    name = "ids"
    while name in text:
        name += "x"
    lists: list[list[int]] = []

    def take(match: re.Match[str]) -> str:
        lists.append(json.loads(match[0]))
        return f"[{name}{len(lists) - 1}]"

    frame = _IDS.sub(take, text)
    check_values(frame.encode(), target, path, scanned=True)
    held = {f"{name}{i}": ids for i, ids in enumerate(lists)}
    try:
        return _Builder(held).build(YAML(typ="safe", pure=True).parse(frame))
    except _YamlFaultError as error:
        raise NotAPlanError(error.fault, path) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise NotAPlanError(Fault(f"is not YAML: {error.problem or error.context}", place), path) from None
    except (YAMLError, ValueError, RecursionError, AttributeError, TypeError, LookupError) as error:
        # The scanner trips over some malformed directives and escapes.
        reason = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise NotAPlanError(Fault(f"is not YAML: {reason}"), path) from None


class _YamlFaultError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault


class _Builder:
    """Plain values from YAML events, with lists of ids put back where their names stand."""

    def __init__(self, held: dict[str, list[int]]) -> None:
        self._held = held

    def build(self, events: Any) -> Any:  # noqa: ANN401 - ruamel's own types
        from ruamel.yaml import events as ev

        root: list[Any] = []
        open_nodes: list[_Node] = [_Node(root, False)]
        documents = 0
        for event in events:
            if isinstance(event, ev.DocumentStartEvent):
                documents += 1
                self._refuse(documents > 1, "holds several documents", event)
            elif isinstance(event, ev.NodeEvent):
                self._refuse(isinstance(event, ev.AliasEvent) or bool(event.anchor), "has anchors", event)
                tagged = getattr(event, "tag", None)
                self._refuse(tagged is not None, "has tags", event)
                if isinstance(event, ev.ScalarEvent):
                    open_nodes[-1].put(_scalar(event), event)
                    continue
                self._refuse(len(open_nodes) > _DEEPEST, "is nested too deeply", event)
                mapping = isinstance(event, ev.MappingStartEvent)
                value: Any = {} if mapping else []
                open_nodes[-1].put(value, event)
                open_nodes.append(_Node(value, mapping))
            elif isinstance(event, ev.MappingEndEvent | ev.SequenceEndEvent):
                value = open_nodes.pop().value
                if len(value) == 1 and isinstance(value, list) and isinstance(value[0], str):
                    value[:] = self._held.get(value[0], value)
        return root[0] if root else None

    @staticmethod
    def _refuse(wrong: bool, message: str, event: Any) -> None:  # noqa: ANN401
        if wrong:
            mark = event.start_mark
            raise _YamlFaultError(Fault(message, f"line {mark.line + 1}", allowed="plain YAML"))


class _Node:
    """A sequence or mapping that is being filled."""

    def __init__(self, value: Any, mapping: bool) -> None:  # noqa: ANN401
        self.value, self.mapping, self.key, self.has_key = value, mapping, "", False

    def put(self, item: Any, event: Any) -> None:  # noqa: ANN401
        if not self.mapping:
            self.value.append(item)
        elif self.has_key:
            self.value[self.key] = item
            self.has_key = False
        else:
            _Builder._refuse(isinstance(item, list | dict), "has a key that is no scalar", event)
            _Builder._refuse(item in self.value, f"has the key {str(item)[:40]!r} twice", event)
            _Builder._refuse(item == "<<", "merges keys", event)
            self.key, self.has_key = item, True


def _scalar(event: Any) -> int | str:  # noqa: ANN401
    text: str = event.value
    plain = event.style in (None, "")
    return int(text) if plain and _PLAIN_INTEGER.fullmatch(text) else text
