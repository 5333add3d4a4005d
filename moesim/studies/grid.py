"""Configurations by number: axes are crossed, and none is made before it is asked for."""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Parts that say how a deployment is loaded, not what it is.
_LOAD = ("workload", "requests", "slo", "seed")
_THAN: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_RULE = re.compile(r"^\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$")

#: What a rule may ask for beside settings: devices of a layout, both pools together.
WORLD = "layout.world"

Keys = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """Settings that vary together.

    Parameters
    ----------
    paths
        Where each of them stands in a configuration.
    values
        Their values, ``[points][paths]``.
    """

    paths: tuple[Keys, ...]
    values: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """All configurations of a study.

    Parameters
    ----------
    name, kind
        Of the study.
    base
        A whole configuration: nested settings, nothing left out.
    axes
        The first varies slowest; of the numbers, replications vary fastest.
    rules
        Configurations to leave out: each maps dotted paths to values, one of which the setting must equal.
    replications
        Seeds from the base's on.

    Examples
    --------
    >>> axis = Axis((("layout", "tp"),), ((1,), (2,)))
    >>> grid = Grid("g", "predict", {"layout": {"tp": 1}, "seed": 0}, (axis,), (), 2)
    >>> [(c["layout"]["tp"], c["seed"]) for c in map(grid.configuration, grid.numbers())]
    [(1, 0), (1, 1), (2, 0), (2, 1)]
    """

    name: str
    kind: str
    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    rules: tuple[Mapping[str, Any], ...]
    replications: int

    def __len__(self) -> int:
        return math.prod(len(axis.values) for axis in self.axes) * self.replications

    def numbers(self) -> Iterator[int]:
        """Those that no rule leaves out."""
        for number in range(len(self)):
            if not self.rules or not excluded(self.configuration(number), self.rules):
                yield number

    def places(self, number: int) -> tuple[int, ...]:
        """Point of every axis, and the replication."""
        sizes = [*(len(axis.values) for axis in self.axes), self.replications]
        found = []
        for size in reversed(sizes):
            number, place = divmod(number, size)
            found.append(place)
        return tuple(reversed(found))

    def configuration(self, number: int) -> dict[str, Any]:
        """All settings of one configuration."""
        whole = {key: _own(value) for key, value in self.base.items()}
        *places, replication = self.places(number)
        for axis, place in zip(self.axes, places, strict=True):
            for path, value in zip(axis.paths, axis.values[place], strict=True):
                put(whole, path, _own(value))
        whole["seed"] += replication
        whole["replication"] = replication
        return whole

    def deployment(self, number: int) -> tuple[int, ...]:
        """What configurations of the same deployment have in common, whatever their load."""
        return tuple(
            -1 if all(path[0] in _LOAD for path in axis.paths) else place
            for axis, place in zip(self.axes, self.places(number), strict=False)
        )


def _own(value: Any) -> Any:  # noqa: ANN401 - any setting
    """A part that can be changed; parts hold plain values, which cannot."""
    return dict(value) if isinstance(value, Mapping) else value


def put(tree: dict[str, Any], path: Keys, value: Any) -> None:  # noqa: ANN401 - any setting
    """Set a value, making the mappings on the way."""
    for part in path[:-1]:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[path[-1]] = value


def get(tree: Any, path: Keys) -> Any:  # noqa: ANN401 - any setting
    """The value at a path; None where there is none."""
    for part in path:
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return tree


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted path.

    >>> flat({"layout": {"tp": 2}, "seed": 0})
    {'layout.tp': 2, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in flat(value).items()}
        else:
            found[key] = value
    return found


def excluded(configuration: Mapping[str, Any], rules: tuple[Mapping[str, Any], ...]) -> bool:
    """Whether all conditions of some rule hold.

    >>> excluded({"layout": {"tp": 8, "ep": 2}}, ({"layout.tp": "> 4", "layout.ep": [1, 2]},))
    True
    """
    return any(
        all(_meets(_asked(configuration, path), wanted) for path, wanted in rule.items()) for rule in rules
    )


def _asked(configuration: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401 - any setting
    if path != WORLD:
        return get(configuration, tuple(path.split(".")))
    layout = configuration["layout"]
    workers = layout.get("decode_workers", 1) if layout.get("prefill_workers") else 1
    own = math.prod(layout[name] for name in ("pp", "dp", "tp")) * workers
    pool = (layout.get(f"prefill_{name}") or layout[name] for name in ("pp", "dp", "tp"))
    return own + (math.prod(pool) * layout["prefill_workers"] if layout.get("prefill_workers") else 0)


def _meets(value: Any, wanted: Any) -> bool:  # noqa: ANN401 - any setting
    for one in wanted if isinstance(wanted, list) else [wanted]:
        rule = _RULE.match(one) if isinstance(one, str) else None
        if rule is None:
            if value == one and isinstance(value, bool) == isinstance(one, bool):
                return True
        elif isinstance(value, int | float) and _THAN[rule[1]](value, float(rule[2])):
            return True
    return False


def chunks(grid: Grid, numbers: list[int], most: int) -> Iterator[list[int]]:
    """Numbers in runs of at most `most`, each of one deployment: what is drawn for it is drawn once."""
    ordered = sorted(numbers, key=lambda number: (grid.deployment(number), number))
    for _, group in itertools.groupby(ordered, key=grid.deployment):
        run = list(group)
        for start in range(0, len(run), most):
            yield run[start : start + most]
