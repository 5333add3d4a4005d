"""From documents to the parts of a page: answer, figures, tables, what is missing."""

from moesim.reporting.sections.labels import labels_of, title_of
from moesim.reporting.sections.page import sections
from moesim.reporting.sections.parts import Answer, Section, Table

__all__ = ["Answer", "Section", "Table", "labels_of", "sections", "title_of"]
