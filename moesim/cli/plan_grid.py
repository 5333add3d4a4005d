"""`moesim plan --grid`: evaluate a study, or ask what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from moesim.cli.common import print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.studies import Done

#: Rows of reasons that are shown; all are in the table.
_REASONS = 5


def run_grid(
    path: str,
    out: str | None = None,
    processes: int = 1,
    scheduler: str | None = None,
    json: bool = False,
    query: str | None = None,
) -> None:
    """Evaluate what a study asks for and has no result yet; with a query, only look.

    Raises
    ------
    typer.Exit
        With 1, if rows failed, or none of them is feasible; with 130, if it was interrupted.
    """
    if query is not None:
        _look(path, out, query, json)
        return
    from moesim.studies import run_study

    try:
        done = run_study(path, out, processes=processes, scheduler=scheduler)
    except KeyboardInterrupt:
        stderr("stopped; what was evaluated is kept, and the same command goes on from there")
        raise typer.Exit(130) from None
    for warning in done.warnings:
        stderr(f"warning: {warning}")
    if json:
        print_json(_document(done), kind="study", inputs=[path], seed=done.study.base["seed"])
    else:
        _show(done)
    if done.failed or not done.statuses.get("ok"):
        raise typer.Exit(1)


def _look(path: str, out: str | None, sql: str, json: bool) -> None:
    from moesim.studies import query_study

    found, missing = query_study(path, sql, out)
    rows = found.to_pylist()
    if json:
        print_json({"rows": rows, "missing": missing}, kind="study-query", inputs=[path])
    else:
        print_table(found.column_names, [[_cell(v) for v in row.values()] for row in rows])
    if missing:
        stderr(f"note: {missing:,} configurations have no result yet; without --query they are evaluated")


def _cell(value: Any) -> object:  # noqa: ANN401 - whatever SQL gives
    return f"{value:.6g}" if isinstance(value, float) else value


def _reasons(done: Done) -> list[tuple[int, str, str]]:
    """How often each reason occurs, by status, most frequent first."""
    from moesim.studies.table import ask

    found = ask(
        {"study": done.table},
        "select count(*) n, status, reason from study where status <> 'ok' group by all "
        "order by n desc, status, reason",
    )
    return [tuple(row.values()) for row in found.to_pylist()]


def _document(done: Done) -> dict[str, Any]:
    return {
        "study": done.study.name,
        "evaluates": done.study.kind,
        "configurations": len(done.table),
        "found": done.found,
        "computed": done.computed,
        "statuses": dict(done.statuses),
        "reasons": [{"count": n, "status": status, "reason": reason} for n, status, reason in _reasons(done)],
        "table": str(done.path),
        "results": str(done.folder),
        "seconds": done.seconds,
        "warnings": done.warnings,
    }


def _show(done: Done) -> None:
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(done.statuses.items()))
    print_table(
        ["study", done.study.name],
        [
            ("configurations", f"{len(done.table):,}: {statuses}"),
            ("found, and computed now", f"{done.found:,}, {done.computed:,}"),
            ("table", done.path),
            ("results", done.folder),
        ],
    )
    reasons = _reasons(done)
    for count, status, reason in reasons[:_REASONS]:
        stderr(f"{status} ({count:,}): {reason}")
    if len(reasons) > _REASONS:
        stderr(f"and {len(reasons) - _REASONS:,} other reasons, in the table")
    if done.failed:
        stderr("run it again to evaluate what failed once more")
