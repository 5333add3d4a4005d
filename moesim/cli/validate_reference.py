"""`moesim validate reference`: predictions beside real runs of the reference execution on this machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moesim.cli.common import Json, Seed, print_json, stderr

if TYPE_CHECKING:
    from collections.abc import Callable

    from moesim.validate.reference import Runs


def reference(
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    hardware: Annotated[
        str | None,
        typer.Option(help="Description to predict from; what `moesim calibrate DEVICE` wrote if not given."),
    ] = None,
    traces: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded routing to use for trace:NAME, files or folders; else drawn routing."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=2, max=1000, help="Rounds; 11 on a CPU, 15 on a GPU.")
    ] = None,
    raw: Annotated[
        Path | None, typer.Option(help="File for the runs; in moesim's cache folder if not given.")
    ] = None,
    scored_from: Annotated[
        Path | None, typer.Option("--from", metavar="RUNS", help="Score such a file; nothing is run.")
    ] = None,
    page: Annotated[Path | None, typer.Option("--html", metavar="PAGE", help="Also write a page.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Write runs, result and page under REPORTS/MACHINE.")
    ] = False,
    reports: Annotated[Path, typer.Option(help="Folder for --publish.")] = Path("reports"),
    machine: Annotated[
        str | None, typer.Option(help="Folder of this machine for --publish; made from its processor.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Predict and run held-out MoE layers on this machine, and say how far apart they are.

    Exit code 1 if the errors are beyond the gate; 0 with a warning if the machine is too noisy to tell.
    """
    from moesim.cli.validate_reference_show import show
    from moesim.errors import ConfigError
    from moesim.provenance import provenance
    from moesim.validate.reference import described, machine_name, read_runs, scored, write_runs

    faults = _option_faults(device, scored_from, raw, page, machine)
    if faults:
        raise ConfigError(faults)
    if scored_from is not None:
        runs = read_runs(scored_from)
    else:
        with _progress() as progress:
            runs, raw = _run(device, hardware, traces or [], rounds, raw, seed, progress)
        write_runs(runs, raw)
    given = hardware if scored_from is not None else None
    found = scored(runs, described(runs, given))
    kept = raw if scored_from is None else scored_from
    document = {"device": runs.device, "runs": str(kept), **_origin(runs), **found}
    seen = provenance([kept] if kept else [], runs.facts.get("seed"))
    written = [] if page is None else [page]
    if publish:
        written += _publish(document, runs, reports / (machine or machine_name(runs.machine)), seen)
    if page is not None:
        from moesim.reporting import write_reference

        write_reference(document, page, seen)
    if json:
        print_json(document, kind="validation-reference", inputs=[kept] if kept else [], seed=seed)
    else:
        show(document, written)
    verdict = found["summary"]["verdict"]
    if verdict == "inconclusive":
        stderr("warning: the machine is too noisy to tell; close other programs and run again")
    if verdict == "failed":
        raise typer.Exit(1)


def _option_faults(
    device: str, scored_from: Path | None, raw: Path | None, page: Path | None, machine: str | None
) -> list[Any]:
    from moesim.errors import Fault
    from moesim.files import check_writable
    from moesim.validate.reference import DEVICES

    faults = []
    if device not in DEVICES:
        faults.append(Fault("is no device", "--device", device, ", ".join(DEVICES)))
    if scored_from is not None and raw is not None:
        faults.append(Fault("has no use with --from, which runs nothing", "--raw"))
    if machine is not None and not machine.replace("-", "").replace(".", "").replace("_", "").isalnum():
        faults.append(Fault("is no folder name", "--machine", machine, "letters, digits, - _ ."))
    for path, option in ((raw, "--raw"), (page, "--html")):
        faults += check_writable(path, option) if path is not None else []
    return faults


def _run(
    device: str,
    hardware: str | None,
    traces: list[Path],
    rounds: int | None,
    raw: Path | None,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> tuple[Runs, Path]:
    """Run everything, and say where the runs are to be kept."""
    from moesim.calibrate.reference import anchors, default_path
    from moesim.errors import ConfigError, Fault
    from moesim.hardware import load_hardware
    from moesim.hardware.catalogue import find
    from moesim.validate.reference import Anchor, execute, frozen, recordings
    from moesim.validate.reference.devices import opener

    path = default_path(device) if hardware is None else find(hardware)
    if hardware is None and not path.exists():
        if device == "cuda":
            from moesim.reference.cuda.driver import Driver

            # Without a GPU there is no use in saying that one is to be calibrated.
            Driver()
        raise ConfigError(
            Fault("this machine is not calibrated", "--hardware", None, f"first: moesim calibrate {device}")
        )
    kind = load_hardware(path).kind
    if (kind == "cpu") != (device == "cpu"):
        wanted = "that of a CPU" if device == "cpu" else "that of a GPU"
        raise ConfigError(Fault(f"is not the description of a {device} device", "--hardware", kind, wanted))
    _warn_of_another_machine(path)
    if raw is None:
        raw = default_path(device).with_name(f"{device}-runs.json")
        raw.parent.mkdir(parents=True, exist_ok=True)
    cases = frozen(device)
    again = [Anchor(anchor.case, anchor.ids, anchor.seconds) for anchor in anchors(path)]
    recorded = recordings(cases, traces)
    for one in recorded.values():
        stderr(f"trace:{one.name}: {'recorded' if one.real else 'no recording given'}; {one.source}")
    runs = execute(
        device,
        cases,
        opener(device),
        path,
        anchors=again,
        recorded=recorded,
        rounds=rounds,
        seed=seed,
        progress=progress,
    )
    return runs, raw


def _warn_of_another_machine(path: Path) -> None:
    """Say so if a description was measured on another processor."""
    from moesim.calibrate.reference import measured
    from moesim.reference.machine import state

    told = measured(path).get("machine")
    then = told.get("cpu") if isinstance(told, dict) else None
    if then is not None and then != (now := state()["cpu"]):
        stderr(f"warning: the description is of {then}, and this is {now}")


def _origin(runs: Runs) -> dict[str, Any]:
    """What a reader must know of where the runs are from."""
    return {
        "facts": dict(runs.facts),
        "machine": dict(runs.machine),
        "hardware_sha256": runs.hardware_sha256,
        "recordings": {name: dict(entry) for name, entry in runs.recordings.items()},
    }


def _publish(document: dict[str, Any], runs: Runs, folder: Path, seen: dict[str, Any]) -> list[Path]:
    """Write runs, result and page into the folder of a machine."""
    import json
    from typing import IO, cast

    from moesim.cli.common import SCHEMA_VERSION
    from moesim.files import atomic_write
    from moesim.provenance import clean
    from moesim.reporting import write_reference
    from moesim.validate.reference import write_runs

    folder.mkdir(parents=True, exist_ok=True)
    result, raw, page = (folder / f"reference-{runs.device}{end}" for end in (".json", "-runs.json", ".html"))
    document = {**document, "runs": raw.name}
    write_runs(runs, raw)
    with atomic_write(result) as stream:
        whole = clean({"schema_version": SCHEMA_VERSION, **document, "provenance": seen})
        cast(IO[str], stream).write(json.dumps(whole, indent=1, allow_nan=False) + "\n")
    write_reference(document, page, seen)
    return [raw, result, page]


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal; elsewhere a line for each thing that begins."""
    if not sys.stderr.isatty():
        said: list[str] = []

        def line(what: str, _done: int, total: int) -> None:
            if what not in said:
                said.append(what)
                stderr(f"{what} ({total})")

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def bar(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield bar
