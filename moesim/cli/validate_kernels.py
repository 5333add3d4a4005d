"""`moesim validate kernels`: the shipped surfaces against tables of measured kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.common import Json, print_json, print_table


def kernels(
    folder: Annotated[
        Path, typer.Argument(help="Kernel tables: <gpu>/<operation>/<backend>-<version>/*.parquet.")
    ],
    device: Annotated[str | None, typer.Option("--device", help="Only this GPU.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", help="vllm, sglang or trtllm; all if not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Error of modelled kernel times, by device, kernel, data type and engine."""
    from moesim.calibrate import BACKENDS
    from moesim.errors import ConfigError, Fault
    from moesim.validate import summary, validate_kernels

    unknown = [name for name in backend or () if name not in BACKENDS]
    if unknown:
        raise ConfigError(
            [Fault("unknown backend", "--backend", name, ", ".join(BACKENDS)) for name in unknown]
        )
    errors = validate_kernels(folder, device, backend or BACKENDS)
    totals = summary(errors)
    if json:
        print_json(
            {"rows": [error.to_dict() for error in errors], "summary": totals}, kind="validation-kernels"
        )
        return
    print_table(
        ["device", "kernel", "dtype", "measured", "modelled by", "n", "median", "mean", "p90", "bias"],
        [
            [
                e.device,
                e.kernel,
                e.dtype,
                f"{e.backend} {e.version}",
                e.modelled_by or None,
                e.error.n if e.error else 0,
                *(
                    f"{value:.1%}" if value is not None else None
                    for value in (
                        (e.error.median, e.error.mean, e.error.p90, e.error.bias) if e.error else (None,) * 4
                    )
                ),
            ]
            for e in errors
        ],
        title="error of modelled kernel times",
    )
    if totals["n"]:
        typer.echo(
            f"{totals['kernels']} kernels, {totals['n']} measurements: median error "
            f"{totals['median_of_medians']:.1%}, 90 % within {totals['median_of_p90']:.1%} (medians over "
            f"kernels); "
            f"{totals['without_surface']} without a surface"
        )
