"""The one figure of each system that counts, fixed in ``headlines.csv`` before any row was run.

The rule: what the system's abstract states first about inference, or of a system for training about that;
of a range its first number. Where the abstract has no number, one figure of the paper or repository, named in
the table; where a system claims a direction alone, there is no figure.

``claims.csv`` has everything that the abstracts claim, one line each, ``SYSTEM/1`` and on.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any

from moesim.systems.row import Figure


@functools.cache
def headlines() -> dict[str, Figure]:
    """Headline figures by system, in the order of the table."""
    text = resources.files("moesim.systems").joinpath("headlines.csv").read_text(encoding="utf-8")
    return {
        line["system"]: Figure(
            metric=line["metric"],
            unit=line["unit"],
            value=float(line["value"]) if line["value"] else None,
            high=float(line["high"]) if line["high"] else None,
            baseline=line["baseline"],
            grade=line["grade"],
            source=line["source"],
            locator=line["locator"],
            towards=0 if line["value"] else 1,
        )
        for line in csv.DictReader(text.splitlines())
    }


def headline(system: str) -> Figure:
    """The headline figure of a system."""
    return headlines()[system]


@dataclass(frozen=True, slots=True)
class Claim:
    """One line of what an abstract claims; fields as in ``claims.csv``."""

    claim: str
    system: str
    kind: str
    metric: str
    unit: str
    low: float | None
    high: float | None
    baseline: str
    setting: str
    source: str

    def figure(
        self, unit: str = "x", *, upper: bool = False, grade: str = "P", locator: str = "abstract"
    ) -> Figure:
        """As a row's published side: the lower end, or the upper one."""
        value = self.high if upper else self.low
        high = None if upper else self.high
        return Figure(self.metric, unit, value, high, self.baseline, grade, self.source, locator)


@functools.cache
def claims() -> dict[str, Claim]:
    """Every claim by its name, in the order of the table."""
    text = resources.files("moesim.systems").joinpath("claims.csv").read_text(encoding="utf-8")
    found = {}
    for line in csv.DictReader(text.splitlines()):
        values: dict[str, Any] = dict(line)
        values |= {end: float(line[end]) if line[end] else None for end in ("low", "high")}
        found[line["claim"]] = Claim(**values)
    return found
