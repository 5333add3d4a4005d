"""A plan as documents and tables, from results made by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.layout import Disaggregated, Parallelism, Workers
from moesim.model import load_model
from moesim.planning.document import document_of, predicted, rows_of, write_rows
from moesim.planning.slo import parse_slo
from moesim.planning.traffic import make_traffic
from moesim.planning.types import (
    CONFIRMED,
    RANKED,
    TOO_SLOW,
    Assessment,
    Candidate,
    PlanResult,
    Refusal,
)
from moesim.prediction import Engine


@pytest.fixture(scope="module")
def result():
    model, machine = load_model("gpt-oss-20b"), load_hardware("h100-sxm-8")
    layout, engine = Parallelism(dp=8, ep=8), Engine()
    pools = Disaggregated(Workers(Parallelism(tp=2), 2), Workers(Parallelism(tp=4)))
    steady = Assessment(
        Candidate(model, machine, layout, 2, engine), RANKED, "", {"ttft_s": 0.2, "tpot_s": 0.02}, {}, 47.2
    )
    held = Assessment(
        Candidate(model, machine, layout, 3, engine),
        CONFIRMED,
        "",
        {"ttft_s": 0.3, "ttft_p99_s": 0.9, "attainment": 0.995, "output_throughput": 1e4},
        {"attainment": (0.994, 0.996)},
        70.8,
    )
    slow = Assessment(
        Candidate(model, machine, pools, 1, engine), TOO_SLOW, "tpot_s: 61 ms", {"tpot_s": 0.061}
    )
    refusal = Refusal(TOO_SLOW, "tpot_s", 7, slow, (slow,))
    return PlanResult(
        held,
        (steady,),
        (held,),
        (),
        (steady,),
        (refusal,),
        {"configurations": 9},
        {"search": 1.0},
        ("a note",),
    )


def test_prediction_stands_beside_what_was_simulated(result):
    assert predicted(result, result.best) == {"ttft_s": 0.2, "tpot_s": 0.02, "replicas": 2.0}
    # A candidate that is not among the ranked has none.
    assert predicted(result, result.refused[0].nearest) == {}


def test_a_plan_has_a_document_if_it_knows_its_question(result):
    traffic = make_traffic(request_rate=5.0, input_len="100", output_len="10", requests=100)
    slo = parse_slo(["ttft:1000"])
    with pytest.raises(ValueError, match="without its promise"):
        result.to_dict()
    whole = replace(result, slo=slo, traffic=traffic).to_dict()
    expected = document_of(result, traffic, slo, [result.best.candidate.hardware])
    assert whole == {"kind": "plan", **expected, "warnings": ["a note"]}


def test_the_document_is_plain_and_whole(result):
    traffic = make_traffic(request_rate=5.0, input_len="100", output_len="10", requests=100)
    machines = [result.best.candidate.hardware, load_hardware("h20-8")]
    document = document_of(result, traffic, parse_slo(["ttft:1000"]), machines)
    assert json.loads(json.dumps(document)) == document
    plan = document["plan"]
    # 70.8 USD for 36 million tokens.
    assert plan["usd_per_million_output_tokens"] == pytest.approx(70.8 / 36.0)
    assert (plan["devices"], plan["nodes"], plan["layout"]["ep"]) == (24, 3, 8)
    assert document["refused"][0]["nearest"]["layout"]["prefill"] == {
        "workers": 2,
        "tp": 2,
        "pp": 1,
        "dp": 1,
        "ep": 1,
    }
    assert [p["date"] is None for p in document["prices"]] == [False, True]
    assert document["minimised"] == "usd_per_hour"


def test_rows_are_the_same_in_either_table(result, tmp_path):
    rows = rows_of(result)
    assert [row["status"] for row in rows] == [CONFIRMED, RANKED, TOO_SLOW]
    assert rows[0]["interval_attainment_low"] == 0.994
    assert rows[2]["layout_decode_tp"] == 4
    write_rows(rows, tmp_path / "a.csv")
    write_rows(rows, tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open() as stream:
        texts = list(csv.DictReader(stream))
    values = pq.read_table(tmp_path / "a.parquet").to_pylist()
    for text, value in zip(texts, values, strict=True):
        assert {n: v for n, v in text.items() if v} == {
            n: str(v) for n, v in value.items() if v is not None and v != ""
        }


def test_a_table_of_another_kind_is_refused(result, tmp_path):
    with pytest.raises(ConfigError, match=r"\.csv or \.parquet"):
        write_rows(rows_of(result), tmp_path / "a.xlsx")
