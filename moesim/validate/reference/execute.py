"""Run the held-out cases on this machine, among anchors, and keep what was measured."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.reference.layer import Case, IntArray, Prepared, Runner
from moesim.reference.machine import state
from moesim.reference.protocol import Measured, measure
from moesim.reference.routings import Recorded, route
from moesim.validate.reference.cases import CHECKSUMS
from moesim.validate.reference.predict import Work
from moesim.validate.reference.runs import Runs
from moesim.validate.reference.works import resident, work_of

#: Rounds of each case, by device.
ROUNDS = {"cpu": 11, "cuda": 15}
#: Told what is going on, how far it is, and of how much.
Progress = Callable[[str, int, int], None]
#: Opens the device, which is told how each case is to be played.
Open = Callable[[Mapping[Case, Work]], contextlib.AbstractContextManager[Runner]]


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """A case that was run at calibration.

    Parameters
    ----------
    case, ids
        What was run.
    seconds
        Of one run, then.
    """

    case: Case
    ids: IntArray
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Planned:
    """A case with its experts, and whether it is an anchor."""

    work: Work
    ids: IntArray
    anchor_s: float


def execute(
    device: str,
    cases: Sequence[Case],
    open_runner: Open,
    hardware: Path,
    *,
    anchors: Sequence[Anchor] = (),
    recorded: Mapping[str, Recorded] | None = None,
    rounds: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Runs:
    """Run cases and anchors in interleaved rounds.

    Parameters
    ----------
    device
        ``cpu``: all in the same rounds. ``cuda``: one layer shape after the other, each with its anchors,
        as memory does not hold all.
    cases
        Held-out cases.
    open_runner
        Gives the device.
    hardware
        File of the description that predictions will be made from; it becomes part of the runs.
    anchors
        What shows drift since calibration.
    recorded
        Recordings by name.
    rounds, seed
        Of the protocol.
    progress
        Called before every case that is prepared and after every run.
    """
    recorded = recorded or {}
    _check_recordings(cases, recorded)
    text = hardware.read_bytes()
    held = []
    for case in cases:
        ids = route(case, recorded)
        held.append(_Planned(work_of(case, ids, recorded), ids, np.nan))
    again = [_Planned(resident(a.case, a.ids), a.ids, a.seconds) for a in anchors]
    groups = _groups(device, held)
    planned = [(number, one) for number, group in enumerate(groups) for one in (*group, *again)]
    before = state()
    played = {one.work.case: one.work for _, one in planned}
    found: list[Measured] = []
    loads: list[int] = []
    with open_runner(played) as runner:
        for number in range(len(groups)):
            group = [one for n, one in planned if n == number]
            ready = f"{groups[number][0].work.case.shape.name}: " if len(groups) > 1 else ""
            with _prepared(runner, group, ready, progress) as prepared:
                loads += [int(one.loads) for one in prepared]
                say = None if progress is None else _saying(progress, f"{ready}running")
                found.append(measure(prepared, rounds or ROUNDS[device], seed + number, say))
    least = min(len(part.seconds) for part in found)
    names = dict.fromkeys(name for part in found for name in part.parts)
    zero = [np.zeros_like(part.seconds) for part in found]
    wall = np.concatenate([part.wall_s[:least] for part in found], axis=1)
    return Runs(
        device,
        tuple(one.work for _, one in planned),
        np.array([one.anchor_s for _, one in planned]),
        np.array([number for number, _ in planned], np.int64),
        np.array(loads, np.int64),
        np.concatenate([part.seconds[:least] for part in found], axis=1),
        {
            name: np.concatenate(
                [part.parts.get(name, none)[:least] for part, none in zip(found, zero, strict=True)], axis=1
            )
            for name in names
        },
        wall if np.isfinite(wall).all() else None,
        {"before": before, "after": state()},
        text.decode("utf-8"),
        hashlib.sha256(text).hexdigest(),
        {r.name: {"source": r.source[:1000], "real": r.real} for r in recorded.values()},
        {
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "rounds": least,
            "seed": seed,
            "frozen_cases": CHECKSUMS[device],
        },
    )


def _check_recordings(cases: Sequence[Case], recorded: Mapping[str, Recorded]) -> None:
    """Every recording that is named must be there, before anything is run."""
    faults = []
    for name in dict.fromkeys(c.routing for c in cases if c.routing.startswith("trace:")):
        if name.partition(":")[2] not in recorded:
            faults.append(Fault("has no recording and no shipped profile", "--traces", name))
    if faults:
        raise ConfigError(faults)


def _groups(device: str, held: Sequence[_Planned]) -> list[list[_Planned]]:
    """What is prepared at once."""
    if device == "cpu":
        return [list(held)]
    groups: dict[str, list[_Planned]] = {}
    for one in held:
        groups.setdefault(one.work.case.shape.name, []).append(one)
    return list(groups.values())


@contextlib.contextmanager
def _prepared(
    runner: Runner, group: Sequence[_Planned], ready: str, progress: Progress | None
) -> Iterator[list[Prepared]]:
    """All cases of a group in memory, given back whatever happens."""
    with contextlib.ExitStack() as stack:
        prepared = []
        for i, one in enumerate(group):
            if progress is not None:
                progress(f"{ready}filling memory", i, len(group))
            prepared.append(runner.prepare(one.work.case, one.ids))
            stack.callback(prepared[-1].close)
        yield prepared


def _saying(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


def machine_name(machine: Mapping[str, Any]) -> str:
    """A folder name for a machine: its GPU, else its processor.

    >>> machine_name({"before": {"cpu": "AMD EPYC 9654 96-Core Processor", "gpu": None}})
    'amd-epyc-9654-96-core-processor'
    """
    facts = machine.get("before", machine)
    gpu = facts.get("gpu")
    text = str((gpu.get("name") if isinstance(gpu, dict) else gpu) or facts.get("cpu") or "machine")
    kept = "".join(c if c.isascii() and c.isalnum() else " " for c in text.lower().replace("(r)", " "))
    return "-".join(kept.split())[:60].strip("-") or "machine"
