"""Answers: the same as the commands they name, with curves, limits and costs that agree with them."""

from __future__ import annotations

import json
import shlex

import pytest

from moesim.files import data_dir
from tests.ui.conftest import SMALL

pytestmark = pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")
TRACE = "gpt-oss-20b-synthetic"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"request_rate": 7.5},
        {"trace": TRACE, "backend": "sglang", "seed": 3},
        {"tp": 2, "dp": 4, "redundant": 8, "overlap": "two-batch", "kv_cache_dtype": "fp8", "dtype": "bf16"},
        {"hardware": "mi300x-8", "routing": "uniform", "input_len": 1536.5, "concurrency": 37},
        {"model": "tiny-moe", "dp": 4, "ep": 4, "input_len": 64, "output_len": 64, "trace": "tiny-moe"},
        {"model": "llama-3.1-8b", "hardware": "l40s-8", "dp": 2, "ep": 1, "concurrency": 8},
    ],
)
def test_the_command_line_gives_the_same_answer(ask, moesim, changes):
    found = ask(**changes)
    words = shlex.split(found["command"])
    assert words[:2] == ["moesim", "predict"]
    code, out, _ = moesim(*words[1:], "--json")
    assert code == 0
    assert found["prediction"] == {"kind": "prediction", **json.loads(out)}


def test_what_does_not_fit_is_an_answer_with_its_reason(ask, moesim):
    found = ask(model="deepseek-v3")
    code, _, err = moesim(*shlex.split(found["command"])[1:])
    assert code == 1
    assert (found["feasible"], found["prediction"], found["curve"]) == (False, None, None)
    assert found["reason"] in err
    assert found["shortage"]["needed"] > found["shortage"]["available"] > 0
    assert found["meets"] == {"ttft": None, "tpot": None}
    assert found["usd_per_million_output_tokens"] is None


def test_the_curve_passes_through_the_answer(ask):
    for changes in ({}, {"concurrency": 100}, {"concurrency": 50_000}, {"concurrency": 1}):
        found = ask(**changes)
        curve, at = found["curve"], found["prediction"]
        row = curve["concurrency"].index(at["concurrency"])
        for name in ("ttft_s", "tpot_s", "e2el_s", "request_throughput", "output_throughput"):
            assert curve[name][row] == pytest.approx(at[name], rel=1e-12)
        for name in ("ttft_s", "tpot_s", "output_throughput"):
            low, high = at["interval"][name]
            assert curve["low"][name][row] == pytest.approx(low, rel=1e-12)
            assert curve["high"][name][row] == pytest.approx(high, rel=1e-12)
            assert curve["bound"][name][row] == pytest.approx(at["bounds"][name], rel=1e-12)


def test_every_point_of_a_curve_is_an_answer_of_its_own(ask):
    curve = ask()["curve"]
    assert curve["concurrency"] == sorted(set(curve["concurrency"]))
    for row in (0, 7, len(curve["concurrency"]) - 1):
        alone = ask(concurrency=curve["concurrency"][row])["prediction"]
        assert curve["tpot_s"][row] == pytest.approx(alone["tpot_s"], rel=1e-12)
        assert curve["high"]["tpot_s"][row] == pytest.approx(alone["interval"]["tpot_s"][1], rel=1e-12)


def test_a_curve_of_rates_ends_below_the_most_that_is_kept_up_with(ask):
    found = ask(request_rate=5)
    curve = found["curve"]
    assert curve["by"] == "request_rate"
    assert curve["request_rate"] == sorted(curve["request_rate"])
    alone = ask(request_rate=curve["request_rate"][-1])
    assert alone["feasible"]
    assert curve["ttft_s"][-1] == pytest.approx(alone["prediction"]["ttft_s"], rel=1e-9)
    assert curve["high"]["tpot_s"][-1] == pytest.approx(
        alone["prediction"]["interval"]["tpot_s"][1], rel=1e-9
    )
    refused = ask(request_rate=round(curve["request_rate"][-1] * 1.05, 3))
    assert not refused["feasible"]
    assert refused["curve"]["request_rate"] == pytest.approx(curve["request_rate"])


def test_nothing_beats_a_bound_and_every_value_is_in_its_interval(ask):
    curve = ask()["curve"]
    for metric in ("ttft_s", "tpot_s"):
        rows = zip(
            curve["bound"][metric], curve["low"][metric], curve[metric], curve["high"][metric], strict=True
        )
        assert all(bound <= low <= value <= high for bound, low, value, high in rows)
    columns = (
        curve["output_throughput"],
        curve["high"]["output_throughput"],
        curve["bound"]["output_throughput"],
    )
    most = zip(*columns, strict=True)
    assert all(value <= high <= bound for value, high, bound in most)


def test_limits_are_met_as_surely_as_the_interval_says(ask):
    free = ask()
    assert free["meets"] == {"ttft": None, "tpot": None}
    low, high = (end * 1e3 for end in free["prediction"]["interval"]["tpot_s"])
    value, bound = free["prediction"]["tpot_s"] * 1e3, free["prediction"]["bounds"]["tpot_s"] * 1e3
    wanted = {
        high * 1.01: ("surely", False),
        (value + high) / 2: ("probably", False),
        (low + value) / 2: ("probably not", False),
        (bound + low) / 2: ("not", False),
        bound * 0.99: ("not", True),
    }
    for limit, (verdict, proven) in wanted.items():
        found = ask(tpot_limit_ms=limit)
        assert (found["meets"]["tpot"]["verdict"], found["meets"]["tpot"]["proven"]) == (verdict, proven)
        assert found["meets"]["tpot"]["value_ms"] == pytest.approx(value)
        assert found["meets"]["ttft"] is None
        assert found["prediction"] == free["prediction"]


