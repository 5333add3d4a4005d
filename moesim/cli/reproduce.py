"""`moesim reproduce`: published figures of systems beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moesim.cli.common import Json, Seed, print_json, print_table


def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Systems; none are all of them.")
    ] = None,
    everything: Annotated[
        bool | None,
        typer.Option(
            "--all/--headlines",
            help="Every row, or the one headline of each system. Without: headlines, or all rows of NAME.",
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[bool, typer.Option(help="Move assumptions over their ranges.")] = True,
    variant: Annotated[str, typer.Option(help="paper or code alone, where these differ.")] = "",
    trace: Annotated[str, typer.Option(help="Routing to replay instead of what is bundled.")] = "",
    html: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="Also write the scoreboard as a page.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Rows that are run at once.")] = 1,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Print the published figures of systems beside ours: the ratio, what is assumed, and a verdict.

    reproduced: within 15 %. assumption-bound: within 15 % for some plausible value of what is assumed.
    direction: a gain is a gain. not reproduced: none of these.
    """
    from moesim.errors import ConfigError, Fault
    from moesim.files import check_writable
    from moesim.systems import VARIANTS, document
    from moesim.systems import reproduce as run
    from moesim.trace import RoutingTrace, load_trace

    faults = check_writable(html, "--html") if html else []
    if variant not in ("", *VARIANTS):
        faults.append(Fault("unknown variant", "--variant", variant, ", ".join(VARIANTS)))
    if faults:
        raise ConfigError(faults)
    routing = load_trace(trace) if trace else None
    if routing is not None and not isinstance(routing, RoutingTrace):
        raise ConfigError(Fault("needs tokens; these are load counts", "--trace", trace))
    wanted = names or []
    only = not everything if everything is not None else not wanted
    judged = run(
        wanted,
        headlines_only=only,
        variant=variant,
        sweep=sweep,
        trace=routing,
        seed=seed,
        processes=processes,
    )
    found = document(judged)
    if html:
        from moesim.provenance import provenance
        from moesim.reporting import write_scoreboard

        write_scoreboard(found, html, provenance([trace] if trace else [], seed))
    if json:
        print_json(found, kind="scoreboard", inputs=[trace] if trace else [], seed=seed)
        return
    _rows(found["rows"])
    if wanted:
        _details(found["rows"])
    typer.echo()
    _summary(found["summary"])
    if html:
        typer.echo(f"\nscoreboard: {html}")


def _rows(rows: list[dict[str, Any]]) -> None:
    print_table(
        ["system", "row", "metric", "grade", "published", "ours", "swept", "ratio", "verdict", "why not"],
        [
            [
                row["system"] + ("*" if row["headline"] else ""),
                row["row"] + (" (code)" if row["variant"] == "code" else ""),
                ", ".join(part for part in (row["metric"], row["unit"]) if part) or "-",
                row["grade"],
                _number(row["published"]) + (f"..{row['published_high']:g}" if row["published_high"] else ""),
                _number(row["ours"]),
                "-" if row["swept"] is None else "..".join(map(_number, row["swept"])),
                "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
                row["verdict"],
                row["cause"] if row["verdict"] != "reproduced" else "",
            ]
            for row in rows
        ],
        title="Published and ours; * is the one headline of a system",
    )


#: Of a row, in this order, where it has them.
_DETAILS = ("source", "locator", "baseline", "slots", "hardware", "workload", "routing", "cause", "reason")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _details(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        typer.echo()
        typer.echo(f"{row['system']}, {row['row']}: {row['verdict']}")
        if row["gain_ratio"] is not None:
            typer.echo(f"  gain over the published gain: {row['gain_ratio']:.2f}")
        for name in _DETAILS:
            if row[name]:
                typer.echo(f"  {name}: {row[name]}")
        for a in row["assumed"]:
            low, high = a["range"]
            typer.echo(f"  assumed {a['name']} = {a['value']:g} ({low:g} to {high:g}): {a['why']}")


def _summary(summary: dict[str, Any]) -> None:
    verdicts = list(summary["verdicts"])
    parts = {"headlines": summary["headlines"], "claims of abstracts": summary["claims"], "all": summary}
    shown = {name: part for name, part in parts.items() if part["n"]}
    print_table(
        ["rows", "n", *verdicts, "steady", "median |log ratio|"],
        [
            [
                name,
                part["n"],
                *(part["verdicts"][verdict] for verdict in verdicts),
                part["steady"],
                _number(part["median_abs_log_ratio"]),
            ]
            for name, part in shown.items()
        ],
    )
    causes = [f"{cause} {n}" for cause, n in summary["causes"].items() if n]
    if causes:
        typer.echo(f"not reproduced for: {', '.join(causes)}")
