"""Reports: one self-contained HTML page about predictions and placements."""

from moesim.reporting.html import report, write_page, write_placement_report
from moesim.reporting.read import read_documents

__all__ = ["read_documents", "report", "write_page", "write_placement_report"]
