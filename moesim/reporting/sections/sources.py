"""How well the numbers of a machine are known."""

from __future__ import annotations

from collections.abc import Iterable

from moesim.reporting.documents import HardwareSources

#: How a number of a hardware description is known, where it is not from a source that was read.
UNSURE = ("assumed", "recalled")


def of_hardware(machines: Iterable[HardwareSources]) -> list[str]:
    """How much of the machines' descriptions was not read from a source."""
    return [
        f"{len(unsure)} of the {len(machine.sources)} numbers that describe {machine.name} are "
        f"{' or '.join(UNSURE)}; they are listed below."
        for machine in machines
        if (unsure := [s for s in machine.sources.values() if status(s) in UNSURE])
    ]


def status(source: str) -> str:
    """How a number is known, from ``citation [status]; note``.

    >>> status("impala-blog (1 us) [assumed]; a note")
    'assumed'
    """
    _, bracket, rest = source.rpartition(" [")
    return rest.partition("]")[0] if bracket else ""
