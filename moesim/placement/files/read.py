"""Bytes, JSON and YAML of a stranger's plan file: bounded before they are parsed."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.placement.files.target import Target

#: Room for comments, names and blanks beside the table itself.
_SPARE_BYTES, _SPARE_VALUES = 1 << 20, 200_000
#: An id, a comma, a line break and its indentation.
_BYTES_PER_VALUE = 32
#: EPLB pads lists of replicas; no expert has as many in any published deployment.
_PADDED_REPLICAS = 128
_MOST_BYTES = 64 << 20
_PLAIN_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DEEPEST = 8


class NotAPlanError(ConfigError):
    """A file that cannot be read as a plan of any format, as opposed to a plan with faults."""


def read_bytes(path: Path, target: Target) -> bytes:
    """The content of a regular file that is no larger than any plan for this target."""
    limit = min(_MOST_BYTES, _SPARE_BYTES + max(_BYTES_PER_VALUE * most_values(target), array_bytes(target)))
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise NotAPlanError(Fault("is a folder", allowed="a file"), path)
        if not stat.S_ISREG(info.st_mode):
            raise NotAPlanError(Fault("is no regular file", allowed="a file"), path)
        if info.st_size > limit:
            raise NotAPlanError(
                Fault("is too large for a plan of this model", "", f"{info.st_size} bytes", f"{limit} bytes"),
                path,
            )
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise NotAPlanError(Fault(f"cannot be read: {reason}"), path) from None
    except ValueError:  # a null character
        raise NotAPlanError(Fault("is no path"), repr(path)) from None
    if not content.strip():
        raise NotAPlanError(Fault("is empty", allowed="a plan"), path)
    return content


def most_values(target: Target) -> int:
    """Values, names and brackets in the longest text of a plan: the table, and a few words per rank."""
    return target.num_layers * (target.most_slots + 8 * target.ranks + 8)


def array_bytes(target: Target) -> int:
    """Bytes of EPLB's arrays at most; they list as many replicas as there are ranks, or some more."""
    replicas = min(target.most_slots - target.num_experts + 1, max(target.ranks, _PADDED_REPLICAS))
    values = target.most_slots + target.num_experts * (replicas + 1)
    return _SPARE_BYTES + 8 * target.num_layers * values


def _check_values(content: bytes, target: Target, path: Path) -> None:
    # A value of JSON or YAML ends at a comma or a line; a container costs memory before it holds any.
    allowed = _SPARE_VALUES + 2 * most_values(target)
    count = sum(map(content.count, (b",", b"\n", b"[", b"{")))
    if count > allowed:
        raise NotAPlanError(
            Fault("holds more values than a plan of this model", "", count, str(allowed)), path
        )


def load_json(content: bytes, target: Target, path: Path) -> Any:  # noqa: ANN401 - any JSON tree
    """The document of a JSON text; a name twice in one object is an error."""
    _check_values(content, target, path)
    try:
        return json.loads(content, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise NotAPlanError(Fault(f"is not JSON: {error.msg.lower()}", place), path) from None
    except RecursionError:
        raise NotAPlanError(Fault("is not JSON of a plan: nested too deeply"), path) from None
    except ValueError as error:
        raise NotAPlanError(Fault(f"is not JSON: {error}"), path) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise ValueError(f"the name {name[:40]!r} is there twice")
        document[name] = value
    return document


def load_yaml(content: bytes, target: Target, path: Path) -> Any:  # noqa: ANN401 - any YAML tree
    """The document of a YAML text, built from its events.

    Anchors, aliases, tags, merge keys, several documents and deep nesting are refused, so that a text cannot
    stand for more than it holds. Plain decimal numbers become int; every other scalar stays text, so that
    what YAML 1.1 and 1.2 read differently (``0o10``, ``1_0``, ``010``, ``on``) is no number here.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    _check_values(content, target, path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise NotAPlanError(Fault("is no UTF-8 text"), path) from None
    try:
        return _Builder().build(YAML(typ="safe", pure=True).parse(text))
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
    """Plain values from YAML events."""

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
                open_nodes.pop()
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
