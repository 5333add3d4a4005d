"""What a page is made of: the JSON documents of commands, with every value checked."""

from moesim.reporting.documents.base import Document, HardwareSources, Provenance, checked, last_part
from moesim.reporting.documents.kinds import KINDS, READ, fault_of, kind_of
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
from moesim.reporting.documents.plan import LIMITS, Assessed, PlanDocument
from moesim.reporting.documents.prediction import Interval, Layout, PredictionDocument
from moesim.reporting.documents.replay import (
    CurveDocument,
    Hits,
    ReplayDocument,
    SystemRow,
    SystemsDocument,
)
from moesim.reporting.documents.report import AnyDocument, ReportDocument
from moesim.reporting.documents.scoreboard import ScoreboardDocument, ScoreboardRow
from moesim.reporting.documents.simulation import (
    Distribution,
    OverTime,
    SimulationDocument,
    Spread,
    Window,
)
from moesim.reporting.documents.statistics import MOST_PAIRED, StatisticsDocument
from moesim.reporting.documents.study import StudyDocument, StudyRow, Varied
from moesim.reporting.documents.training import Iterated, TrainingDocument, TrainingSearch
from moesim.reporting.documents.validation_kernels import KernelsValidation
from moesim.reporting.documents.validation_published import PublishedValidation
from moesim.reporting.documents.validation_reference import ReferenceValidation
from moesim.reporting.documents.validation_runs import RunsValidation
from moesim.reporting.documents.validation_serving import ServingValidation

__all__ = [
    "KINDS",
    "LIMITS",
    "MOST_PAIRED",
    "PLACEMENTS",
    "PRICED",
    "READ",
    "AnyDocument",
    "Assessed",
    "CurveDocument",
    "Details",
    "Distribution",
    "Document",
    "HardwareSources",
    "Hits",
    "Imbalance",
    "Interval",
    "Iterated",
    "Judged",
    "KernelsValidation",
    "Layout",
    "LowerBound",
    "Objective",
    "OverTime",
    "PlacementDocument",
    "PlanDocument",
    "PredictionDocument",
    "Price",
    "PricePoint",
    "Provenance",
    "PublishedValidation",
    "RankLoads",
    "Redundancy",
    "ReferenceValidation",
    "ReplayDocument",
    "ReportDocument",
    "RunsValidation",
    "ScoreboardDocument",
    "ScoreboardRow",
    "ServingValidation",
    "SimulationDocument",
    "Spread",
    "StatisticsDocument",
    "StudyDocument",
    "StudyRow",
    "SystemRow",
    "SystemsDocument",
    "TrainingDocument",
    "TrainingSearch",
    "Varied",
    "Window",
    "checked",
    "fault_of",
    "kind_of",
    "last_part",
]
