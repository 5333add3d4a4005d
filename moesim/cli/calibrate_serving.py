"""`moesim calibrate serving`: learn from measured serving runs."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, print_json, print_table, stderr
from moesim.cli.validate_serving import is_table

if TYPE_CHECKING:
    from moesim.correction import Calibration
    from moesim.validate.run_report import Given


def serving(
    runs: Annotated[
        Path,
        typer.Argument(
            metavar="RUNS", help="A CSV of measured rows, or your own runs: a benchmark's output or folder."
        ),
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
    replay: Annotated[
        bool,
        typer.Option(
            help="Serve your own runs request by request until the engine's constants fit, instead of their "
            "means: for `moesim simulate` and `moesim validate serving`."
        ),
    ] = False,
    onto: Annotated[
        Path | None, typer.Option(help="Calibration that your own runs are added to; default: shipped.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Machine of your runs, if their path does not say.")
    ] = None,
    nodes: opt.Nodes = None,
    model: Annotated[str | None, typer.Option(help="Model of runs that do not say.")] = None,
    backend: Annotated[str | None, typer.Option(help="vllm, sglang or trtllm, of your runs.")] = None,
    tp: Annotated[
        int | None,
        typer.Option("--tensor-parallel-size", "--tp", help="Tensor parallelism of runs that do not say."),
    ] = None,
    pp: Annotated[
        int | None,
        typer.Option(
            "--pipeline-parallel-size", "--pp", help="Pipeline parallelism of runs that do not say."
        ),
    ] = None,
    dp: Annotated[
        int | None,
        typer.Option("--data-parallel-size", "--dp", help="Data parallelism of runs that do not say."),
    ] = None,
    ep: Annotated[
        int | None,
        typer.Option("--expert-parallel-size", "--ep", help="Expert parallelism of runs that do not say."),
    ] = None,
    json: Json = False,
) -> None:
    """Fit constants of engines, effects beyond physics and intervals to measured runs.

    A CSV of the columns of the public tables is learnt from by itself. Your own runs, as `moesim validate
    serving` reads them, are added to what is known already: `moesim predict --calibration` takes the result.
    """
    from moesim.errors import ConfigError, Fault
    from moesim.files import check_writable
    from moesim.validate.names import BACKENDS, backend_of
    from moesim.validate.run_report import Given
    from moesim.validate.runs import RunEngine

    faults = check_writable(output, "--output") if output is not None else []
    if backend is not None and not backend_of(backend):
        faults.append(Fault("unknown backend", "--backend", backend, ", ".join(BACKENDS)))
    given = Given(model, hardware, nodes, backend_of(backend or "") or None, RunEngine(tp, pp, dp, ep))
    table = is_table(runs)
    if table and (given != Given() or onto is not None or replay):
        faults.append(
            Fault("is of your own runs, and a table is learnt from by itself", "--onto, --replay, --tp, ...")
        )
    if not table and nested:
        faults.append(Fault("is of tables of many runs", "--nested"))
    if faults:
        raise ConfigError(faults)
    if table:
        _table(runs, output, source or runs.name, nested, json)
    elif replay:
        _replayed(runs, output, source or runs.name, onto, given, json)
    else:
        _own(runs, output, source or runs.name, onto, given, json)


def _table(runs: Path, output: Path | None, source: str, nested: bool, json: bool) -> None:
    from moesim.learning import calibrate_serving
    from moesim.validate import read_serving

    calibration, _ = calibrate_serving(read_serving(runs), source=source, nested=nested, tell=stderr)
    _write(calibration, output)
    found = calibration.provenance
    if json:
        print_json(
            {"traits": calibration.to_dict()["traits"], **found}, kind="calibration-serving", inputs=[runs]
        )
        return
    counts = ", ".join(f"{n} {name}" for name, n in found["rows"].items())
    for name, title in (
        ("held_out", f"errors of held-out runs, other runs of their campaigns known: {counts}"),
        ("unnamed", "the same as `moesim predict` asks, without a campaign"),
    ):
        print_table(
            ["family", "held out", *_COLUMNS, "score", "of one width"],
            [
                [*place, *_line(row), f"{row['score']:.2f}", f"{row['constant_score']:.2f}"]
                for family, by_kind in found[name].items()
                for place, row in _rows(family, by_kind)
            ],
            title=title,
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


def _own(path: Path, output: Path | None, source: str, onto: Path | None, given: Given, json: bool) -> None:
    """Add runs to a calibration, and say what that does."""
    from dataclasses import asdict

    import numpy as np

    from moesim.correction import calibration_of, shipped
    from moesim.learning.adapt import adapt
    from moesim.learning.own_runs import own_run
    from moesim.validate.find_runs import read_runs

    known = shipped() if onto is None else calibration_of(onto)
    runs = [own_run(run, given) for run in read_runs(path)]
    calibration, found = adapt(known, runs, source)
    _write(calibration, output)
    backends = sorted({run.engine.backend for run in runs})
    errors = {
        metric: {"before": _errors(found.before[metric]), "after": _errors(found.after[metric])}
        for metric in ("tpot", "ttft")
    }
    if json:
        lines = [
            {
                "path": run.path,
                "tpot_error": _signed(found.before["tpot"][i]),
                "ttft_error": _signed(found.before["ttft"][i]),
                "tpot_error_from_others": _signed(found.after["tpot"][i]),
                "ttft_error_from_others": _signed(found.after["ttft"][i]),
            }
            for i, run in enumerate(runs)
        ]
        traits = {name: asdict(calibration.traits[name]) for name in backends}
        print_json(
            {"runs": lines, "errors": errors, "traits": traits}, kind="calibration-runs", inputs=[path]
        )
        return
    print_table(
        ["run", "TPOT, ms", "predicted before", "from the others", "TTFT, ms", "before", "from the others"],
        [
            [
                run.path,
                f"{run.tpot_s * 1e3:.4g}",
                *(_percent(values["tpot"][i]) for values in (found.before, found.after)),
                "" if run.ttft_s is None else f"{run.ttft_s * 1e3:.4g}",
                *(_percent(values["ttft"][i]) for values in (found.before, found.after)),
            ]
            for i, run in enumerate(runs)
        ],
        title=f"{len(runs)} run(s) added; errors of predictions",
    )
    rows = [
        [name, when, *(f"{getattr(c.traits[name], trait):.4g}" for trait in _TRAITS)]
        for name in backends
        for when, c in (("before", known), ("now", calibration))
        if name in c.traits
    ]
    print_table(["engine", "", *_TRAITS.values()], rows, title="constants")
    if np.isnan(found.after["tpot"]).all():
        stderr("note: one run alone leaves none to judge by")


def _replayed(
    path: Path, output: Path | None, source: str, onto: Path | None, given: Given, json: bool
) -> None:
    """Fit constants by serving runs again, and say how far off each run is."""
    from dataclasses import asdict

    from moesim.correction import calibration_of, shipped
    from moesim.learning.replayed import ERROR, FITTED, fit_replayed
    from moesim.validate.find_runs import read_runs

    known = shipped() if onto is None else calibration_of(onto)
    runs = read_runs(path)
    calibration, found = fit_replayed(runs, given, known, source)
    _write(calibration, output)
    changed = [name for name, traits in calibration.traits.items() if traits != known.traits.get(name)]
    if json:
        traits = {name: asdict(calibration.traits[name]) for name in changed}
        print_json(
            {"runs": [asdict(one) for one in found], "traits": traits}, kind="calibration-runs", inputs=[path]
        )
        return
    for title, errors in (
        ("before", [one.before for one in found]),
        ("fitted", [one.after for one in found]),
        ("fitted to the others", [one.from_others for one in found]),
    ):
        rows = [
            [run.path, *(f"{e[metric]:+.1%}" for metric in ERROR)]
            for run, e in zip(found, errors, strict=True)
            if e is not None
        ]
        if rows:
            print_table(
                ["run", *(metric.upper() for metric in ERROR)], rows, title=f"errors of means, {title}"
            )
    rows = [
        [name, when, *(f"{getattr(c.traits[name], trait):.4g}" for trait in FITTED)]
        for name in changed
        for when, c in (("before", known), ("now", calibration))
        if name in c.traits
    ]
    print_table(["engine", "", *(_TRAITS[trait] for trait in FITTED)], rows, title="constants")
    if len(found) == 1:
        stderr("note: one run alone leaves none to judge by")


#: Constants of an engine, and their titles.
_TRAITS = {
    "host_s": "host per step, s",
    "communication": "collectives in a step",
    "request_s": "per request, s",
    "first_steps": "steps to first token",
    "start_up": "start-up queue",
    "over_bridge": "the same over PCIe",
}


def _write(calibration: Calibration, output: Path | None) -> None:
    from json import dumps

    from moesim.files import atomic_write

    if output is not None:
        with atomic_write(output) as stream:
            cast(IO[str], stream).write(dumps(calibration.to_dict(), separators=(",", ":")) + "\n")


def _signed(log_error: float) -> float | None:
    """Predicted over measured less 1; None where nothing is known."""
    from math import exp, isnan

    return None if isnan(log_error) else exp(-log_error) - 1.0


def _percent(log_error: float) -> str:
    error = _signed(float(log_error))
    return "" if error is None else f"{error:+.1%}"


def _errors(log_errors: Any) -> dict[str, float | int | None]:  # noqa: ANN401 - numpy is imported lazily
    """Number and median of errors, without sign."""
    from statistics import median

    known = [abs(error) for value in log_errors if (error := _signed(float(value))) is not None]
    return {"n": len(known), "median": median(known) if known else None}


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
