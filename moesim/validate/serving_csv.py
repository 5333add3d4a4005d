"""Reader of measured serving runs: one configuration per line, in the columns of the public tables.

The columns are those of ``silicon_sample.csv`` of ai-dynamo/aiconfigurator. A file that is malformed is
refused, with every fault; a row that is well formed and says too little, or names what moesim does not know,
is kept and marked unsupported.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from moesim.errors import ConfigError, Fault
from moesim.hardware import load_hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import load_model
from moesim.validate import names
from moesim.validate.cells import Cells, read_cells
from moesim.validate.degrees import Degrees, read_aggregated, read_pools
from moesim.validate.rows import AGG, MODES, SUPPORTED, UNSUPPORTED, Pool, ServingRow
from moesim.validate.source_text import campaign_of, concurrency_in, config_in, measured_in
from moesim.validate.stand_ins import with_stand_ins

REQUIRED = ("id", "backend", "model_path", "system", "precision", "mode", "isl", "osl")
_DEGREES = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
_SIDE = ("batch_size", "num_workers", *_DEGREES)
OPTIONAL = (
    "silicon_data_source",
    "backend_version",
    "gemm_quant_mode",
    "moe_quant_mode",
    "batch_size",
    *_DEGREES,
    *(f"{side}_{name}" for side in ("prefill", "decode") for name in _SIDE),
    "silicon_ttft_ms",
    "silicon_tpot_ms",
)
#: Rows that one file may hold; a row takes about a kilobyte.
MAX_ROWS = 1_000_000


def read_serving(path: str | os.PathLike[str]) -> list[ServingRow]:
    """All rows of a file, in order.

    Parameters
    ----------
    path
        A CSV file. Columns `REQUIRED` must be there, `OPTIONAL` may; others are ignored.

    Returns
    -------
    list of ServingRow
        One per line, supported or not.

    Raises
    ------
    ConfigError
        With every fault: line, column, value and what is allowed.
    """
    file = Path(path)
    rows: list[ServingRow] = []
    for row in iter_serving(file):
        if len(rows) == MAX_ROWS:
            raise ConfigError(Fault(f"holds more than {MAX_ROWS} rows"), file)
        rows.append(row)
    if not rows:
        raise ConfigError(Fault("holds no rows", allowed="a header and one line per measurement"), file)
    return rows


def iter_serving(path: Path) -> Iterator[ServingRow]:
    """Rows as they are read; the faults of the whole file are raised after the last."""
    for cells in read_cells(path, REQUIRED, (*REQUIRED, *OPTIONAL)):
        yield _row(cells)


def _row(cells: Cells) -> ServingRow:
    source, mode = cells.text("silicon_data_source"), cells.one_of("mode", MODES)
    backend, model_path, system = (cells.needed(c) for c in ("backend", "model_path", "system"))
    found = _Found(cells)
    model, ending = names.model_of(model_path)
    hardware = names.hardware_of(system)
    if model_path and not model:
        found.unsupported(names.unknown("model", model_path))
    if system and not hardware:
        found.unsupported(names.unknown("system", system))
    if backend and not names.backend_of(backend):
        found.unsupported(names.unknown("backend", backend))
    dtype = found.dtype(model, ending) if model else ""
    moe = bool(model) and names.is_moe(model)
    if mode == AGG:
        found.aggregated(moe)
    elif mode in MODES:
        found.disaggregated(moe, names.backend_of(backend))
    concurrency = found.concurrency(source)
    row = ServingRow(
        line=cells.line,
        id=cells.needed("id"),
        source=source,
        backend=names.backend_of(backend) or backend.lower(),
        version=cells.text("backend_version"),
        model_path=model_path,
        model=model,
        system=system,
        hardware=hardware,
        nodes=found.nodes(hardware) if hardware else None,
        precision=cells.text("precision").lower(),
        dtype=dtype,
        mode=mode,
        isl=found.length("isl"),
        osl=found.length("osl"),
        concurrency=concurrency,
        layout=found.layout,
        prefill=found.prefill,
        decode=found.decode,
        measured=measured_in(source),
        config_id=config_in(source),
        campaign=campaign_of(source),
        repairs=found.repairs,
        doubtful=found.doubtful,
        ttft_ms=cells.number("silicon_ttft_ms", 1e-6),
        tpot_ms=cells.number("silicon_tpot_ms", 1e-6),
        status=UNSUPPORTED if found.reasons else SUPPORTED,
        reason="; ".join(found.reasons),
    )
    return with_stand_ins(row)


class _Found:
    """What one line turns out to say, piece by piece."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.reasons: list[str] = []
        self.layout: Parallelism | None = None
        self.prefill: Pool | None = None
        self.decode: Pool | None = None
        self.repairs: tuple[str, ...] = ()
        self.doubtful = ""
        self._batch = cells.number("batch_size")

    def unsupported(self, reason: str) -> None:
        self.reasons.append(reason)

    def length(self, column: str) -> float:
        value = self.cells.number(column, 1.0) if self.cells.needed(column) else None
        return value or 0.0

    def dtype(self, model: str, ending: str) -> str:
        columns = [self.cells.text(c) for c in ("precision", "gemm_quant_mode", "moe_quant_mode")]
        # What the checkpoint's name says stands for blank columns.
        dtype = names.dtype_of(load_model(model), *columns, ending)
        if not dtype:
            self.unsupported(f"unknown precision {next(c for c in columns if c)[:40]!r}")
        return dtype

    def aggregated(self, moe: bool) -> None:
        degrees = self._degrees("")
        if degrees is None:
            return
        reading = read_aggregated(degrees, moe)
        self.layout, self.repairs, self.doubtful = reading.layout, reading.repairs, reading.doubtful

    def disaggregated(self, moe: bool, backend: str) -> None:
        prefill, decode = self._degrees("prefill_"), self._degrees("decode_")
        if prefill is None or decode is None:
            return
        workers = [self.cells.whole(f"{side}_num_workers") or None for side in ("prefill", "decode")]
        counted = None not in workers
        first, second, self.doubtful = read_pools(prefill, decode, moe, counted, backend)
        self.prefill, self.decode = (
            Pool(
                reading.layout,
                count,
                self.cells.number(f"{side}_batch_size") or None,
                counted or not moe or reading.layout.tp == 1,
            )
            for side, reading, count in zip(("prefill", "decode"), (first, second), workers, strict=True)
        )
        self.repairs = tuple(f"prefill: {text}" for text in first.repairs)
        self.repairs += tuple(f"decode: {text}" for text in second.repairs)

    def concurrency(self, source: str) -> float:
        """From the text, else from the batch of each attention data-parallel rank."""
        value = concurrency_in(source)
        decode = self.decode
        if value is None and self.layout is not None and self._batch:
            value = self._batch * self.layout.dp
        if value is None and decode is not None and decode.batch and decode.workers:
            value = decode.batch * decode.workers * decode.layout.dp
        if value is None:
            self.unsupported("concurrency is not recorded")
        return value or 0.0

    def nodes(self, hardware: str) -> int | None:
        """Nodes that hold the largest engine; None where the machine as sold does."""
        machine = load_hardware(hardware)
        layouts = [p.layout for p in (self.prefill, self.decode) if p] + [self.layout] * bool(self.layout)
        world = max((layout.world for layout in layouts if layout), default=1)
        if world <= machine.num_devices:
            return None
        needed = math.ceil(world / machine.devices_per_node)
        return needed if machine.max_nodes is None or needed <= machine.max_nodes else None

    def _degrees(self, side: str) -> Degrees | None:
        tp, pp, dp, moe_tp, ep = (self.cells.whole(side + name) for name in _DEGREES)
        if not tp:
            self.unsupported(f"{side}tp_size is blank: the layout is not recorded")
            return None
        return Degrees(tp, pp, dp, moe_tp, ep)
