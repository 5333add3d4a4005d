"""`moesim validate serving`: predictions beside measured serving runs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

import typer

from moesim.cli import options as opt
from moesim.cli.common import Json, Seed, print_json, stderr
from moesim.cli.validate_calibration import calibration_document, print_calibration
from moesim.cli.validate_tables import print_evaluation, print_runs

if TYPE_CHECKING:
    from moesim.validate import RowPrediction, ServingRow
    from moesim.validate.run_report import Given

#: Columns of ``--out``.
COLUMNS = (
    "id",
    "pred_ttft_ms",
    "pred_tpot_ms",
    "ttft_lo_ms",
    "ttft_hi_ms",
    "tpot_lo_ms",
    "tpot_hi_ms",
    "status",
    "reason",
)
#: And of a table's rows: the layouts that were evaluated, and what of the record is not taken at its word.
READ = ("layout", "repaired", "doubtful")


def serving(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A CSV of measured rows, or a benchmark's output or folder."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="CSV of predictions, one line per row or run.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Machine of a run; else its path says. Catalogue name or YAML file.")
    ] = None,
    nodes: opt.Nodes = None,
    model: Annotated[str | None, typer.Option(help="Model of a run that does not say.")] = None,
    backend: Annotated[str | None, typer.Option(help="vllm, sglang or trtllm, of a run.")] = None,
    tp: Annotated[
        int | None,
        typer.Option("--tensor-parallel-size", "--tp", help="Tensor parallelism of a run that does not say."),
    ] = None,
    pp: Annotated[
        int | None,
        typer.Option(
            "--pipeline-parallel-size", "--pp", help="Pipeline parallelism of a run that does not say."
        ),
    ] = None,
    dp: Annotated[
        int | None,
        typer.Option("--data-parallel-size", "--dp", help="Data parallelism of a run that does not say."),
    ] = None,
    ep: Annotated[
        int | None,
        typer.Option("--expert-parallel-size", "--ep", help="Expert parallelism of a run that does not say."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Weights of a run, as in `moesim predict`.")] = None,
    kv_cache_dtype: Annotated[
        str | None, typer.Option(help="Cache of a run, as in `moesim predict`.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a step, at most, of a run that does not say.")
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Sequences at once, at most, of a run that does not say.")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="Share of the memory that the engine of a run may use.")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="What `moesim calibrate serving` wrote, or `none` for physics alone; the shipped one by "
            "default. Runs are replayed with its constants of engines."
        ),
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Predict measured serving runs from their configuration, and say how far off the predictions are.

    A CSV of the columns of the public tables is predicted row by row. The result of `vllm bench serve`,
    SGLang's `bench_serving` or AIPerf, or a folder of meta.json and requests.jsonl, is replayed request by
    request; what it does not record can be said with the options.
    """
    from moesim.errors import ConfigError, Fault
    from moesim.files import check_writable
    from moesim.validate.names import BACKENDS, backend_of
    from moesim.validate.run_report import Given
    from moesim.validate.runs import RunEngine

    faults = check_writable(out, "--out") if out is not None else []
    if backend is not None and not backend_of(backend):
        faults.append(Fault("unknown backend", "--backend", backend, ", ".join(BACKENDS)))
    engine = RunEngine(
        tp, pp, dp, ep, dtype, kv_cache_dtype, max_num_batched_tokens, max_num_seqs, gpu_memory_utilization
    )
    given = Given(model, hardware, nodes, backend_of(backend or "") or None, engine)
    table = is_table(path)
    if table and given != Given():
        faults.append(
            Fault("describes a run, and every row of a table describes itself", "--hardware, --tp, ...")
        )
    if faults:
        raise ConfigError(faults)
    if table:
        _rows(path, out, calibration, json)
    else:
        _runs(path, out, given, calibration, seed, json)


def is_table(path: Path) -> bool:
    """Whether a path is a file that does not begin like JSON, or is to be refused as one."""
    try:
        if not path.is_file():
            # A pipe can be read once only, and then it is a table.
            return not path.is_dir()
        with path.open("rb") as stream:
            return not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    except (OSError, ValueError):
        return path.suffix not in (".json", ".jsonl")


def _rows(path: Path, out: Path | None, calibration: str | None, json: bool) -> None:
    from moesim.correction import calibration_of, shipped
    from moesim.validate import evaluate, predict_rows, read_serving

    used = shipped() if calibration is None else calibration_of(calibration)
    rows = read_serving(path)
    predictions = predict_rows(rows, used)
    if out is not None:
        _write(out, predictions, rows)
    found = evaluate(rows, predictions, used.level)
    accepted = _accepted(path)
    if json:
        of = calibration_document(found, used, calibration or "shipped")
        document = {
            "rows": found.row_documents(),
            "summary": found.summary() | {"accepted": accepted, "calibration": of},
            "written": str(out) if out is not None else None,
        }
        print_json(
            document, kind="validation-serving", inputs=[path, *([calibration] if calibration else [])]
        )
        return
    print_evaluation(found, accepted)
    print_calibration(found, used, accepted)
    if out is not None:
        stderr(f"{out}: {len(predictions):,} lines")


def _runs(path: Path, out: Path | None, given: Given, calibration: str | None, seed: int, json: bool) -> None:
    from moesim.correction import calibration_of
    from moesim.validate import RowPrediction
    from moesim.validate.find_runs import read_runs
    from moesim.validate.run_report import predict_run, summarise_runs

    used = None if calibration is None else calibration_of(calibration)
    results = [predict_run(run, given, seed, used) for run in read_runs(path)]
    if out is not None:
        means = [(r.run.path, r.predicted["ttft"].mean, r.predicted["tpot"].mean) for r in results]
        nothing = float("nan")
        _write(out, [RowPrediction(i, ttft or nothing, tpot or nothing) for i, ttft, tpot in means])
    documents = [result.document() for result in results]
    if json:
        inputs = [path, *(file for file in sorted(path.glob("*.json*")) if path.is_dir())]
        written = str(out) if out is not None else None
        print_json(
            {"rows": documents, "summary": summarise_runs(results), "written": written},
            kind="validation-runs",
            inputs=inputs,
            seed=seed,
        )
        return
    print_runs(documents, summarise_runs(results))
    if out is not None:
        stderr(f"{out}: {len(documents):,} lines")


def _write(path: Path, predictions: Sequence[RowPrediction], rows: Sequence[ServingRow] = ()) -> None:
    """One line per prediction; the file appears whole or not at all."""
    from math import isfinite

    from moesim.files import atomic_write
    from moesim.validate.report import milliseconds

    read = [[" + ".join(map(str, r.evaluated)), "; ".join(r.repairs), r.doubtful] for r in rows]
    with atomic_write(path) as stream:
        writer = csv.writer(cast("IO[str]", stream), lineterminator="\n")
        writer.writerow(COLUMNS + READ if rows else COLUMNS)
        for i, one in enumerate(predictions):
            numbers = [repr(v) if isfinite(v) else "" for v in milliseconds(one).values()]
            line = [one.id, *numbers, one.status, " ".join(one.reason.split())]
            writer.writerow([*line, *read[i]] if rows else line)


def _accepted(path: Path) -> dict[str, Any] | None:
    """The last accepted result, if it is of the same measurements."""
    import hashlib

    from moesim.validate.accepted import read_accepted

    known = read_accepted()
    if known is None or not path.is_file():
        return None
    with path.open("rb") as stream:
        same = hashlib.file_digest(stream, "sha256").hexdigest() == known["file_sha256"]
    return known if same else None
