"""What `moesim validate serving TABLE.csv` prints: predictions beside a table of measured serving runs."""
# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from moesim.reporting.documents.base import Count, Document, Number, Part, Share, Signed, Text, Texts

MOST_ROWS = 50_000

Signeds = Annotated[list[Signed | None], Field(max_length=MOST_ROWS)]
Places = Annotated[list[Number], Field(max_length=MOST_ROWS)]


class Score(Part):
    """Errors of a set of rows: fractions of the measured value."""

    n: Number
    median: Signed | None = None
    mean: Signed | None = None
    p90: Signed | None = None
    signed: Signed | None = None
    coverage: Share | None = None
    width: Signed | None = None
    interval: Signed | None = None


Scores = Annotated[dict[Text, Score], Field(max_length=500)]


class MetricScores(Part):
    """Scores of one metric: sets of rows by name, groups of the judged rows, and the fitted roofline."""

    sets: Scores = {}
    by: Annotated[dict[Text, Scores], Field(max_length=20)] = {}
    roofline: Scores = {}

    @model_validator(mode="before")
    @classmethod
    def _sets(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever was read
        """Sets lie beside ``by`` and ``roofline`` in what is printed."""
        if isinstance(raw, dict) and "sets" not in raw:
            apart = ("by", "roofline")
            own = {name: value for name, value in raw.items() if name not in apart}
            return {"sets": own, **{name: raw[name] for name in apart if name in raw}}
        return raw


Plain = Annotated[dict[Text, Signed | None], Field(max_length=50)]
Split = Annotated[dict[Text, Plain], Field(max_length=10)]
Splits = Annotated[dict[Text, Split], Field(max_length=20)]


class Calibrated(Part):
    """The calibration in use, and what it says of itself."""

    name: Text = ""
    source: Text | None = None
    digest: Text | None = None
    seen: Number = 0
    warning: Text | None = None
    #: By family, kind of split, metric.
    held_out: Annotated[dict[Text, Splits], Field(max_length=50)] | None = None


class ServingSummary(Part):
    """Everything but the rows."""

    ttft: MetricScores = MetricScores()
    tpot: MetricScores = MetricScores()
    counts: Annotated[dict[Text, Number], Field(max_length=50)] = {}
    not_predicted: Annotated[dict[Text, Number], Field(max_length=1000)] = {}
    calibration: Calibrated | None = None


class ServingRow(Part):
    """One measured run."""

    model: Text = ""
    system: Text = ""
    backend: Text = ""
    mode: Text = ""
    ttft_ms: Count | None = None
    tpot_ms: Count | None = None
    pred_ttft_ms: Count | None = None
    pred_tpot_ms: Count | None = None
    ttft_lo_ms: Count | None = None
    ttft_hi_ms: Count | None = None
    tpot_lo_ms: Count | None = None
    tpot_hi_ms: Count | None = None
    doubtful: Text = ""
    inconsistent: Texts = []
    duplicate_of: Text | None = None


class Points(Part):
    """Rows of one metric that are both measured and predicted, in seconds, a column each."""

    measured: Signeds = []
    predicted: Signeds = []
    low: Signeds = []
    high: Signeds = []
    #: Place of each row's group in `groups`.
    group: Places = []
    groups: Annotated[list[Text], Field(max_length=1000)] = []

    @model_validator(mode="after")
    def _columns(self) -> Points:
        columns = (self.measured, self.predicted, self.low, self.high, self.group)
        if len({len(column) for column in columns}) != 1:
            raise ValueError("columns have not the same length")
        if any(place >= len(self.groups) for place in self.group):
            raise ValueError("a row is of no group")
        return self

    @property
    def names(self) -> list[str]:
        """The group of every row."""
        return [self.groups[place] for place in self.group]

    @classmethod
    def of(cls, rows: list[ServingRow], metric: str) -> Points:
        """Distinct rows that nothing speaks against."""
        found = cls()
        for row in rows:
            measured, predicted = getattr(row, f"{metric}_ms"), getattr(row, f"pred_{metric}_ms")
            if not measured or not predicted or row.duplicate_of or row.doubtful or row.inconsistent:
                continue
            if row.system not in found.groups:
                found.groups.append(row.system)
            found.group.append(found.groups.index(row.system))
            values = (measured, predicted, getattr(row, f"{metric}_lo_ms"), getattr(row, f"{metric}_hi_ms"))
            columns = (found.measured, found.predicted, found.low, found.high)
            for column, value in zip(columns, values, strict=True):
                column.append(None if value is None else float(f"{value / 1e3:.6g}"))
        return found


class ServingValidation(Document):
    """What `moesim validate serving TABLE.csv --json` prints; rows are kept as columns of points."""

    title: ClassVar[str] = "Predictions beside measured serving runs"

    kind: Literal["validation-serving"] = "validation-serving"
    summary: ServingSummary
    rows: Annotated[list[ServingRow], Field(max_length=MOST_ROWS, exclude=True)] = []
    points: Annotated[dict[Literal["ttft", "tpot"], Points], Field(max_length=2)] = {}

    @model_validator(mode="after")
    def _points(self) -> ServingValidation:
        if self.rows and not self.points:
            self.points = {"ttft": Points.of(self.rows, "ttft"), "tpot": Points.of(self.rows, "tpot")}
            self.rows = []
        return self

    @property
    def traits(self) -> tuple[str, ...]:
        """How many runs, which calibration."""
        calibration = self.summary.calibration
        return (
            f"{self.summary.counts.get('measured', 0):,} measured rows",
            f"calibration {calibration.name}" if calibration else "",
        )
