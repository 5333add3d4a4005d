"""`moesim hardware`: list, show and check machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.common import Json, print_json, print_table
from moesim.cli.hardware_traffic import traffic
from moesim.errors import ConfigError, Fault

app = typer.Typer(no_args_is_help=True, help="List, show and check machines.")

app.command()(traffic)

Machine = Annotated[str, typer.Argument(help="Catalogue name, alias, or path of a hardware file.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the machines of the catalogue, by kind."""
    from moesim.hardware import KINDS, aliases, load_hardware, names
    from moesim.hardware.describe import COLUMNS, grouped, row

    machines = [load_hardware(name) for name in names()]
    groups = grouped(machines)
    if not as_json:
        for kind, members in groups.items():
            typer.echo(f"{KINDS[kind]} ({len(members)})")
            print_table(COLUMNS, (row(machine) for machine in members))
            typer.echo("")
        return
    also: dict[str, list[str]] = {}
    for alias, name in aliases().items():
        also.setdefault(name, []).append(alias)
    rows = [
        {
            "name": m.name,
            "title": m.title,
            "kind": m.kind,
            "aliases": sorted(also.get(m.name, [])),
            "nodes": m.nodes,
            "devices_per_node": m.devices_per_node,
            "num_devices": m.num_devices,
            "memory_bytes": m.device.memory.capacity_bytes,
            "memory_bandwidth_bytes_per_s": m.device.memory.bandwidth_bytes_per_s,
            "peak_flops_per_s": m.device.processor.peak_flops_per_s,
            "usd_per_device_hour": m.device.price.usd_per_hour if m.device.price else None,
        }
        for m in machines
    ]
    heads = [
        {"kind": kind, "title": KINDS[kind], "machines": [m.name for m in members]}
        for kind, members in groups.items()
    ]
    print_json({"groups": heads, "machines": rows}, kind="machines", inputs=[m.path for m in machines])


@app.command()
def show(
    name: Machine,
    nodes: Annotated[int | None, typer.Option(help="Number of nodes; default: as it is sold.")] = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print the file itself, to copy and edit.")] = False,
    as_json: Json = False,
) -> None:
    """Show a machine: every number with its source and how it is known."""
    from moesim.hardware import load_hardware
    from moesim.hardware.catalogue import read_description
    from moesim.hardware.describe import document
    from moesim.hardware.read import read_text

    if yaml and as_json:
        raise ConfigError(Fault("excludes --json", "--yaml", allowed="one of the two"))
    machine = load_hardware(name, nodes)
    if yaml:
        typer.echo(read_text(Path(machine.path)), nl=False)
        return
    if as_json:
        print_json(document(machine), kind="hardware", inputs=[machine.path])
        return
    typer.echo(f"{machine.name}: {machine.title}")
    typer.echo(
        f"{machine.nodes} node{'s' if machine.nodes > 1 else ''} x {machine.devices_per_node} devices"
        f" = {machine.num_devices}; {machine.domain} share a scale-up domain"
    )
    price = machine.device.price
    if price:
        typer.echo(f"{price.usd_per_hour:g} USD/h per device ({price.vendor}, {price.date})")
    typer.echo("")
    origins = read_description(Path(machine.path)).origins
    rows = [(o.path, o.text, o.status, o.key, o.note) for o in origins]
    print_table(("number", "value", "status", "source", "note"), rows)
    typer.echo("")
    used = {o.key: o.source for o in origins if o.key is not None}
    print_table(("source", "what it is"), used.items())
    typer.echo(f"\n{machine.path}")


@app.command()
def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Hardware files; default: the catalogue.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check hardware files: every fault and warning; exit code 2 if there is a fault."""
    from moesim.hardware.describe import check_catalogue, check_file

    reports = [check_file(path) for path in paths] if paths else check_catalogue()
    faulty = any(report.faults for report in reports)
    if as_json:
        files = [
            {
                "path": report.path,
                "ok": not report.faults,
                "faults": [str(fault) for fault in report.faults],
                "warnings": [str(fault) for fault in report.warnings],
            }
            for report in reports
        ]
        print_json(
            {"ok": not faulty, "files": files},
            kind="hardware-check",
            inputs=[report.path for report in reports],
        )
    else:
        for report in reports:
            typer.echo(f"{'FAULTY' if report.faults else 'ok':6}  {report.path}")
            for word, faults in (("fault", report.faults), ("warning", report.warnings)):
                for fault in faults:
                    typer.echo(f"        {word}: {fault}")
    if faulty:
        raise typer.Exit(2)


@app.command()
def schema(as_json: Json = False) -> None:
    """Print the JSON Schema of a hardware file, for editors."""
    import json

    from moesim.hardware.spec import json_schema

    if as_json:
        print_json({"schema": json_schema()}, kind="hardware-schema")
    else:
        typer.echo(json.dumps(json_schema(), indent=2))
