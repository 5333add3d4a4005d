"""Published systems beside ours: how far apart, and why."""

from __future__ import annotations

from moesim.reporting import figures
from moesim.reporting.documents import ScoreboardDocument, ScoreboardRow
from moesim.reporting.sections.parts import Answer, Table, brief, filled
from moesim.reporting.sections.validations import Parts
from moesim.reporting.tiles import Number, Tile


def parts(document: ScoreboardDocument) -> Parts:
    """What a page says of published systems."""
    rows, summary = document.rows, document.summary
    judged = summary.headlines if summary.headlines.n else summary
    what = "headlines" if summary.headlines.n else "rows"
    counts = judged.verdicts
    good, bound = counts.get("reproduced", 0), counts.get("assumption-bound", 0)
    lead = (
        f"Of {judged.n} {what} of {summary.systems} published systems, {good} are reproduced within 15 %, "
        f"{bound} for some "
        f"plausible value of what their source leaves open, {counts.get('direction', 0)} in direction "
        "alone, and "
        f"{counts.get('not reproduced', 0)} are not."
    )
    causes = [f"{n} rows are not reproduced for: {cause}." for cause, n in summary.causes.items() if n]
    opened = sum(bool(row.assumed) for row in rows)
    doubts = (
        [f"{opened} of {len(rows)} rows rest on numbers that their source does not give."] if opened else []
    )
    if summary.steady < summary.n:
        doubts.append(f"The verdict of {summary.n - summary.steady} rows changes within what is plausible.")
    headlines = [row for row in rows if row.headline and _ratio(row)]
    every = [row for row in rows if _ratio(row)]
    shown = []
    if headlines:
        shown.append(figures.scoreboard([_score(row, row.system) for row in headlines]))
    elif every:
        shown.append(figures.scoreboard([_score(row, row.name) for row in every[:80]], what="row"))
    if len(every) > len(headlines) > 0:
        shown.append(figures.ratio_histogram([_score(row, row.name) for row in every]))
    numbers = []
    if judged.n:
        number = Number(brief(100 * (good + bound) / judged.n), note=f"n = {judged.n} {what}")
        numbers.append(Tile("Reproduced or within assumptions", "%", (number,)))
    return (
        Answer(lead, filled(("Why not", causes), ("Uncertain", doubts))),
        shown,
        [_table(rows)],
        [] if every else ["Ratios: no row has one."],
        numbers,
    )


def _ratio(row: ScoreboardRow) -> bool:
    return row.ratio is not None and row.ratio > 0


def _score(row: ScoreboardRow, name: str) -> figures.ScoreRow:
    low, high = row.swept or [None, None]
    if not row.published > 0 or low is None or high is None or min(low, high) <= 0:
        low = high = None
    else:
        low, high = min(low, high) / row.published, max(low, high) / row.published
    return figures.ScoreRow(name, row.ratio, row.verdict, low, high)


def _table(rows: list[ScoreboardRow]) -> Table:
    cells = tuple(
        (
            row.system,
            row.row + (" (code)" if row.variant == "code" else ""),
            ", ".join(part for part in (row.metric, row.unit) if part) or "-",
            f"{row.published:.4g}" + (f" to {row.published_high:g}" if row.published_high else ""),
            "-" if row.ours is None else f"{row.ours:.4g}",
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            row.verdict,
            row.cause or row.reason,
            row.source,
        )
        for row in rows
    )
    columns = ("system", "row", "metric", "published", "ours", "ratio", "verdict", "why", "source")
    return Table("Rows", columns, cells, folded=len(cells) > 60)