def test_tokens_cost_what_whole_nodes_cost(ask):
    found = ask(dp=4, ep=4)
    at = found["prediction"]["output_throughput"]
    price = float(found["price"].split()[0])
    assert found["usd_per_hour"] == pytest.approx(8 * price)
    assert found["usd_per_million_output_tokens"] == pytest.approx(8 * price / 3600 / at * 1e6)
    unpriced = ask(hardware="dojo-wafer", dp=1, ep=1)
    assert (unpriced["usd_per_hour"], unpriced["price"]) == (None, "")


def test_what_is_offered_can_be_asked_about(page, ask):
    offered = page.get("/api/catalogue").json()
    names = {row["name"] for row in offered["models"]}
    assert {"deepseek-v3", "tiny-moe", "llama-2-7b"} <= names
    # Encoders are counted, not predicted.
    assert "switch-base-128" not in names
    refused = page.post("/api/answer", json=SMALL | {"model": "switch-base-128"})
    assert refused.status_code == 422
    assert "encoder-decoder" in refused.text
    for kind in sorted({row["kind"] for row in offered["hardware"]}):
        machine = next(row for row in offered["hardware"] if row["kind"] == kind)
        small = {"model": "tiny-moe", "hardware": machine["name"], "dp": 1, "ep": 1, "input_len": 64}
        # All hold it but the rack whose memory is on chips alone.
        assert ask(**small, nodes=machine["nodes"])["feasible"] or machine["name"] == "groq-lpu-rack"


def test_engines_start_with_the_lines_of_a_plan_or_a_reason(ask):
    from moesim.hardware import load_hardware
    from moesim.layout import Parallelism
    from moesim.model import load_model
    from moesim.planning import Candidate, launch
    from moesim.planning.launch import script
    from moesim.prediction import Engine

    found = ask(ep=4)
    assert found["launch"]["vllm"]["script"] is None
    assert "not 4" in found["launch"]["vllm"]["reason"]
    found = ask(backend="sglang")
    candidate = Candidate(
        load_model("gpt-oss-20b"),
        load_hardware("h100-sxm-8", 1),
        Parallelism(dp=8, ep=8),
        1,
        Engine(backend="vllm"),
    )
    assert found["launch"]["vllm"]["script"] == script(launch(candidate))
    assert "trtllm-serve" in found["launch"]["trtllm"]["script"]


def test_a_scenario_comes_back_whole_and_gives_the_same_again(ask, page):
    first = ask(model="openai/gpt-oss-20b", hardware="H100_SXM", concurrency=256.0)
    assert (first["scenario"]["model"], first["scenario"]["hardware"]) == ("gpt-oss-20b", "h100-sxm-8")
    assert first["scenario"]["concurrency"] == 256
    again = page.post("/api/answer", json=first["scenario"]).json()
    for document in (first, again):
        assert document.pop("server_ms") > 0
        assert document.pop("cpu_ms") > 0
    assert json.dumps(first) == json.dumps(again)
    default = page.get("/api/catalogue").json()["defaults"]["scenario"]
    assert list(first["scenario"]) == list(default)


def test_a_trace_changes_the_answer_and_says_what_was_assumed(ask):
    without, with_ = ask(), ask(trace=TRACE)
    assert without["prediction"]["load_imbalance"] != with_["prediction"]["load_imbalance"]
    assert str(data_dir("traces") / f"{TRACE}.npz") in with_["command"]
    assert (
        with_["prediction"]["provenance"]["inputs"].keys()
        > without["prediction"]["provenance"]["inputs"].keys()
    )


def test_files_of_ones_own_are_offered_and_asked_about_by_name(tmp_path, moesim):
    from moesim.hardware import load_hardware
    from moesim.ui.answer import answer
    from moesim.ui.catalogue import catalogue
    from moesim.ui.library import Library

    slow = tmp_path / "h100 slow.yaml"
    text = (data_dir("hardware") / "h100-sxm-8.yaml").read_text()
    slow.write_text(text.replace("name: h100-sxm-8", "name: h100-slow-8").replace("3.35 TB/s", "1.5 TB/s"))
    model = tmp_path / "half-oss" / "config.json"
    model.parent.mkdir()
    source = json.loads((data_dir("hardware").parent / "moesim/model/catalogue/gpt-oss-20b.json").read_text())
    model.write_text(json.dumps(source | {"num_hidden_layers": 12}))
    library = Library(
        [str(model.parent)], [str(slow)], [str(data_dir("traces") / "gpt-oss-20b-synthetic.npz")]
    )
    offered = catalogue(library)
    own = {kind: [row["name"] for row in offered[kind] if row["given"]] for kind in ("models", "hardware")}
    assert own == {"models": ["half-oss"], "hardware": ["h100-slow-8"]}
    assert [row["id"] for row in offered["traces"] if row["origin"] == "file"] == ["gpt-oss-20b-synthetic-2"]
    found = answer(SMALL | {"model": "half-oss", "hardware": "h100-slow-8"}, library)
    assert load_hardware(slow).device.memory.bandwidth_bytes_per_s == 1.5e12
    code, out, _ = moesim(*shlex.split(found["command"])[1:], "--json")
    assert code == 0
    assert found["prediction"] == {"kind": "prediction", **json.loads(out)}
