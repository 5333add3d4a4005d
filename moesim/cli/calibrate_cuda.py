"""`moesim calibrate cuda`: what this machine's GPU makes of MoE layers, as a hardware file."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, cast

import typer

from moesim.cli.common import Json, print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.calibrate.reference.cuda import CalibratedCuda
    from moesim.reference.cuda.backend import Backend


def cuda(
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Hardware file to write; default: where `moesim validate reference` looks."
        ),
    ] = None,
    device_index: Annotated[int, typer.Option(min=0, help="Which of the GPUs that the driver shows.")] = 0,
    emulated: Annotated[
        bool, typer.Option("--emulated", hidden=True, help="The host plays a tiny GPU: times mean nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure a GPU of this machine, and write a hardware file for `--hardware`.

    Runs the reference kernels over shapes made for the purpose, in less than five minutes. The file is marked
    inconclusive where equal measurements differ by more than 10 %.
    """
    import sys

    from moesim.calibrate.reference import default_path
    from moesim.errors import ConfigError
    from moesim.files import atomic_write, check_writable
    from moesim.reference.cuda.backend import open_backend

    target = output if output is not None else default_path("cuda")
    faults = check_writable(target, "--output")
    if faults:
        raise ConfigError(faults)
    backend = open_backend(emulated=emulated, ordinal=device_index)
    command = " ".join(["moesim", *sys.argv[1:]])
    try:
        found = _measure(backend, command)
    except KeyboardInterrupt:
        stderr(f"interrupted: nothing was written to {target}")
        raise typer.Exit(130) from None
    finally:
        backend.close()
    from moesim.calibrate.reference.cuda_file import text_of

    with atomic_write(target) as stream:
        cast(IO[str], stream).write(text_of(found.document))
    if json:
        measured = found.measured
        kept = ("verdict", "floor", "ceilings", "contention", "left_out", "seconds", "emulated")
        print_json(
            {"output": str(target), **{name: measured[name] for name in kept}}, kind="calibration-cuda"
        )
    else:
        show(found)
        typer.echo(f"hardware file: {target}")
    if found.verdict == "inconclusive":
        stderr(
            f"warning: inconclusive: equal measurements differ by {found.floor.median:.0%} in the median,"
            " more than 10 %; calibrate again when the GPU is idle"
        )


def _measure(backend: Backend, command: str) -> CalibratedCuda:
    from dataclasses import replace
    from math import inf

    from moesim.calibrate.reference.cuda import calibrate_cuda
    from moesim.calibrate.reference.cuda_set import TINY, Sizes, configurations
    from moesim.reference import machine
    from moesim.reference.cuda import CudaRunner
    from moesim.reference.cuda.variants import bounds

    tiles = configurations(bounds(backend.capability))
    if backend.emulated:
        tiles = (replace(tiles[0], most=inf),)  # one of them shows that all of it runs
    return calibrate_cuda(
        backend,
        lambda name: CudaRunner(backend=backend, variant=name, alike=True),
        tiles,
        sizes=TINY if backend.emulated else Sizes(),
        told=stderr,
        machine=machine.state(),
        command=command,
    )


def show(found: CalibratedCuda) -> None:
    """Print what was found for people."""
    limits, law, floor = found.ceilings, found.waves.law, found.floor
    if found.measured["emulated"]:
        typer.echo("EMULATED on the host: nothing below is a measurement of a GPU")
    rows = [[f"kernel, {name}", f"{seconds * 1e6:.2f} us"] for name, seconds in limits.launch_s.items()]
    rows += [
        [name, f"{max(rate for _, rate in points) / 1e9:.0f} GB/s"] for name, points in limits.memory.items()
    ]
    rows += [["best product", f"{found.measured['best_flops_per_s'] / 1e12:.1f} TFLOP/s"]]
    rows += [
        [
            name.replace("_", ", "),
            f"{line.latency_s * 1e6:.1f} us + {line.bandwidth_bytes_per_s / 1e9:.1f} GB/s",
        ]
        for name, line in limits.host.items()
    ]
    rows += [[f"two streams, {name}", f"{gain:.2f} times one"] for name, gain in limits.two_streams.items()]
    beside = found.measured["contention"]
    rows += [[f"{beside['with']} beside a copy", f"{beside['kernel']:.2f} times as long"]]
    rows += [[f"a copy beside {beside['with']}", f"{beside['copy']:.2f} times as long"]]
    print_table([found.device.title, ""], rows)
    typer.echo("")
    print_table(
        ["configuration", "up to", "share of peak", "fill", "drain"],
        [
            [
                tile.name,
                f"{tile.most:.1f}",
                f"{tile.compute:.1%}",
                f"{tile.fill_s * 1e6:.2f} us",
                f"{tile.drain_s * 1e6:.2f} us",
            ]
            for tile in law.tiles
        ],
    )
    typer.echo("")
    print_table(
        ["error left out", "rows", "median", "p90", "bias"],
        [
            [name, error.n, f"{error.median:.1%}", f"{error.p90:.1%}", f"{error.bias:+.1%}"]
            for name, error in (
                ("grouped products", found.waves.left_out),
                ("experts as a whole (fitted)", found.layers),
                *((fit.surface.kernel, fit.left_out) for fit in found.fits),
            )
        ],
    )
    typer.echo("")
    typer.echo(
        f"A/A noise: {floor.median:.1%} in the median, {floor.p95:.1%} at the 95 % quantile;"
        f" {found.measured['seconds']:.0f} s"
    )
