"""Predictions beside published figures: every line of a file, predicted or with the reason why not."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from moesim.validate.published_comms import exchange_answer
from moesim.validate.published_deployments import deployment_answer
from moesim.validate.published_kernels import kernel_answer
from moesim.validate.published_reasons import reason_of
from moesim.validate.published_rows import Answer, PublishedRow
from moesim.validate.score import Score, score

#: The only grade that counts.
GATE = "P"
_ANSWERS: tuple[Callable[[PublishedRow], Answer | None], ...] = (
    exchange_answer,
    kernel_answer,
    deployment_answer,
)


@dataclass(frozen=True, slots=True)
class Compared:
    """A published figure and what moesim says to it."""

    row: PublishedRow
    answer: Answer

    @property
    def ratio(self) -> float | None:
        """Ours over the published figure."""
        if self.answer.ours is None or not self.row.value:
            return None
        return self.answer.ours / self.row.value

    @property
    def counts(self) -> bool:
        """Whether it has both, and its grade is that of the gate."""
        return self.ratio is not None and self.row.grade == GATE


def compare_published(rows: Iterable[PublishedRow]) -> list[Compared]:
    """Ask moesim about every published figure, in the order of the file."""
    return [Compared(row, _answer(row)) for row in rows]


def _answer(row: PublishedRow) -> Answer:
    if row.value is None:
        return Answer(reason="its value is blank, a range or a limit")
    if row.grade.endswith("/SIM"):
        return Answer(reason="another simulator's own result")
    found = (answer(row) for answer in _ANSWERS)
    return next((answer for answer in found if answer is not None), None) or Answer(reason=reason_of(row))


def published_document(compared: Sequence[Compared]) -> dict[str, Any]:
    """The rows, and a summary of those of the gate's grade, as one JSON-like tree.

    Every error is ``ours / published - 1`` in the unit of the row, as a fraction. `summary` is over all rows
    of grade P that are predicted; its `judged` leaves out those that moesim's numbers were fitted to, and its
    `one_vote` gives every system one vote: the median over systems of each system's figure.
    """
    gate = [c for c in compared if c.counts]
    judged = [c for c in gate if not c.answer.fitted]
    predicted = [c for c in compared if c.ratio is not None]
    missing = [c for c in compared if c.ratio is None]
    reasons = Counter(c.answer.reason or "its value is 0" for c in missing)
    summary: dict[str, Any] = {
        **_errors(gate),
        "rows": len(compared),
        "judged": _errors(judged),
        "fitted": len(gate) - len(judged),
        "by_kind": _by(gate, lambda c: c.answer.kind),
        "by_system": _by(gate, _system_and_kind),
        "judged_by_kind": _by(judged, lambda c: c.answer.kind),
        "judged_by_system": _by(judged, _system_and_kind),
        "one_vote": _one_vote(judged),
        "other_grades": _by([c for c in predicted if c.row.grade != GATE], lambda c: c.row.grade),
        "unsupported": {
            "n": len(missing),
            "n_gate_grade": sum(c.row.grade == GATE for c in missing),
            "reasons": dict(reasons.most_common()),
        },
    }
    return {"rows": [_row(c) for c in compared], "summary": summary}


def _row(c: Compared) -> dict[str, Any]:
    ratio = c.ratio
    names = ("hardware", "num_devices", "model", "phase", "precision", "parallelism", "batch")
    return {
        "line": c.row.line,
        "system": c.row.system,
        **{name: c.row.text(name) for name in (*names, "input_len", "output_len")},
        "metric": c.row.text("metric"),
        "unit": c.row.text("unit"),
        "published": c.row.value,
        "ours": c.answer.ours if ratio is not None else None,
        "ratio": ratio,
        "error": None if ratio is None else ratio - 1.0,
        "grade": c.row.grade,
        "source": ", ".join(filter(None, (c.row.text("source"), c.row.text("locator")))),
        "kind": c.answer.kind,
        "fitted": c.answer.fitted,
        "assumed": c.answer.assumed,
        "status": "predicted" if ratio is not None else "unsupported",
        "reason": "" if ratio is not None else c.answer.reason or "its value is 0",
    }


def _system_and_kind(c: Compared) -> str:
    return f"{c.row.system}, {c.answer.kind}"


def _score(part: Sequence[Compared]) -> Score:
    return score([c.answer.ours or 0.0 for c in part], [c.row.value or 0.0 for c in part])


def _errors(part: Sequence[Compared]) -> dict[str, Any]:
    found = _score(part)
    return {
        "n": found.n,
        "median_abs_error": found.median,
        "mean_abs_error": found.mean,
        "p90_abs_error": found.p90,
        "median_signed_error": found.signed,
    }


def _by(part: Sequence[Compared], key: Callable[[Compared], str]) -> dict[str, dict[str, Any]]:
    keys = sorted({key(c) for c in part})
    return {name: _errors([c for c in part if key(c) == name]) for name in keys}


def _one_vote(part: Sequence[Compared]) -> dict[str, dict[str, Any]]:
    """By kind, the median over systems of each system's median and of its 90th percentile."""
    votes = {}
    for kind in sorted({c.answer.kind for c in part}):
        systems = _by([c for c in part if c.answer.kind == kind], lambda c: c.row.system).values()
        votes[kind] = {
            "systems": len(systems),
            "median_abs_error": statistics.median(s["median_abs_error"] for s in systems),
            "p90_abs_error": statistics.median(s["p90_abs_error"] for s in systems),
        }
    return votes
