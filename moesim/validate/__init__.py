"""Predictions beside measurements: how far off, where, and what the measurements themselves leave open."""

from moesim.validate.groups import dedupe, first_of_each, folds, group_of
from moesim.validate.inconsistent import Flag, inconsistent
from moesim.validate.kernels import KernelError, summary, validate_kernels
from moesim.validate.published import Compared, compare_published, published_document
from moesim.validate.published_rows import Answer, PublishedRow, read_published
from moesim.validate.report import Evaluation, evaluate
from moesim.validate.rows import Pool, ServingRow
from moesim.validate.score import Score, interval_score, score, score_by
from moesim.validate.serving import RowPrediction, predict_rows
from moesim.validate.serving_csv import iter_serving, read_serving

__all__ = [
    "Answer",
    "Compared",
    "Evaluation",
    "Flag",
    "KernelError",
    "Pool",
    "PublishedRow",
    "RowPrediction",
    "Score",
    "ServingRow",
    "compare_published",
    "dedupe",
    "evaluate",
    "first_of_each",
    "folds",
    "group_of",
    "inconsistent",
    "interval_score",
    "iter_serving",
    "predict_rows",
    "published_document",
    "read_published",
    "read_serving",
    "score",
    "score_by",
    "summary",
    "validate_kernels",
]
