"""Constants from runs served again: a run that the simulator made gives back what it was made with."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from moesim.correction import Calibration
from moesim.engine.traits import Traits
from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.learning.replayed import fit_replayed
from moesim.model import load_model
from moesim.prediction import Engine
from moesim.requests import request_trace
from moesim.validate.find_runs import read_runs
from moesim.validate.replay import Setup, replay
from moesim.validate.run_report import Given

#: Of the last vLLM whose host does not plan ahead: later, its time is hidden, and cannot be found.
VERSION = "0.13.0"
TRUE = Traits(host_s=2e-3, over_bridge=3.0)
PRIOR = Traits(host_s=1e-3, over_bridge=2.3)


def made(folder, layout, traits=TRUE, n=40):
    """A run folder of requests as the simulator serves them."""
    rng = np.random.default_rng(11)
    trace = request_trace(np.sort(rng.uniform(0, 10, n)), rng.integers(50, 900, n), rng.integers(20, 120, n))
    setup = Setup(
        load_model("qwen3-30b-a3b"),
        load_hardware("rtx-pro-6000-8"),
        layout,
        Engine(chunk_tokens=2048, max_sequences=64),
        "vllm",
        traits,
        VERSION,
    )
    found = replay(trace, setup)
    folder.mkdir(parents=True)
    options = {
        "tensor_parallel_size": layout.tp,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
        "enable_expert_parallel": layout.ep > 1,
    }
    meta = {"model": "Qwen/Qwen3-30B-A3B", "vllm_version": VERSION, "engine_kwargs": options}
    (folder / "meta.json").write_text(json.dumps(meta))
    names = ("input_toks", "output_toks", "arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
    columns = (
        trace.input_tokens.tolist(),
        trace.output_tokens.tolist(),
        trace.arrival_s,
        trace.arrival_s,
        found.first_s,
        found.last_s,
    )
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def calibration(traits=PRIOR):
    return Calibration({"vllm": traits}, {})


def test_constants_come_back(tmp_path):
    folder = made(tmp_path / "RTXPRO6000" / "two", Parallelism(tp=2, ep=2))
    found, fits = fit_replayed(read_runs(folder), Given(), calibration())
    assert abs(fits[0].after["tpot"]) < 0.3 * abs(fits[0].before["tpot"])
    assert abs(fits[0].after["tpot"]) < 0.01
    assert fits[0].from_others is None
    assert found.traits["vllm"].over_bridge > PRIOR.over_bridge
    # What was not fitted stays.
    assert replace(found.traits["vllm"], host_s=1e-3, over_bridge=2.3) == PRIOR


def test_one_device_tells_nothing_of_collectives(tmp_path):
    made(tmp_path / "RTXPRO6000" / "one", Parallelism())
    made(tmp_path / "RTXPRO6000" / "two", Parallelism(tp=2, ep=2))
    runs = read_runs(tmp_path)
    alone, _ = fit_replayed(runs[:1], Given(), calibration())
    assert alone.traits["vllm"].over_bridge == PRIOR.over_bridge
    assert alone.traits["vllm"].host_s == pytest.approx(TRUE.host_s, rel=0.1)
    _, fits = fit_replayed(runs, Given(), calibration())
    # The host's part of the other run is known from the first.
    assert abs(fits[1].from_others["tpot"]) < abs(fits[1].before["tpot"])


def test_statistics_alone_are_refused(tmp_path):
    (run,) = read_runs(made(tmp_path / "RTXPRO6000" / "one", Parallelism(), n=3))
    with pytest.raises(ConfigError, match="one by one"):
        fit_replayed([replace(run, samples={})], Given(), calibration())


def test_shared_runs_foretell_each_other(shared):
    runs = read_runs(shared("vllm-runs"))
    from moesim.correction import shipped

    _, fits = fit_replayed(runs, Given(), shipped())
    for fit in fits:
        assert abs(fit.from_others["tpot"]) < 0.03
        assert abs(fit.from_others["ttft"]) < 0.10
        assert abs(fit.from_others["e2el"]) < 0.03
