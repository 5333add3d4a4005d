"""Read a study file: every fault at once, each with its place in the file."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model

from moesim.errors import ConfigError, Fault, nearest
from moesim.hardware.read import read_text, read_yaml, validate
from moesim.studies.checks import check_part
from moesim.studies.contents import FILES, located
from moesim.studies.grid import WORLD, Axis, Grid, get, put
from moesim.studies.lines import Path as Place
from moesim.studies.lines import line_of, lines_of, shown
from moesim.studies.spec import CONFIGURATION, Part, Study, columns_of

#: Lists by dotted path that vary together, and where they stand in the file.
_Group = tuple[dict[str, list[Any]], Place]


def load_study(path: str | os.PathLike[str]) -> Grid:
    """Read a study.

    Parameters
    ----------
    path
        A YAML file; paths inside are relative to its folder.

    Returns
    -------
    Grid
        With all settings filled in, and paths made absolute.

    Raises
    ------
    ConfigError
        With every fault, its path and line in the file.
    """
    return _Door(Path(path)).grid()


class _Door:
    """One file being read: its lines, and the faults found so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.raw = read_yaml(path)
        self.lines = lines_of(read_text(path))
        self.faults: list[tuple[int, Fault]] = []

    def grid(self) -> Grid:
        """The configurations, if nothing is wrong."""
        try:
            spec = validate(Study, self.raw, self.path)
        except ConfigError as error:
            for fault in error.faults:
                self._fault(fault, _place(fault.where, self.raw))
            raise self._error() from None
        model = CONFIGURATION[spec.kind]
        groups: list[_Group] = [({path: values}, ("grid",)) for path, values in spec.grid.items()]
        groups += [(group, ("zip", i)) for i, group in enumerate(spec.zip)]
        self._check_size(spec, groups)
        self._check_overlaps(groups, spec)
        self._check_rules(spec)
        base, axes = self._values(spec, model, groups)
        if self.faults:
            raise self._error()
        return Grid(spec.name, spec.kind, base, axes, tuple(spec.exclude), spec.replications)

    def _error(self) -> ConfigError:
        return ConfigError(
            {str(fault): fault for _, fault in sorted(self.faults, key=_line)}.values(), self.path
        )

    def _fault(self, fault: Fault, place: Place) -> None:
        line = line_of(self.lines, place)
        where = shown(place) if line is None else f"{shown(place)} (line {line})"
        self.faults.append((line or 0, replace(fault, where=where)))

    def _check_size(self, spec: Study, groups: list[_Group]) -> None:
        count = spec.replications
        for group, place in groups:
            lengths = {len(values) for values in group.values()}
            if len(lengths) > 1:
                each = ", ".join(f"{path}: {len(values)}" for path, values in group.items())
                self._fault(Fault("lists that vary together differ in length", allowed=each), place)
                for path, values in group.items():
                    group[path] = values[: min(lengths)]
            count *= max(lengths, default=1)
        if count > spec.max_configurations:
            self._fault(
                Fault(
                    "the study has too many configurations",
                    value=count,
                    allowed=f"{spec.max_configurations:,}, or a larger max_configurations in this file",
                ),
                ("grid",),
            )

    def _check_overlaps(self, groups: list[_Group], spec: Study) -> None:
        seen: dict[str, Place] = {}
        for group, place in groups:
            for path in list(group):
                for other, first in seen.items():
                    if _related(path, [other]):
                        self._fault(Fault(f"varies what {shown((*first, other))} varies"), (*place, path))
                        group.pop(path, None)
                seen.setdefault(path, place)
        if spec.replications > 1 and "seed" in seen:
            self._fault(
                Fault("replications vary the seed already", allowed="either of them"), (*seen["seed"], "seed")
            )

    def _check_rules(self, spec: Study) -> None:
        known = [*columns_of(spec.kind), WORLD]
        for i, rule in enumerate(spec.exclude):
            for path in rule:
                if path not in known:
                    near = nearest(path, known)
                    self._fault(
                        Fault("is no setting", allowed=f"{', '.join(near)}?" if near else ", ".join(known)),
                        ("exclude", i, path),
                    )

    def _values(
        self, spec: Study, model: type[BaseModel], groups: list[_Group]
    ) -> tuple[dict[str, Any], tuple[Axis, ...]]:
        """Base and axes as they are understood; every value is read in its place once."""
        raw = copy.deepcopy(spec.base)
        where: dict[str, Place] = {}
        for group, place in groups:
            for path, values in group.items():
                put(raw, tuple(path.split(".")), values[0])
                where[path] = (*place, path)
        base, faults = self._understood(model, raw, set(model.model_fields) | set(raw))
        for fault in faults:
            self._report(fault, where, 0)
        axes = []
        for group, _ in groups:
            paths = tuple(tuple(path.split(".")) for path in group)
            points = [tuple(get(base, path) for path in paths)]
            for i in range(1, max(map(len, group.values()), default=0)):
                tree = copy.deepcopy({path[0]: raw.get(path[0]) for path in paths})
                for keys, values in zip(paths, group.values(), strict=True):
                    put(tree, keys, values[i])
                understood, faults = self._understood(
                    model, {**raw, **tree}, set(tree) & set(model.model_fields)
                )
                own = {path: where[path] for path in group}
                for fault in faults:
                    if _related(fault.where, own):
                        self._report(fault, own, i)
                points.append(tuple(get(understood, path) for path in paths))
            axes.append(Axis(paths, tuple(points)))
        return base, tuple(axes)

    def _understood(
        self, model: type[BaseModel], raw: dict[str, Any], parts: Iterable[str]
    ) -> tuple[dict[str, Any], list[Fault]]:
        """The wanted parts of a configuration, with all settings filled in, and what is wrong with them."""
        wanted = set(parts)
        faults: list[Fault] = []
        try:
            found = _read(model, {name: raw[name] for name in wanted if name in raw}, wanted)
        except ConfigError as error:
            faults += error.faults
            good = wanted & set(model.model_fields) - {fault.where.split(".")[0] for fault in faults}
            found = _read(model, {name: raw[name] for name in good if name in raw}, good)
        self._locate(found)
        for name in sorted(found):
            faults += check_part(name, found[name])
        return found, faults

    def _locate(self, found: dict[str, Any]) -> None:
        """Make paths absolute."""
        folder = self.path.resolve().parent
        for role in ("model", "hardware", *FILES):
            path = tuple(role.split("."))
            text = get(found, path)
            if isinstance(text, str) and not (role == "calibration" and text == "none"):
                put(found, path, located(text, folder, named=role in ("model", "hardware")))

    def _report(self, fault: Fault, where: Mapping[str, Place], point: int) -> None:
        """Say where in the file a fault of a configuration comes from: its axis, or the base."""
        parts = fault.where.split(".") if fault.where else []
        for path, place in where.items():
            keys = path.split(".")
            if parts[: len(keys)] == keys:
                self._fault(fault, (*place, point, *parts[len(keys) :]))
                return
            if parts and keys[: len(parts)] == parts:
                self._fault(fault, place)
                return
        self._fault(fault, ("base", *parts))


