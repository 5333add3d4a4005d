"""Read plans of any format, whoever wrote them, and say everything that is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.layout import ExpertMap
from moesim.placement.files.findings import Findings
from moesim.placement.files.formats import document_of
from moesim.placement.files.read import read_bytes
from moesim.placement.files.record import read_record, record_faults
from moesim.placement.files.target import HasExperts, Target


@dataclass(frozen=True, slots=True, eq=False)
class PlanCheck:
    """A plan file and what is wrong with it.

    Parameters
    ----------
    path
        The file.
    format
        Which of `FORMATS` it is in.
    faults
        Everything that is wrong: at most a few of each kind, and how many more.
    expert_map
        The plan, if nothing is wrong with it.
    record
        What the record beside the file says about the file.
    made
        What it says of how the plan was found, if the file is the one it was written for.
    """

    path: Path
    format: str
    faults: tuple[Fault, ...]
    expert_map: ExpertMap | None
    record: str
    made: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plan = self.expert_map
        return {
            "ok": self.ok,
            "path": str(self.path),
            "format": self.format,
            "faults": [
                {"where": f.where, "message": f.message, "value": f.value, "allowed": f.allowed or None}
                for f in self.faults
            ],
            "layers": None if plan is None else plan.layers,
            "ranks": None if plan is None else plan.ranks,
            "slots": None if plan is None else plan.slots,
            "redundant": None if plan is None else plan.redundant,
            "most_replicas": None if plan is None else int(plan.replica_counts.max()),
            "record": self.record,
            "made": dict(self.made),
        }


def check_plan(
    path: str | os.PathLike[str],
    model: HasExperts,
    ranks: int,
    slots: int | None = None,
    *,
    format: str | None = None,  # noqa: A002 - what it is
) -> PlanCheck:
    """Check a plan file against a model, ranks and slots, more strictly than the engines do.

    Parameters
    ----------
    path
        The file, in any of `FORMATS`.
    model
        What it should be for.
    ranks
        Expert-parallel ranks.
    slots
        Physical experts per layer; None for any number that fits.
    format
        The format, if the content should not tell.

    Returns
    -------
    PlanCheck

    Raises
    ------
    NotAPlanError
        If the file cannot be read, or as no plan.
    ConfigError
        If no plan could be right for these ranks and slots.
    """
    target = Target.of(model, ranks, slots)
    file = Path(path)
    content = read_bytes(file, target)
    known, document = document_of(content, file, target, format)
    found = Findings()
    table = known.read(document, target, found)
    # Hold what a file says against what the engine is told: the name, and the record.
    found.extend(known.path_faults(file, "the file's name"))
    faults = found.faults
    said, changed = record_faults(content, file)
    plan = None
    if table is not None and not faults:
        plan = ExpertMap(table, target.num_experts, ranks)
    if changed:
        plan = None
    made = _made(file) if plan is not None else {}
    return PlanCheck(file, known.name, (*faults, *changed), plan, said, made)


def _made(path: Path) -> dict[str, str]:
    """How a plan was found, as far as the record beside it says so in a few words."""
    record = read_record(path) or {}
    told = {name: record.get(name) for name in ("moesim", "model", "method", "dispatch")}
    return {name: value[:80] for name, value in told.items() if isinstance(value, str)}


def read_plan(
    path: str | os.PathLike[str],
    model: HasExperts,
    ranks: int,
    slots: int | None = None,
    *,
    format: str | None = None,  # noqa: A002 - what it is
) -> ExpertMap:
    """Read a plan in any of `FORMATS`; parameters are those of `check_plan`.

    Raises
    ------
    ConfigError
        With every fault, if the file is not a plan for this model and these ranks.
    """
    checked = check_plan(path, model, ranks, slots, format=format)
    if checked.expert_map is None:
        raise ConfigError(checked.faults, path)
    return checked.expert_map
