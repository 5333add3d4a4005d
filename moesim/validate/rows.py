"""One measured serving run: what was served, on what, how, and what the client saw."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.layout.parallelism import Parallelism

#: Benchmarks draw lengths between 0.8 and 1 of the longest.
LENGTH = 0.9
AGG, DISAGG = "agg", "disagg"
MODES = (AGG, DISAGG)
SUPPORTED, UNSUPPORTED = "supported", "unsupported"


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers of one side of a disaggregated deployment.

    Parameters
    ----------
    layout
        Of one worker.
    workers
        How many; None where nobody recorded it.
    batch
        Sequences per attention data-parallel rank; None where nobody recorded it.
    attention_known
        Whether ``tp`` is certain to be tensor parallelism: rows without worker counts call data-parallel
        attention by the same name.
    """

    layout: Parallelism
    workers: int | None = None
    batch: float | None = None
    attention_known: bool = True

    @property
    def devices(self) -> int | None:
        """Devices of all workers, if their number is known."""
        return None if self.workers is None else self.workers * self.layout.world


@dataclass(frozen=True, slots=True)
class ServingRow:
    """One row of a serving data set, as it was run rather than as it was written down.

    Parameters
    ----------
    line
        Line of the file.
    id, source
        As written.
    backend, version
        ``vllm``, ``sglang`` or ``trtllm``, and its version, empty if unknown.
    model_path, model
        As written, and the catalogue name; DeepSeek-R1 and V3 are one model, ``deepseek-r1``.
    system, hardware, nodes
        As written, the catalogue name, and nodes enough for the devices; None for the machine as sold.
    precision, dtype
        As written, and the ``dtype`` of `moesim.prediction.Engine` that stands for it.
    mode
        ``agg`` or ``disagg``.
    isl, osl
        Longest prompt and output tokens of the run.
    concurrency
        Requests in the whole deployment; 0 where unknown, and then the row is unsupported.
    layout
        Of an aggregated row.
    prefill, decode
        Of a disaggregated row.
    measured
        Date, ``2026-04-21``; empty if unknown.
    config_id
        Of the benchmark's own data base; empty if unknown.
    campaign
        Kind of source and date: rows of one campaign share what nobody recorded.
    repairs
        What was recorded wrongly and is certain enough to be put right.
    doubtful
        What is recorded and hard to believe.
    ttft_ms, tpot_ms
        Measured; None where blank: the row is predicted, not scored.
    status, reason
        ``supported``, or ``unsupported`` and why.
    stand_ins
        Layouts that are evaluated in the place of recorded ones that cannot have been: of the deployment, or
        of one worker of each side. Empty where the recorded ones are. See `moesim.validate.stand_ins`.
    """

    line: int
    id: str
    source: str
    backend: str
    version: str
    model_path: str
    model: str
    system: str
    hardware: str
    nodes: int | None
    precision: str
    dtype: str
    mode: str
    isl: float
    osl: float
    concurrency: float
    layout: Parallelism | None
    prefill: Pool | None
    decode: Pool | None
    measured: str
    config_id: str
    campaign: str
    repairs: tuple[str, ...]
    doubtful: str
    ttft_ms: float | None
    tpot_ms: float | None
    status: str = SUPPORTED
    reason: str = ""
    stand_ins: tuple[Parallelism, ...] = ()

    @property
    def input_len(self) -> float:
        """Mean prompt tokens."""
        return max(LENGTH * self.isl, 1.0)

    @property
    def output_len(self) -> float:
        """Mean output tokens."""
        return max(LENGTH * self.osl, 1.0)

    @property
    def supported(self) -> bool:
        """Whether the row says enough to be predicted."""
        return self.status == SUPPORTED

    @property
    def evaluated(self) -> tuple[Parallelism, ...]:
        """Layouts that are evaluated: of the deployment, or of one worker of each side."""
        recorded = [self.layout] if self.layout is not None else [p.layout for p in self.pools]
        return self.stand_ins or tuple(recorded)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Both sides of a disaggregated row, as recorded; else empty."""
        return tuple(pool for pool in (self.prefill, self.decode) if pool is not None)

    @property
    def devices(self) -> int | None:
        """Devices of the whole deployment; None where nobody recorded how many."""
        if self.layout is not None:
            return self.layout.world
        if self.prefill is None or self.decode is None:
            return None
        parts = self.prefill.devices, self.decode.devices
        return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]

    @property
    def layout_text(self) -> str:
        """The layout in one line; equal layouts read alike."""
        if self.layout is not None:
            return str(self.layout)
        if self.prefill is None or self.decode is None:
            return ""
        return " + ".join(
            f"{'?' if pool.workers is None else pool.workers} x ({pool.layout})"
            for pool in (self.prefill, self.decode)
        )
