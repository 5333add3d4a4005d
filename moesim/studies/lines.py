"""Where in a YAML file each value stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Keys and places of a list, from the top of the file.
Path = tuple[str | int, ...]


def lines_of(text: str) -> dict[Path, int]:
    r"""Line of every key and list item of a YAML text that is known to be good, the first being 1.

    >>> lines_of("grid:\n  layout.dp: [1,\n    2]")
    {('grid',): 1, ('grid', 'layout.dp'): 2, ('grid', 'layout.dp', 0): 2, ('grid', 'layout.dp', 1): 3}
    """
    from ruamel.yaml import YAML

    return dict(_walk(YAML(typ="safe", pure=True).compose(text), ()))


def _walk(node: Any, path: Path) -> Iterator[tuple[Path, int]]:  # noqa: ANN401 - ruamel has no types
    if node is None or isinstance(node.value, str):
        return
    for place, item in enumerate(node.value):
        key, child = item if isinstance(item, tuple) else (None, item)
        here = (*path, place if key is None else str(key.value))
        yield here, (child if key is None else key).start_mark.line + 1
        yield from _walk(child, here)


def line_of(lines: Mapping[Path, int], path: Path) -> int | None:
    """Line of a value, or of the nearest thing around it; None for the whole file."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def shown(path: Path) -> str:
    """A path as people read it.

    >>> shown(("zip", 0, "hardware", 2))
    'zip[0].hardware[2]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
