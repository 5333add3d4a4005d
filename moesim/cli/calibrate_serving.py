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
    calibration, _ = calibrate_serving(read_serving(runs), source=source or runs.name, tell=stderr)
    if output is not None:
        with atomic_write(output) as stream:
            cast(IO[str], stream).write(dumps(calibration.to_dict(), separators=(",", ":")) + "\n")
    found = calibration.provenance
    if json:
        print_json({"traits": calibration.to_dict()["traits"], **found}, inputs=[runs])
        return
    print_table(
        ["family", "held out", "metric", "median", "p90", "90% interval holds", "median hi/lo"],
        [_line(*place, row) for place, row in _rows(found["held_out"])],
        title=f"errors of held-out runs: {', '.join(f'{n} {name}' for name, n in found['rows'].items())}",
    )


def _rows(held_out: dict[str, Any]) -> list[tuple[tuple[str, str, str], dict[str, float]]]:
    return [
        ((family, kind, metric), row)
        for family, kinds in held_out.items()
        for kind, metrics in kinds.items()
        for metric, row in metrics.items()
    ]


def _line(family: str, kind: str, metric: str, row: dict[str, float]) -> list[str]:
    return [
        family,
        f"{kind}s",
        metric.upper(),
        f"{row['median']:.1%}",
        f"{row['p90']:.1%}",
        f"{row['coverage']:.1%}",
        f"{row['width']:.2f}",
    ]
