"""Real runs as a file: what was run, on what, and the seconds of every round, for others to score again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.hardware.read import faults_of
from moesim.provenance import clean
from moesim.reference.layer import IntArray
from moesim.validate.reference.cases import CaseRow, CaseTable, ShapeRow
from moesim.validate.reference.predict import Turn, Work

#: A file larger than this is refused, and so is more than so many faults on one page.
MAX_BYTES, MAX_FAULTS = 64 << 20, 20
Array = npt.NDArray[np.float64]
Seconds = Annotated[float, Field(gt=0.0, lt=1e6, allow_inf_nan=False)]
Experts = Annotated[list[Annotated[int, Field(ge=0, lt=4096)]], Field(max_length=4096)]
Some = Annotated[float, Field(ge=0.0, lt=1e6, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs of one machine: held-out cases, and among them anchors that were also run at calibration.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda``.
    works
        What was run, held-out cases and anchors.
    anchor_s
        Seconds at calibration, ``[cases]``; NaN for held-out cases.
    groups
        Cases of one group were run in the same rounds, int ``[cases]``.
    loads
        Experts that the device copied in one run, int ``[cases]``.
    seconds
        ``[rounds, cases]``.
    parts
        Seconds by part, each ``[rounds, cases]``.
    wall_s
        By the wall clock, ``[rounds, cases]``, or None.
    machine
        Its state.
    hardware_text, hardware_sha256
        The description the runs are predicted from, and its hash.
    recordings
        By name of a recorded routing: where it is from, and whether a model was run for it.
    facts
        Date, seed, checksum of the frozen cases.
    """

    device: str
    works: tuple[Work, ...]
    anchor_s: Array
    groups: npt.NDArray[np.int64]
    loads: npt.NDArray[np.int64]
    seconds: Array
    parts: Mapping[str, Array]
    wall_s: Array | None
    machine: Mapping[str, Any]
    hardware_text: str
    hardware_sha256: str
    recordings: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]


class TurnRow(BaseModel):
    """Experts that run together; see `Turn`."""

    model_config = ConfigDict(extra="forbid")

    runs: Experts
    copied: Experts
    waits: Annotated[list[Annotated[int, Field(ge=-1, lt=4096)]], Field(max_length=4096)]


class RunRow(CaseRow):
    """One case and how the policies played it."""

    counts: Annotated[list[Annotated[int, Field(ge=0, le=1 << 20)]], Field(max_length=4096)]
    turns: Annotated[list[TurnRow], Field(max_length=4096)]
    loads: Annotated[int, Field(ge=0, le=4096)]
    group: Annotated[int, Field(ge=0, le=4096)]
    anchor_s: Seconds | None


class RecordingRow(BaseModel):
    """Where a recorded routing is from."""

    model_config = ConfigDict(extra="forbid")

    source: Annotated[str, Field(max_length=1000)]
    real: bool


