"""`moesim hardware traffic`: what traffic does to the links of a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.cli.common import Json, print_json, print_table
from moesim.errors import ConfigError, Fault, nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Devices whose pairs are listed at once: a matrix of 128 MiB.
_MOST = 4096


def traffic(
    name: Annotated[str, typer.Argument(help="Catalogue name, alias, or path of a hardware file.")],
    nodes: Annotated[int | None, typer.Option(help="Number of nodes; default: as it is sold.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="all_to_all (default), neighbour, or hotspot: all to device 0.")
    ] = None,
    matrix: Annotated[
        Path | None, typer.Option(help="Bytes from device to device: CSV or .npy of n x n numbers.")
    ] = None,
    size: Annotated[str, typer.Option("--bytes", help="What each device sends in a pattern.")] = "64 MB",
    top: Annotated[int, typer.Option(min=1, help="Busiest links to show.")] = 8,
    as_json: Json = False,
) -> None:
    """Show what traffic does to a machine: busiest links, hops, seconds, and algorithms compared."""
    from moesim.fabric import algorithms, traffic_report
    from moesim.fabric import pattern as named
    from moesim.hardware import load_hardware
    from moesim.units import show

    machine = load_hardware(name, nodes)
    sent, each = _asked(pattern, matrix, size, machine.num_devices)
    if sent is None:
        sent = named(pattern or "all_to_all", machine.num_devices, each)
    found = traffic_report(machine, sent, top)
    ways = algorithms(machine, len(sent), each) if len(sent) > 1 else []
    if as_json:
        document = {
            "machine": machine.name,
            "devices": machine.num_devices,
            "pattern": None if matrix else pattern or "all_to_all",
            "bytes_per_device": each,
            "total_bytes": found.total_bytes,
            "seconds": found.seconds,
            "latency_s": found.seconds - found.busiest_s,
            "busiest_s": found.busiest_s,
            "mean_hops": found.mean_hops,
            "max_hops": found.max_hops,
            "busiest_links": [
                {
                    "link": busy.link,
                    "bytes": busy.bytes,
                    "bandwidth_bytes_per_s": busy.bandwidth_bytes_per_s,
                    "seconds": busy.seconds,
                }
                for busy in found.busiest
            ],
            "algorithms": [{"collective": c, "algorithm": a, "seconds": s} for c, a, s in ways],
        }
        print_json(document, kind="hardware-traffic", inputs=[machine.path, *([matrix] if matrix else [])])
        return
    typer.echo(
        f"{machine.name}, {len(sent)} devices:"
        f" {show(found.total_bytes, 'bytes')} in {show(found.seconds, 's')}"
        f" ({show(found.busiest_s, 's')} on the busiest link, the rest is latency);"
        f" {found.mean_hops:.3g} hops per byte, at most {found.max_hops:g}\n"
    )
    print_table(
        ("busiest link", "carries", "of", "in"),
        [
            (
                busy.link,
                show(busy.bytes, "bytes"),
                show(busy.bandwidth_bytes_per_s, "bytes_per_s"),
                show(busy.seconds, "s"),
            )
            for busy in found.busiest
        ],
    )
    if ways:
        typer.echo("")
        title = f"collectives of {show(each, 'bytes')} on these links"
        print_table(("collective", "algorithm", "seconds"), [(c, a, show(s, "s")) for c, a, s in ways], title)


def _asked(
    pattern: str | None, matrix: Path | None, size: str, devices: int
) -> tuple[npt.NDArray[np.float64] | None, float]:
    """The matrix, if one is given, and bytes of each device; all faults at once."""
    from moesim.fabric import PATTERNS
    from moesim.units import parse

    faults, each, sent = [], 0.0, None
    if devices > _MOST:
        faults.append(
            Fault("too many devices to list their pairs", "--nodes", devices, f"at most {_MOST} devices")
        )
    if pattern is not None and matrix is not None:
        faults.append(Fault("excludes --matrix", "--pattern", allowed="one of the two"))
    if pattern is not None and pattern not in PATTERNS:
        near = nearest(pattern, PATTERNS, 1)
        hint = f"; nearest: {near[0]}" if near else ""
        faults.append(Fault("no such pattern", "--pattern", pattern, ", ".join(PATTERNS) + hint))
    try:
        each = parse(size, "bytes")
        if each < 0:
            faults.append(Fault("negative", "--bytes", size, "0 or more"))
    except ValueError as error:
        faults.append(Fault(str(error), "--bytes"))
    if matrix is not None:
        sent, wrong = _read(matrix, devices)
        faults += wrong
    if faults:
        raise ConfigError(faults)
    if sent is not None:
        each = float(sent.sum(axis=1).max())
    return sent, each


def _read(path: Path, devices: int) -> tuple[npt.NDArray[np.float64] | None, list[Fault]]:
    import numpy as np

    where = str(path)
    try:
        if path.suffix == ".npy":
            raw = np.load(path, allow_pickle=False)
        else:
            raw = np.loadtxt(path, delimiter=",", ndmin=2, max_rows=_MOST + 1)
        made = np.asarray(raw, dtype=np.float64)
    except (OSError, ValueError) as error:
        return None, [Fault(f"cannot be read: {error}", where, None, "CSV or .npy of numbers")]
    if made.ndim != 2 or made.shape[0] != made.shape[1]:
        return None, [Fault("is not square", where, list(made.shape), "n x n bytes from device to device")]
    faults = []
    if len(made) > devices:
        faults.append(Fault("has more rows than the machine devices", where, len(made), f"at most {devices}"))
    bad = np.argwhere(~np.isfinite(made) | (made < 0))
    for i, j in bad[:5].tolist():
        faults.append(
            Fault("no number of bytes", f"{where}: row {i}, column {j}", float(made[i, j]), "0 or more")
        )
    if len(bad) > 5:
        faults.append(Fault(f"{len(bad) - 5} more like these", where))
    return made, faults
