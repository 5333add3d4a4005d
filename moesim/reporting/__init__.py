"""Reports: one self-contained page about results of every kind, published systems, or real runs."""

from moesim.reporting.gather import document_of, documents_of
from moesim.reporting.html import FORMATS, relabelled, report, write_page, write_placement_report
from moesim.reporting.read import read_documents
from moesim.reporting.reference_page import write_reference
from moesim.reporting.scoreboard import write_scoreboard

__all__ = [
    "FORMATS",
    "document_of",
    "documents_of",
    "read_documents",
    "relabelled",
    "report",
    "write_page",
    "write_placement_report",
    "write_reference",
    "write_scoreboard",
]
