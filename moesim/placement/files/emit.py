"""Write plans for engines, each with a record of where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write, check_writable
from moesim.layout import ExpertMap
from moesim.placement.files.formats import format_fault, format_named, wanted
from moesim.placement.files.launch import Launch
from moesim.placement.files.record import record_of, record_path
from moesim.placement.files.target import HasExperts, Target


@dataclass(frozen=True, slots=True)
class EmittedFile:
    """A plan that was written.

    Parameters
    ----------
    path
        Where.
    format
        In which of `FORMATS`.
    rows
        Layers in the file.
    command
        The shell lines that start the engine with it; empty where no engine loads the format.
    notes
        What these lines need, or cannot do.
    provenance
        The record beside it.
    """

    path: Path
    format: str
    rows: int
    command: str = ""
    notes: tuple[str, ...] = ()
    provenance: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "format": self.format,
            "rows": self.rows,
            "command": self.command or None,
            "notes": list(self.notes),
            "provenance": None if self.provenance is None else str(self.provenance),
        }


def parse_emit(spec: str, option: str = "--emit") -> tuple[str, Path]:
    """Split ``format:path``, and check both; aliases become names.

    Raises
    ------
    ConfigError
        As `emit_faults`.

    Examples
    --------
    >>> name, path = parse_emit("trtllm:plan.yaml")
    >>> name, path.name
    ('tensorrt-llm', 'plan.yaml')
    """
    found = emit_faults(spec, option)
    if found:
        raise ConfigError(found)
    name, _, path = spec.partition(":")
    known = format_named(name)
    assert known is not None
    return known.name, Path(path)


def emit_faults(spec: str, option: str = "--emit") -> list[Fault]:
    """What keeps ``format:path`` from being written, found before any work is done."""
    name, colon, path = spec.partition(":")
    if not colon or not path:
        return [Fault("names no format and file", option, spec, wanted())]
    known = format_named(name)
    found = [format_fault(name, option)] if known is None else known.path_faults(Path(path), option)
    writable = check_writable(path, option)
    if not writable:
        writable = check_writable(record_path(Path(path)), option)
    return found + writable


def emission_faults(specs: Sequence[str], option: str = "--emit") -> list[Fault]:
    """What keeps several plans from being written; see `emit_faults`. Two may not be one file."""
    found = [fault for spec in specs for fault in emit_faults(spec, option)]
    paths = [Path(os.path.abspath(spec.partition(":")[2])) for spec in specs]  # noqa: PTH100 - resolves no link
    written = [q for path in paths for q in (path, record_path(path))]
    for path in dict.fromkeys(paths):
        if written.count(path) > 1:
            found.append(Fault("would be written twice", option, str(path), "one file each"))
    return found


def write(
    expert_map: ExpertMap,
    spec: str,
    model: HasExperts,
    nodes: int = 1,
    dispatch: str = "even",
    *,
    served: str = "",
    record: Mapping[str, Any] | None = None,
) -> EmittedFile:
    """Write a plan, and a record of where it comes from beside it.

    Parameters
    ----------
    expert_map
        The plan; its invariants hold by construction.
    spec
        ``format:path``, as in ``"sglang:plan.json"``.
    model
        What the plan is for: name, layers and experts.
    nodes, dispatch
        Of the command line that is returned: machines, and the rule the plan was made for.
    served
        Folder or Hugging Face id of the checkpoint there; without it the model's name stands for it.
    record
        What else to record: method, seed, inputs.

    Returns
    -------
    EmittedFile

    Raises
    ------
    ConfigError
        If the format is unknown, the plan does not fit the model, or a file cannot be written. Then neither
        file is changed.
    """
    name, path = parse_emit(spec)
    target = Target.of(model, expert_map.ranks, expert_map.slots)
    faults = target.fit(expert_map)
    if faults:
        raise ConfigError(faults, "expert placement")
    known = format_named(name)
    assert known is not None
    content = known.write(expert_map, target)
    beside = record_path(path)
    extra = {"dispatch": dispatch, "nodes": nodes, **(record or {})}
    # The plan is renamed into place last: no plan is ever beside a record of another one that came first.
    with atomic_write(path, "wb") as plan:
        cast("IO[bytes]", plan).write(content)
        with atomic_write(beside, "wb") as stream:
            cast("IO[bytes]", stream).write(record_of(content, name, target, expert_map.slots, extra))
    launch = Launch(served or model.name, path, expert_map.ranks, expert_map.redundant, nodes, dispatch)
    command, notes = known.command(launch), known.notes(launch)
    if command and served in ("", model.name):
        notes = (f"{model.name} stands for the checkpoint's folder or Hugging Face id", *notes)
    return EmittedFile(path, name, known.rows(target), command, notes, beside)