class RunsFile(BaseModel):
    """A file of real runs."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1]
    kind: Literal["reference-runs"]
    device: Literal["cpu", "cuda"]
    facts: Annotated[dict[str, str | int | float | None], Field(max_length=50)]
    machine: dict[str, Any]
    hardware: Annotated[str, Field(max_length=4 << 20)]
    hardware_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    recordings: Annotated[dict[str, RecordingRow], Field(max_length=64)]
    shapes: Annotated[list[ShapeRow], Field(min_length=1, max_length=256)]
    cases: Annotated[list[RunRow], Field(min_length=1, max_length=4096)]
    seconds: Annotated[list[list[Seconds]], Field(min_length=2, max_length=1000)]
    wall_s: Annotated[list[list[Some]], Field(max_length=1000)] | None
    parts: Annotated[dict[str, list[list[Some]]], Field(max_length=32)]

    @model_validator(mode="after")
    def _whole(self) -> RunsFile:
        CaseTable(shapes=self.shapes, cases=[_plain(row) for row in self.cases])
        tables = {"seconds": self.seconds, **self.parts}
        if self.wall_s is not None:
            tables["wall_s"] = self.wall_s
        wanted = {len(self.cases)}
        for name, table in tables.items():
            if len(table) != len(self.seconds) or {len(row) for row in table} != wanted:
                raise ValueError(
                    f"{name} is no table of rounds by cases; allowed: {len(self.seconds)} rows of "
                    f"{len(self.cases)} numbers"
                )
        sizes = {shape.name: shape for shape in self.shapes}
        faults = [
            f"case {i}: {fault}"
            for i, row in enumerate(self.cases)
            if (fault := _fault(row, sizes[row.shape]))
        ]
        if hashlib.sha256(self.hardware.encode("utf-8", "surrogatepass")).hexdigest() != self.hardware_sha256:
            faults.append("hardware_sha256 is not the hash of the hardware")
        if all(row.anchor_s is not None for row in self.cases):
            faults.append("there is no held-out case")
        if faults:
            raise ValueError("; ".join(faults[:MAX_FAULTS]))
        return self


def _plain(row: CaseRow) -> CaseRow:
    return CaseRow.model_validate({name: getattr(row, name) for name in CaseRow.model_fields})


def _fault(row: RunRow, shape: ShapeRow) -> str:
    """What is wrong between the numbers of one case, if anything."""
    if len(row.counts) != shape.num_experts:
        return f"{len(row.counts)} counts for {shape.num_experts} experts"
    if sum(row.counts) != row.tokens * shape.top_k or max(row.counts) > row.tokens:
        return f"counts are not those of {row.tokens} tokens to {shape.top_k} experts each"
    run = sorted(expert for turn in row.turns for expert in turn.runs)
    if run != [expert for expert, n in enumerate(row.counts) if n]:
        return "its turns do not run every expert that has tokens once"
    for number, turn in enumerate(row.turns):
        if len(turn.waits) != len(turn.copied) or any(wait >= number for wait in turn.waits):
            return "a copy waits for a turn that is not before it"
        if len(set(turn.copied)) < len(turn.copied) or not set(turn.copied) <= set(turn.runs):
            return "a turn copies what it does not run"
    return ""


def write_runs(runs: Runs, path: Path) -> None:
    """Write runs, whole or not at all; numbers keep nine digits."""
    shapes = {work.case.shape.name: work.case.shape for work in runs.works}
    names = list(ShapeRow.model_fields)
    document = {
        "schema_version": 1,
        "kind": "reference-runs",
        "device": runs.device,
        "facts": dict(runs.facts),
        "machine": dict(runs.machine),
        "hardware": runs.hardware_text,
        "hardware_sha256": runs.hardware_sha256,
        "recordings": {name: dict(entry) for name, entry in runs.recordings.items()},
        "shapes": [{name: getattr(shape, name) for name in names} for shape in shapes.values()],
        "cases": [
            {
                "shape": work.case.shape.name,
                **{n: getattr(work.case, n) for n in ("tokens", "routing", "offloaded", "dtype", "seed")},
                "counts": work.counts,
                "turns": [
                    {"runs": turn.runs, "copied": turn.copied, "waits": turn.waits} for turn in work.turns
                ],
                "loads": runs.loads[i],
                "group": runs.groups[i],
                "anchor_s": runs.anchor_s[i],
            }
            for i, work in enumerate(runs.works)
        ],
        "seconds": _short(runs.seconds),
        "wall_s": None if runs.wall_s is None else _short(runs.wall_s),
        "parts": {name: _short(table) for name, table in runs.parts.items()},
    }
    with atomic_write(path) as stream:
        json.dump(clean(document), cast(IO[str], stream), allow_nan=False)


def _short(table: Array) -> list[list[float]]:
    return [[float(f"{value:.9g}") for value in row] for row in table]


def read_runs(path: Path) -> Runs:
    """Read runs that anybody wrote.

    Raises
    ------
    ConfigError
        If the file cannot be read or is not what it says, with every fault.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(Fault("is too big", "", f"{size:,} bytes", f"at most {MAX_BYTES:,}"), path)
        raw = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        found = RunsFile.model_validate(raw)
    except OSError as error:
        raise ConfigError(Fault(f"cannot be read: {(error.strerror or str(error)).lower()}"), path) from None
    except ValidationError as error:
        faults = faults_of(RunsFile, error)
        more = [Fault(f"{len(faults) - MAX_FAULTS} more faults")] if len(faults) > MAX_FAULTS else []
        raise ConfigError(faults[:MAX_FAULTS] + more, path) from None
    except (ValueError, RecursionError):
        raise ConfigError(Fault("is no JSON", allowed="what validate reference --raw writes"), path) from None
    return _read(found)


def _experts(ids: list[int]) -> IntArray:
    return np.array(ids, np.int32)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _read(found: RunsFile) -> Runs:
    cases = CaseTable(shapes=found.shapes, cases=[_plain(row) for row in found.cases]).read()
    works = tuple(
        Work(
            case,
            np.array(row.counts, np.int32),
            tuple(
                Turn(_experts(turn.runs), _experts(turn.copied), _experts(turn.waits)) for turn in row.turns
            ),
        )
        for case, row in zip(cases, found.cases, strict=True)
    )
    return Runs(
        found.device,
        works,
        np.array([math.nan if row.anchor_s is None else row.anchor_s for row in found.cases]),
        np.array([row.group for row in found.cases], np.int64),
        np.array([row.loads for row in found.cases], np.int64),
        np.array(found.seconds),
        {name: np.array(table) for name, table in found.parts.items()},
        None if found.wall_s is None else np.array(found.wall_s),
        found.machine,
        found.hardware,
        found.hardware_sha256,
        {name: row.model_dump() for name, row in found.recordings.items()},
        found.facts,
    )
