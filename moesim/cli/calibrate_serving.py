"""`moesim calibrate serving`: learn from measured serving runs."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer

from moesim.cli.common import Json, print_json, print_table, stderr


def serving(
    runs: Annotated[
        Path, typer.Argument(help="CSV of measured runs, as `moesim validate serving` reads it.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the calibration.")
    ] = None,
    source: Annotated[str, typer.Option(help="Where the runs are from, for the record.")] = "",
    nested: Annotated[
        bool,
        typer.Option(
            help="Find strengths of effects anew for every group held out: far slower, stricter errors."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Fit constants of engines, effects beyond physics and intervals to measured runs."""
    from json import dumps

    from moesim.errors import ConfigError
    from moesim.files import atomic_write, check_writable
    from moesim.learning import calibrate_serving
    from moesim.validate import read_serving

    faults = check_writable(output, "--output") if output is not None else []
    if faults:
        raise ConfigError(faults)
    calibration, _ = calibrate_serving(
        read_serving(runs), source=source or runs.name, nested=nested, tell=stderr
    )
    if output is not None:
        with atomic_write(output) as stream:
            cast(IO[str], stream).write(dumps(calibration.to_dict(), separators=(",", ":")) + "\n")
    found = calibration.provenance
    if json:
        print_json({"traits": calibration.to_dict()["traits"], **found}, inputs=[runs])
        return
    print_table(
        ["family", "held out", *_COLUMNS, "score", "of one width"],
        [
            [*place, *_line(row), f"{row['score']:.2f}", f"{row['constant_score']:.2f}"]
            for family, by_kind in found["held_out"].items()
            for place, row in _rows(family, by_kind)
        ],
        title=f"errors of held-out runs: {', '.join(f'{n} {name}' for name, n in found['rows'].items())}",
    )
    print_table(
        ["family", "rows", "held out", *_COLUMNS],
        [
            [family, name, kind, *_line(row)]
            for family, by_name in found["apart"].items()
            for name, by_kind in by_name.items()
            for (_, kind), row in _rows(family, by_kind)
        ],
        title="the same of runs that data alone sets apart",
    )


_COLUMNS = ("metric", "runs", "median", "p90", "90% interval holds", "median hi/lo")


def _rows(family: str, by_kind: dict[str, Any]) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    return [
        ((family, f"{kind}s"), {"metric": metric, **row})
        for kind, metrics in by_kind.items()
        for metric, row in metrics.items()
    ]


def _line(row: dict[str, Any]) -> list[str]:
    return [
        row["metric"].upper(),
        f"{row['n']:,}",
        f"{row['median']:.1%}",
        f"{row['p90']:.1%}",
        f"{row['coverage']:.1%}",
        f"{row['width']:.2f}",
    ]
