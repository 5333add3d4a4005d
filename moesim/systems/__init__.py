"""Published systems as rows: their slots, their baseline, the figure they report, and what we get."""

from moesim.systems.headlines import Claim, claims, headline, headlines
from moesim.systems.registry import find, rows, systems
from moesim.systems.reproduce import Judged, document, reproduce, run_row, summary
from moesim.systems.row import CAUSES, VARIANTS, Assumption, Case, Figure, Row
from moesim.systems.verdict import TOLERANCE, VERDICTS, judge

__all__ = [
    "CAUSES",
    "TOLERANCE",
    "VARIANTS",
    "VERDICTS",
    "Assumption",
    "Case",
    "Claim",
    "Figure",
    "Judged",
    "Row",
    "claims",
    "document",
    "find",
    "headline",
    "headlines",
    "judge",
    "reproduce",
    "rows",
    "run_row",
    "summary",
    "systems",
]
