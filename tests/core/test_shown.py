"""Results show themselves: what is in the table is what is in the result, and names are only names."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import moesim as ms
from moesim import tabular
from moesim.analysis import Statistics
from moesim.files import data_dir
from moesim.offload import Timed
from moesim.planning import Space, make_traffic, parse_slo
from moesim.policy import Residency, token_steps
from moesim.requests import generate_requests
from moesim.residency import curve, replay
from moesim.serving.statistics import summarise
from moesim.shown import MOST, bars, block, cell, number, span, table, text

HOSTILE = "<script>alert('x')</script>\"&</td>"


class Reader(HTMLParser):
    """Tags that close, and the text of every cell."""

    VOID = frozenset({"rect", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    assert reader.tags <= {
        "div",
        "p",
        "b",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "ul",
        "li",
        "svg",
        "rect",
        "title",
    }
    return reader


@pytest.fixture(scope="module")
def model():
    return ms.load_model("gpt-oss-20b")


@pytest.fixture(scope="module")
def hardware():
    return ms.load_hardware("h100-sxm-8")


@pytest.fixture(scope="module")
def trace():
    return ms.load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz")


@pytest.fixture(scope="module")
def answer(model, hardware):
    return ms.predict(model, hardware, ms.Parallelism(dp=8, ep=8), ms.Workload(1024, 512, concurrency=64))


def test_a_prediction_shows_its_numbers_interval_and_bound(answer):
    cells = read(answer._repr_html_()).cells
    row = cells.index("TPOT, ms")
    low, high = (1e3 * end for end in answer.interval["tpot_s"])
    assert cells[row + 1 : row + 4] == [
        number(1e3 * answer.tpot_s),
        f"{number(low)} to {number(high)}",
        number(1e3 * answer.bounds["tpot_s"]),
    ]
    frame = answer.to_pandas().set_index("metric")
    assert frame.loc["ttft_s", "value"] == answer.ttft_s
    assert frame.loc["ttft_s", "unit"] == "s"
    assert frame.loc["tpot_s", ["low", "high"]].tolist() == list(answer.interval["tpot_s"])
    assert frame["low"].isna()["memory_bytes"]


def test_bars_are_the_shares(answer):
    svg = re.search(r"<svg.*</svg>", answer._repr_html_(), re.DOTALL)[0]
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height', svg)]
    spent = [line.seconds for line in answer.breakdown if line.seconds > 0]
    assert sum(widths) == pytest.approx(100.0, abs=0.01)
    assert widths[0] == pytest.approx(100.0 * spent[0] / sum(spent), abs=0.001)


@pytest.mark.parametrize("name", [HOSTILE, "x" * 10_000, "\x00<b>"])
def test_names_are_text(answer, model, hardware, trace, name):
    shown = [
        replace(answer, model=name, hardware=name, warnings=(name,)),
        replace(model, name=name, model_type=name, warnings=(name,)),
        replace(hardware, name=name, title=name),
        replace(trace, model=name, source=name, licence=name, warnings=(name,)),
        replace(trace.load_counts(), model=name, source=name),
        Statistics({"gini": 0.1}, [], {name: name}, model=name),
    ]
    for result in shown:
        html = result._repr_html_()
        read(html)
        assert "<script" not in html
        assert "x" * (MOST + 1) not in html


def test_the_parts_escape():
    assert text("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert cell(float("nan")) == cell(None) == "&ndash;"
    read(block(HOSTILE, table([HOSTILE], [[HOSTILE]]), bars([(HOSTILE, 1.0)], HOSTILE), notes=[HOSTILE]))
    assert bars([("a", 0.0)], "s") == ""


def test_tables_hold_what_results_hold(model, hardware, trace):
    loads = [ms.Workload(512, 128, concurrency=c) for c in (8, 64)]
    answers = ms.sweep(model, hardware, [ms.Parallelism(tp=8), ms.Parallelism(dp=8, ep=8)], loads)
    frame = answers.to_pandas()
    assert frame["concurrency"].tolist() == [8, 64, 8, 64]
    assert frame["tpot_s"].tolist() == answers["tpot_s"].ravel().tolist()
    assert read(answers._repr_html_()).cells.count(str(answers.layouts[1])) == 2

    steps = token_steps(trace)
    found = curve(steps, Residency("lru"))
    assert found.to_pandas()["hit_ratio"].tolist() == found.hit_ratio.tolist()
    one = replay(trace, Residency("lru"), 8)
    assert one.to_pandas()["hits"].sum() == one.hits.sum()
    cells = read(one._repr_html_()).cells
    assert cells[cells.index("hits") + 1] == number(int(one.hits.sum()))

    counts = ms.statistics(trace, families=["load"])
    assert counts.to_pandas()["max_over_mean"].tolist() == [layer["max_over_mean"] for layer in counts.layers]
    read(counts._repr_html_())
    read(found._repr_html_())


def test_a_plan_has_a_row_for_each_layer(trace, model):
    plan = ms.place(trace, model, ep=4, seed=0)
    frame = plan.to_pandas()
    assert frame["layer_id"].tolist() == list(plan.moe_layer_ids)
    assert frame["gap"].tolist() == pytest.approx(plan.solution.gap.tolist())
    cells = read(plan._repr_html_()).cells
    assert cells[cells.index("plan") + 1] == f"{plan.judged['plan'].fitted.mean:.4f}"


def test_what_is_not_finite_is_null():
    class Odd(tabular.Tabular):
        def columns(self):
            return {
                "a": np.array([1.0, np.nan, np.inf]),
                "b": [None, 2.0, float("nan")],
                "c": ["x", None, "y"],
            }

    table = Odd().to_arrow()
    assert [column.null_count for column in table.columns] == [2, 2, 1]


def test_without_pandas_the_way_out_is_said(answer, monkeypatch):
    monkeypatch.setattr(tabular, "find_spec", lambda _: None)
    with pytest.raises(ms.ConfigError, match="pip install pandas"):
        answer.to_pandas()
    assert answer.to_arrow().num_rows == len(answer.columns()["metric"])


def test_a_capacity_plan_says_what_to_rent_and_why_not_the_rest(hardware, model):
    traffic = make_traffic(request_rate=20, input_len="512", output_len="128", requests=200)
    space = Space(max_devices=4, tp=(1, 2, 4), dp=(1,), chunk_tokens=(8192,), max_sequences=(256,))
    plan = ms.plan([model], [hardware], traffic, parse_slo(["ttft:2000", "tpot:20"]), space=space, confirm=0)
    html = plan._repr_html_()
    cells = read(html).cells
    assert f"rent {plan.best.candidate.devices} devices" in html
    tpot, interval = 1e3 * plan.best.metrics["tpot_s"], plan.best.interval["model_tpot_s"]
    row = cells.index("TPOT, ms", cells.index("TTFT, ms") + 1)
    assert cells[row + 1 : row + 3] == [number(tpot), span(interval, 1e3)]
    frame = plan.to_pandas()
    assert frame.loc[0, "hardware"] == plan.best.candidate.hardware.name
    assert frame["usd_per_hour"].min() == plan.best.usd_per_hour
    assert set(frame["status"]) <= {"ranked", "unfit", "too-slow", "beyond-bound", "budget"}


def test_a_run_has_a_row_for_each_request(hardware, model):
    requests = generate_requests(60, "poisson:20", 256, 32)
    outcome = ms.simulate(model, hardware, ms.Parallelism(), requests)
    frame = outcome.to_pandas()
    assert frame["ttft_s"].tolist() == pytest.approx(outcome.ttft_s.tolist())
    assert len(frame) == 60
    cells = read(outcome._repr_html_()).cells
    found = summarise(outcome)
    assert cells[cells.index("TTFT, ms") + 1] == number(1e3 * found.values["ttft_s"])
    assert cells[cells.index("output tokens/s") + 1] == number(found.values["output_throughput"])


def test_an_offloaded_replay_shows_what_the_gpu_waits_for():
    timed = Timed(
        ttft_s=0.5, tpot_s=0.02, tpot_p50_s=0.02, tpot_p99_s=0.03, output_throughput=50.0, seconds=4.0,
        slots=np.array([8]), counts={"hits": np.array([6, 2]), "accesses": np.array([8, 4])},
        bytes_moved={"to_device": 3e9, "from_device": 0.0, "storage": 0.0}, busy={"gpu": 3.0},
        stalls={"to_device": 1.0, "storage": 0.0}, bounds={"tpot_s": 0.01, "ttft_s": None},
        assumptions=(HOSTILE,), ends=np.array([1.0, 4.0]),
    )  # fmt: skip
    html = timed._repr_html_()
    cells = read(html).cells
    assert cells[cells.index("TPOT, s") + 1 : cells.index("TPOT, s") + 3] == ["0.02", "0.01"]
    assert "waits for to_device 25%" in html
    assert timed.to_pandas()["hits"].tolist() == [6, 2]
