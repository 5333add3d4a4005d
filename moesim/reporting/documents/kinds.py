"""Which kind of document it is: by its own word, or, of older ones, by what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from moesim.errors import Fault
from moesim.reporting.documents.base import Document
from moesim.reporting.documents.report import AnyDocument

#: Kinds that have a page, and what reads them.
KINDS: Mapping[str, type[Document]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(get_args(AnyDocument)[0])
}
#: What has a page, in a sentence.
READ = (
    "what moesim predict, place, simulate, plan, replay, trace stats, validate, reproduce and train print "
    "with --json, tables that simulate --output and plan --grid write, and pages of moesim report"
)

#: Fields that older documents of a kind have, and no other kind has all of; the first that fit.
_FIELDS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (kind, frozenset(fields.split()))
    for kind, fields in (
        ("replay-systems", "trace rows slots hardware model tokens"),
        ("replay-curve", "trace curves"),
        ("replay", "policy hit_ratio slots"),
        ("trace-statistics", "overall layers num_experts"),
        ("plan", "slo plan"),
        ("simulation", "latency completed"),
        ("training-search", "tried fitting layouts"),
        ("training", "step_s mfu"),
        ("validation-reference", "rows summary device runs"),
        ("placement", "lower_bound gap"),
        ("prediction", "ttft_s"),
        ("prediction", "tpot_s"),
    )
)


def kind_of(raw: Mapping[str, Any]) -> str:
    """The kind of a document; empty if it is none that has a page.

    >>> kind_of({"kind": "plan"}), kind_of({"tpot_s": 0.01, "ttft_s": 0.2}), kind_of({"a": 1})
    ('plan', 'prediction', '')
    """
    named = raw.get("kind")
    if isinstance(named, str) and (named in KINDS or named == "report"):
        return named
    # An older study's own word said what it evaluates.
    older = named is None or {"study", "table", "configurations"} <= raw.keys()
    if not older:
        return ""
    for kind, fields in _FIELDS:
        if fields <= raw.keys():
            return kind
    return _by_rows(raw)


def _by_rows(raw: Mapping[str, Any]) -> str:
    """Older documents of rows and a summary."""
    rows = raw.get("rows")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    for kind, fields in (
        ("scoreboard", {"verdict", "published"}),
        ("validation-published", {"published", "grade"}),
        ("validation-kernels", {"kernel", "modelled_by"}),
        ("validation-runs", {"measured", "predicted", "errors"}),
        ("validation-serving", {"pred_ttft_ms", "pred_tpot_ms"}),
    ):
        if isinstance(raw.get("summary"), dict) and fields <= first.keys():
            return kind
    return ""


def fault_of(raw: Mapping[str, Any]) -> Fault:
    """Why a document has no page."""
    named = raw.get("kind")
    if {"study", "table", "configurations"} <= raw.keys():
        return Fault(
            "names the table of a study, which holds the results", "table", _short(raw["table"]), "that file"
        )
    if isinstance(named, str):
        return Fault("has no page", "kind", _short(named), f"{', '.join(KINDS)}: {READ}")
    return Fault("is no document that has a page", allowed=READ)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
