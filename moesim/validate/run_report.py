"""Benchmark runs beside their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from moesim.correction import Calibration, shipped
from moesim.engine.traits import Traits
from moesim.errors import ConfigError, Fault
from moesim.hardware import load_hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import Model, load_model
from moesim.prediction import Engine
from moesim.requests import RequestTrace, generate_requests
from moesim.validate.distances import Distance, distance
from moesim.validate.names import dtype_of, model_of
from moesim.validate.replay import Replayed, Setup, replay
from moesim.validate.runs import RUN_METRICS, STATISTICS, BenchmarkRun, RunEngine, Spread

_NOTHING = RunEngine()
#: Requests of mean length that are made for a run of which only statistics are known.
MOST_MADE = 20_000


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says of a run, which counts more than what is recorded; None where nothing is said."""

    model: str | None = None
    hardware: str | None = None
    nodes: int | None = None
    backend: str | None = None
    engine: RunEngine = _NOTHING


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """A run and its prediction.

    Parameters
    ----------
    run, setup
        What was measured, and what was taken to serve it.
    replayed
        Every request of the prediction.
    predicted, errors
        Seconds, and predicted over measured less 1, by `RUN_METRICS`.
    distances
        Of the whole distributions, by `RUN_METRICS`.
    assumed
        What neither the run nor the user says.
    """

    run: BenchmarkRun
    setup: Setup
    replayed: Replayed
    predicted: dict[str, Spread]
    errors: dict[str, Spread]
    distances: dict[str, Distance]
    assumed: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Plain values."""
        run, setup = self.run, self.setup
        duration = self.replayed.duration_s
        return {
            "path": run.path,
            "format": run.format,
            "model": setup.model.name,
            "hardware": setup.hardware.name,
            "backend": setup.backend,
            "layout": str(setup.layout),
            "engine": asdict(setup.engine),
            "requests": run.completed,
            "concurrency": run.concurrency,
            "request_rate": run.request_rate,
            "input_tokens": asdict(run.input_tokens),
            "output_tokens": asdict(run.output_tokens),
            "measured": {m: asdict(run.measured[m]) for m in RUN_METRICS}
            | {"request_throughput": run.request_throughput, "output_throughput": run.output_throughput},
            "predicted": {m: asdict(self.predicted[m]) for m in RUN_METRICS}
            | {
                "request_throughput": len(self.replayed.sent_s) / duration,
                "output_throughput": float(self.replayed.output_tokens.sum()) / duration,
            },
            "counted_from": run.counted_from,
            "errors": {m: errors_of(self.errors[m], self.distances[m]) for m in RUN_METRICS},
            "assumed": self.assumed,
            "notes": run.notes,
        }


def errors_of(spread: Spread, apart: Distance) -> dict[str, float | None]:
    """Signed errors ``mean_error, median_error, p90_error, p99_error``, and those of `Distance`."""
    return {f"{name}_error": getattr(spread, name) for name in STATISTICS} | asdict(apart)


def summarise_runs(results: Sequence[RunResult]) -> dict[str, dict[str, float | None]]:
    """Errors by metric: of the only run, or the median over runs."""
    every = [{m: errors_of(r.errors[m], r.distances[m]) for m in RUN_METRICS} for r in results]

    def middle(metric: str, name: str) -> float | None:
        known = [value for errors in every if (value := errors[metric][name]) is not None]
        return float(np.median(known)) if known else None

    return {m: {name: middle(m, name) for name in every[0][m]} for m in RUN_METRICS}


def predict_run(
    run: BenchmarkRun,
    given: Given | None = None,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> RunResult:
    """Predict a run from its configuration and its requests.

    Parameters
    ----------
    run
        Its measured latencies are not looked at.
    given
        What the user knows better.
    seed
        Of arrivals, where the run has a rate but no arrivals, and of routing draws.
    calibration
        Whose constants of engines to take; the shipped one by default.

    Raises
    ------
    ConfigError
        If the model or the machine are unknown, or the layout is impossible.
    InfeasibleError
        If the model does not fit.
    """
    calibration = shipped() if calibration is None else calibration
    setup, assumed = setup_of(run, given or Given())
    setup = replace(setup, traits=calibration.traits.get(setup.backend, Traits()))
    requests, more = requests_of(run, seed)
    replayed = replay(requests, setup, seed)
    samples = replayed.samples(run.itl_of, run.counted_from)
    predicted = {m: Spread.of_sample(samples[m]) for m in RUN_METRICS}
    errors = {m: predicted[m].over(run.measured[m]) for m in RUN_METRICS}
    apart = {m: distance(samples[m], s) if (s := run.samples.get(m)) else Distance() for m in RUN_METRICS}
    return RunResult(run, setup, replayed, predicted, errors, apart, (*assumed, *more))


def setup_of(run: BenchmarkRun, given: Given) -> tuple[Setup, tuple[str, ...]]:
    """What serves a run, and what had to be assumed about it."""
    faults, assumed = [], []
    model_name, hardware_name = given.model or run.model, given.hardware or run.hardware
    if not model_name:
        faults.append(Fault("the run does not say which model was served", "--model"))
    if not hardware_name:
        why = "neither the run nor its path says which machine it is of"
        faults.append(Fault(why, "--hardware", allowed="see `moesim hardware list`"))
    if faults:
        raise ConfigError(faults, run.path)
    ending = ""
    if given.model is None:
        # The model's usual name, where the checkpoint's differs from it in data type alone.
        known, ending = model_of(model_name)
        model_name = known or model_name
    model = load_model(model_name)
    hardware = load_hardware(hardware_name, nodes=given.nodes)
    said = _merged(given.engine, run.engine)
    if said.tp is None and said.dp is None:
        assumed.append("layout: one device (--tp, --pp, --dp, --ep)")
    layout = Parallelism(said.tp or 1, said.pp or 1, said.dp or 1, said.ep or 1)
    usual = Engine()
    for name, option in (("chunk_tokens", "--max-num-batched-tokens"), ("max_sequences", "--max-num-seqs")):
        if getattr(said, name) is None:
            assumed.append(f"{option} {getattr(usual, name):g}")
    backend = given.backend or run.backend
    if not backend:
        assumed.append("backend: vllm (--backend)")
    dtype = given.engine.dtype or _dtype(model, said.dtype, ending)
    if not dtype:
        assumed.append(f"weights as in the checkpoint, not {said.dtype!r} (--dtype)")
    engine = Engine(
        dtype=dtype or "auto",
        kv_cache_dtype=_cache_dtype(said.kv_cache_dtype),
        chunk_tokens=said.chunk_tokens or usual.chunk_tokens,
        max_sequences=said.max_sequences or usual.max_sequences,
        memory_utilisation=said.memory_utilisation or usual.memory_utilisation,
        backend=backend or usual.backend,
    )
    found = engine.faults()
    if found:
        raise ConfigError(found, run.path)
    setup = Setup(model, hardware, layout, engine, backend or "vllm", version=run.version)
    return setup, tuple(assumed)


def requests_of(run: BenchmarkRun, seed: int) -> tuple[RequestTrace, tuple[str, ...]]:
    """Requests to serve: recorded, or as many of mean length; and what had to be assumed about them."""
    closed = run.concurrency is not None and run.request_rate is None
    if run.requests is not None:
        if closed:
            # When a client of a closed loop sends depends on when it is answered: that is predicted.
            queued = replace(run.requests, arrival_s=np.zeros(len(run.requests)))
            return replace(queued, concurrency=run.concurrency), ()
        return replace(run.requests, concurrency=run.concurrency), ()
    mean = [max(round(side.mean or 1.0), 1) for side in (run.input_tokens, run.output_tokens)]
    notes: tuple[str, ...] = ()
    if run.request_rate is not None:
        arrivals = f"poisson:{run.request_rate!r}"
        notes = ("arrivals: Poisson at the recorded rate",)
    else:
        arrivals = f"closed:{run.concurrency or run.completed}"
    if run.completed > MOST_MADE:
        notes += (f"the first {MOST_MADE:,} requests stand for all",)
    made = generate_requests(min(run.completed, MOST_MADE), arrivals, mean[0], mean[1], seed=seed)
    return replace(made, concurrency=run.concurrency) if run.concurrency else made, notes


def _merged(given: RunEngine, recorded: RunEngine) -> RunEngine:
    pairs = {f.name: (getattr(given, f.name), getattr(recorded, f.name)) for f in fields(RunEngine)}
    return RunEngine(**{name: a if a is not None else b for name, (a, b) in pairs.items()})


def _dtype(model: Model, recorded: str | None, ending: str) -> str:
    """Data type of the weights, empty if unknown; 16 bits in the options mean the checkpoint's own."""
    own = set((model.weight_dtypes or {}).values())
    wide = (recorded or "").lower() in ("", "auto", "bfloat16", "bf16", "float16", "fp16", "half")
    if wide and (own - {"bf16", "fp16"} or not recorded):
        return dtype_of(model, ending)
    return dtype_of(model, recorded or "", ending)


def _cache_dtype(recorded: str | None) -> str:
    text = (recorded or "auto").lower()
    return "fp8" if text.startswith("fp8") else "auto"
