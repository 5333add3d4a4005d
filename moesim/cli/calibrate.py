"""`moesim calibrate`: what the cost model learns from measurements."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Annotated, cast

import typer

from moesim.cli.calibrate_cpu import cpu
from moesim.cli.calibrate_cuda import cuda
from moesim.cli.calibrate_serving import serving
from moesim.cli.common import Json, print_json, print_table, stderr

app = typer.Typer(no_args_is_help=True, help="Fit what the cost model needs from measurements.")
app.command()(serving)
app.command()(cpu)
app.command()(cuda)


@app.command()
def tables(
    folder: Annotated[
        Path, typer.Argument(help="Kernel tables: <gpu>/<operation>/<backend>-<version>/*.parquet.")
    ],
    device: Annotated[str, typer.Option("--device", help="The machine they were measured on.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="File of measured kernels to write (JSON).")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", help="vllm, sglang or trtllm; all if not given.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Where the tables are from, with a version.")] = None,
    json: Json = False,
) -> None:
    """Fit measured kernels, for the `kernels` of a hardware file."""
    from moesim.calibrate import BACKENDS, calibrate, folder_of, folders, text_of
    from moesim.calibrate.kernel_file import LICENCE, SOURCE
    from moesim.errors import ConfigError, Fault
    from moesim.files import atomic_write, check_writable
    from moesim.hardware import load_hardware

    faults = [
        Fault("unknown backend", "--backend", name, ", ".join(BACKENDS))
        for name in backend or ()
        if name not in BACKENDS
    ]
    faults += check_writable(output, "--output") if output is not None else []
    found: dict[str, Path] = {}
    machine = None
    try:
        found = folders(folder)
    except ConfigError as error:
        faults += [Fault(f"{error.source}: {fault}") for fault in error.faults]
    try:
        machine = load_hardware(device)
    except ConfigError as error:
        faults += error.faults
    chosen = None
    if machine is not None and found:
        try:
            chosen = found[folder_of(found, device)]
        except ConfigError as error:
            faults += error.faults
    if faults or machine is None or chosen is None:
        raise ConfigError(faults)
    made = calibrate(chosen, machine.device, backend or BACKENDS)
    document = made.to_dict(source or SOURCE, LICENCE if source is None else "unknown")
    if output is not None:
        with atomic_write(output) as stream:
            cast(IO[str], stream).write(text_of(document))
    entries = [{k: v for k, v in fit.items() if k not in ("steps", "axes")} for fit in document["fits"]]
    if json:
        print_json(
            {"device": made.device, "output": output, "fits": entries, "dropped": document["dropped"]},
            kind="calibration-kernels",
        )
        return
    print_table(
        ["kernel", "dtype", "backend", "rows", "median", "p90", "bias", "shapes left out", "p90"],
        [
            [
                entry["kernel"],
                entry["dtype"],
                f"{entry['backend']} {entry['version']}",
                entry["rows"],
                *(f"{entry['left_out'][name]:.1%}" for name in ("median", "p90", "bias")),
                *(
                    f"{entry['shapes_left_out'][name]:.1%}" if "shapes_left_out" in entry else None
                    for name in ("median", "p90")
                ),
            ]
            for entry in entries
        ],
        title=f"{made.device}: error on rows left out of the fit",
    )
    for entry in document["dropped"]:
        stderr(f"dropped: {entry['kernel']} {entry['dtype']} {entry['backend']}: {entry['reason']}")
    if output is not None:
        typer.echo(f"kernels: {output}")
