"""`moesim calibrate cpu`: what this machine makes of MoE layers, as a hardware file."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, cast

import typer

from moesim.cli.common import Json, Seed, print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.calibrate.reference.cpu import CpuCalibration

#: Seconds of rounds without `--seconds`; with preparation and fits the command takes some 20 s more.
SECONDS = 75.0


def cpu(
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Hardware file to write; default: where `moesim validate reference` looks."
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1.0, help="Time for the rounds; fewer rounds are noisier.")
    ] = SECONDS,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure one core of this machine, and write a hardware file for `--hardware`.

    Whole MoE layers are run, in rounds of random order, with weights that are in no cache; times are CPU time
    of one thread. The file is marked inconclusive where equal measurements differ by more than 10 %.
    """
    import datetime as dt
    import shutil
    import sys
    import tempfile
    import time

    from moesim.calibrate.reference import default_path
    from moesim.calibrate.reference.cpu import calibrate_cpu
    from moesim.calibrate.reference.document import Facts, description, summary, text_of
    from moesim.cli.progress import Bars
    from moesim.errors import ConfigError, Fault
    from moesim.files import atomic_write, check_writable
    from moesim.reference import machine
    from moesim.reference.cpu import CpuRunner

    target = output if output is not None else default_path("cpu")
    faults = check_writable(target, "--output")
    if faults:
        raise ConfigError(faults)
    begun, state = time.monotonic(), machine.state()
    try:
        with Bars() as bars:
            found = calibrate_cpu(
                lambda backing: CpuRunner(backing=backing), limit_s=seconds, seed=seed, progress=bars.tell
            )
    except KeyboardInterrupt:
        stderr(f"interrupted: nothing was written to {target}")
        raise typer.Exit(130) from None
    except MemoryError:
        wrong = "not enough memory for weights that no cache holds"
        raise ConfigError(Fault(wrong, allowed="about 1 GB of free memory; nothing was written")) from None
    command = " ".join(["moesim", *sys.argv[1:]])
    facts = Facts(
        state,
        dt.datetime.now(dt.UTC).date().isoformat(),
        command,
        shutil.disk_usage(tempfile.gettempdir()).total,
        time.monotonic() - begun,
    )
    with atomic_write(target) as stream:
        cast(IO[str], stream).write(text_of(description(found, facts), command))
    if json:
        print_json({"output": target, "machine": state, **summary(found)}, kind="calibration-cpu", seed=seed)
    else:
        show(found)
        typer.echo(f"hardware file: {target}")
    if found.reads is None:
        stderr("warning: no file of experts could be written, storage is left out; TMPDIR names a folder")
    if not found.floor.conclusive:
        stderr(
            f"warning: inconclusive: equal measurements differ by {found.floor.median:.0%} in the median,"
            " more than 10 %; calibrate again when the machine is quiet"
        )


def show(found: CpuCalibration) -> None:
    """Print what was found for people."""
    limits, floor = found.ceilings, found.floor
    rows = [[f"product, {name}", f"{rate / 1e9:.1f} GFLOP/s"] for name, rate in limits.flops_per_s.items()]
    rows += [
        ["read", f"{limits.read_bytes_per_s / 1e9:.2f} GB/s"],
        ["write", f"{limits.write_bytes_per_s / 1e9:.2f} GB/s"],
        ["copy", f"{limits.copy_bytes_per_s / 1e9:.2f} GB/s"],
    ]
    rows += [
        [name, f"{c.latency_s * 1e6:.0f} us + {c.bytes_per_s / 1e9:.2f} GB/s (error {c.residual:.1%})"]
        for name, c in (("expert from memory", found.copies), ("expert from a file", found.reads))
        if c is not None
    ]
    print_table(["one core", ""], rows)
    typer.echo("")
    print_table(
        ["kernel", "dtype", "rows", "floor", "error left out: median", "p90", "bias"],
        [
            [
                fit.surface.kernel,
                fit.surface.dtype,
                fit.rows,
                f"{fit.surface.floor_s * 1e6:.1f} us",
                *(f"{value:.1%}" for value in (fit.left_out.median, fit.left_out.p90, fit.left_out.bias)),
            ]
            for fit in found.fits
        ],
    )
    typer.echo("")
    typer.echo(
        f"A/A noise of {found.rounds} rounds: {floor.median:.1%} in the median, {floor.p95:.1%} at the 95 %"
        " quantile"
    )
