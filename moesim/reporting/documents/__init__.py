"""What a page is made of: the JSON documents of commands, with every value checked."""

from moesim.reporting.documents.base import Document, HardwareSources, Provenance, checked
from moesim.reporting.documents.placement import (
    PLACEMENTS,
    PRICED,
    Details,
    Imbalance,
    Judged,
    LowerBound,
    Objective,
    PlacementDocument,
    Price,
    PricePoint,
    RankLoads,
    Redundancy,
)
from moesim.reporting.documents.prediction import Interval, Layout, PredictionDocument
from moesim.reporting.documents.report import AnyDocument, ReportDocument

__all__ = [
    "PLACEMENTS",
    "PRICED",
    "AnyDocument",
    "Details",
    "Document",
    "HardwareSources",
    "Imbalance",
    "Interval",
    "Judged",
    "Layout",
    "LowerBound",
    "Objective",
    "PlacementDocument",
    "PredictionDocument",
    "Price",
    "PricePoint",
    "Provenance",
    "RankLoads",
    "Redundancy",
    "ReportDocument",
    "checked",
]