def _read(model: type[BaseModel], raw: dict[str, Any], parts: set[str]) -> dict[str, Any]:
    """Parts of a configuration as plain values; raises with every fault."""
    known = set(model.model_fields)
    return validate(model if parts >= known else _only(model, frozenset(parts & known)), raw, "").model_dump()


@functools.lru_cache(maxsize=256)
def _only(model: type[BaseModel], parts: frozenset[str]) -> type[BaseModel]:
    """A model of some of another's fields."""
    fields: dict[str, Any] = {
        name: (model.model_fields[name].annotation, model.model_fields[name]) for name in parts
    }
    return create_model(model.__name__, __base__=Part, **fields)


def _line(found: tuple[int, Fault]) -> int:
    return found[0]


def _related(where: str, paths: Iterable[str]) -> bool:
    return any(f"{where}.".startswith(f"{p}.") or f"{p}.".startswith(f"{where}.") for p in paths)


def _place(where: str, raw: Any) -> Place:  # noqa: ANN401 - what the file holds
    """Keys and list places of a dotted path; a key that has dots itself is found whole."""
    words = where.split(".") if where else []
    found: list[str | int] = []
    while words:
        sizes = range(len(words), 0, -1)
        n = next((n for n in sizes if isinstance(raw, Mapping) and ".".join(words[:n]) in raw), 1)
        key = ".".join(words[:n])
        words = words[n:]
        if isinstance(raw, list) and key.isdigit():
            found.append(int(key))
            raw = raw[int(key)] if int(key) < len(raw) else None
        else:
            found.append(key)
            raw = raw.get(key) if isinstance(raw, Mapping) else None
    return tuple(found)
