"""What is taken away from the page: a report of scenarios, and a plan that engines load."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.layout.sharing import hosts_of
from moesim.placement import place
from moesim.placement.files.formats import format_fault, format_named
from moesim.result import Prediction
from moesim.ui.answer import predicted
from moesim.ui.library import Library
from moesim.ui.scenario import Asked, read_scenario

#: Scenarios that are compared on one page.
MOST_SCENARIOS = 8
_MOST_LABEL = 80


@dataclass(frozen=True, slots=True)
class Download:
    """A file for whoever asked."""

    name: str
    media_type: str
    content: bytes


def asked_together(raw: object, library: Library) -> tuple[list[Asked], list[str]]:
    """The scenarios of a report, and their labels.

    Raises
    ------
    ConfigError
        With every fault of every scenario, `where` being ``scenarios.0.tp``.
    """
    faults: list[Fault] = []
    given = raw if isinstance(raw, dict) else {}
    scenarios, labels = given.get("scenarios"), given.get("labels", [])
    if not isinstance(scenarios, list) or not 1 <= len(scenarios) <= MOST_SCENARIOS:
        raise ConfigError(Fault("is no list of scenarios", "scenarios", None, f"1 to {MOST_SCENARIOS}"))
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        faults.append(Fault("is no list of texts", "labels"))
    elif labels and len(labels) != len(scenarios):
        faults.append(Fault(f"{len(labels)} labels for {len(scenarios)} scenarios", "labels"))
    else:
        labels = [label.strip() or f"{number + 1}" for number, label in enumerate(labels)]
        faults += [
            Fault("is too long", f"labels.{number}", None, f"{_MOST_LABEL} characters")
            for number, label in enumerate(labels)
            if len(label) > _MOST_LABEL
        ]
    asked = []
    for number, one in enumerate(scenarios):
        try:
            asked.append(read_scenario(one, library))
        except ConfigError as error:
            faults += [
                Fault(f.message, f"scenarios.{number}.{f.where}", f.value, f.allowed) for f in error.faults
            ]
    if faults:
        raise ConfigError(faults)
    return asked, labels


def predicted_together(asked: Sequence[Asked]) -> list[Prediction]:
    """The prediction of every scenario.

    Raises
    ------
    InfeasibleError
        Of the first that cannot be answered.
    """
    found = []
    for number, one in enumerate(asked):
        answer, refusal = predicted(one)
        if answer is None:
            assert refusal is not None
            raise InfeasibleError(
                f"scenario {number + 1}: {refusal}",
                resource=refusal.resource,
                needed=refusal.needed,
                available=refusal.available,
            )
        found.append(answer)
    return found


def report_of(
    asked: Sequence[Asked],
    answers: Sequence[Prediction],
    labels: Sequence[str],
    library: Library,
    room: Path,
) -> Download:
    """The page that `moesim report` makes of the same predictions.

    Parameters
    ----------
    asked, answers, labels
        The scenarios, their predictions, and what they are called.
    library
        Where traces come from.
    room
        A folder to write in.
    """
    from moesim.reporting import report

    files = {f for one in asked for f in (one.model.path, one.hardware.path) if f}
    files |= {str(library.traces[one.scenario.trace].path) for one in asked if one.scenario.trace}
    seeds = {one.scenario.seed for one in asked}
    with tempfile.TemporaryDirectory(dir=room) as folder:
        path = report(
            list(answers),
            Path(folder) / "report.html",
            labels=labels,
            seed=seeds.pop() if len(seeds) == 1 else None,
            inputs=sorted(files),
        )
        return Download("moesim-what-if.html", "text/html; charset=utf-8", path.read_bytes())


def planned(raw: object, library: Library) -> tuple[Asked, str]:
    """The scenario that a plan is for, and the name of its format.

    Raises
    ------
    ConfigError
        With every fault.
    InfeasibleError
        If there is nothing to place, or no routing to place by.
    """
    given = raw if isinstance(raw, dict) else {}
    name = given.get("format", "sglang")
    known = format_named(name) if isinstance(name, str) else None
    faults = [] if known is not None else [format_fault(str(name)[:_MOST_LABEL], "format")]
    asked = None
    try:
        asked = read_scenario(given.get("scenario"), library)
    except ConfigError as error:
        faults += error.faults
    if faults or asked is None or known is None:
        raise ConfigError(faults)
    if not asked.model.moe:
        raise _nothing(f"{asked.model.name} has no experts to place")
    if asked.layout.ep == 1:
        raise _nothing("with --ep 1 every rank holds a part of every expert: there is nothing to place")
    if asked.routing is None:
        raise _nothing("a plan is made from routing: choose a trace")
    return asked, known.name


def plan_of(asked: Asked, name: str, room: Path) -> Download:
    """A plan that spreads the load of the scenario's trace, in the format of an engine.

    Parameters
    ----------
    asked, name
        As `planned` returns them.
    room
        A folder to write in.
    """
    known = format_named(name)
    assert known is not None
    assert asked.routing is not None
    with tempfile.TemporaryDirectory(dir=room) as folder:
        path = Path(folder) / known.file
        place(
            asked.routing,
            asked.model,
            ep=asked.layout.ep,
            nodes=hosts_of(asked.layout.ep, asked.hardware),
            redundant=asked.scenario.redundant,
            seed=asked.scenario.seed,
            emit=[f"{name}:{path}"],
        )
        content = path.read_bytes()
    media_type = {"json": "application/json", "yaml": "application/yaml"}
    return Download(
        f"{asked.model.name}-ep{asked.layout.ep}-{name}{path.suffix}",
        media_type.get(known.text, "application/octet-stream"),
        content,
    )


def _nothing(message: str) -> InfeasibleError:
    return InfeasibleError(message, resource="plan", needed=1.0, available=0.0)
