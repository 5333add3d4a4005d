"""The one figure of each system that counts, fixed in ``headlines.csv`` before any row was run.

The rule: what the system's abstract states first about inference, and of a range its first number. Where the
abstract has no number, one figure of the paper or repository, named in the table.
"""

from __future__ import annotations

import csv
import functools
from importlib import resources

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
        )
        for line in csv.DictReader(text.splitlines())
    }


def headline(system: str) -> Figure:
    """The headline figure of a system."""
    return headlines()[system]
