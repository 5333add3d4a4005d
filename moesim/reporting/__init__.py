"""Reports: one self-contained HTML page about predictions and placements, or about published systems."""

from moesim.reporting.html import report, write_page, write_placement_report
from moesim.reporting.read import read_documents
from moesim.reporting.scoreboard import write_scoreboard

__all__ = ["read_documents", "report", "write_page", "write_placement_report", "write_scoreboard"]
