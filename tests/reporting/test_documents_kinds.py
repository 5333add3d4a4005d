"""Documents of every kind: recognised, checked, and the same once they were in a page."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import COMMANDS, KIND, TRACE, document
from page_access import Access
from page_reader import Page

import moesim as ms
from moesim.errors import ConfigError
from moesim.reporting import document_of, documents_of, read_documents, report, write_page
from moesim.reporting.documents import KINDS, Provenance, ReportDocument, checked, kind_of
from moesim.reporting.gather import compact
from moesim.reporting.sections import labels_of, sections
from tests.program import run_here

NASTY = '</script><script>alert("1")</script><img src=x onerror=y> & $\\frac{$'
NAMES = ("prediction", "placement", "simulation", "plan", "replay", "replay-curve", "replay-systems",
         "trace-statistics", "validation-published", "validation-reference", "scoreboard", "training",
         "training-search")  # fmt: skip


def read(path):
    """The one document of a file."""
    (found,) = read_documents([path]).results
    return found


@pytest.mark.parametrize("name", [*COMMANDS, "validation-reference"])
def test_a_document_is_known_by_its_word_and_by_what_it_holds(printed_kinds, name):
    raw = document(printed_kinds[name])
    kind = KIND.get(name, name)
    assert raw.get("kind", kind) == kind
    raw.pop("kind", None)
    assert kind_of(raw) == kind
    found = read(printed_kinds[name])
    assert type(found) is KINDS[kind]
    assert labels_of([found]) == [next(trait for trait in found.traits if trait)]


def test_what_is_in_the_page_makes_the_page_again(printed_kinds, tmp_path):
    whole = read_documents([printed_kinds[name] for name in NAMES])
    assert [result.kind for result in whole.results] == list(NAMES)
    first = write_page(whole, tmp_path / "a.html")
    page = Page(first.read_text(encoding="utf-8"))
    assert page.data["results"] == [compact(result.model_dump(mode="json")) for result in whole.results]
    for section in sections(whole):
        assert " ".join(section.answer.lead.split()) in page.words
    text = first.read_text(encoding="utf-8")
    assert Access(text).faults == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    # Thirteen results and their figures: one of them is far below the 2 MB that a page may have.
    assert len(text.encode()) < 4_000_000
    # A page is a function of its document, which is read back whole.
    again = read_documents([first])
    assert (again.results, again.hardware, again.provenance) == (
        whole.results,
        whole.hardware,
        whole.provenance,
    )


def test_names_are_text_in_every_kind(printed_kinds, tmp_path):
    def rename(tree):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            if isinstance(value, str) and key in (
                "model", "hardware", "system", "path", "trace", "reason", "what", "source", "text", "vendor",
                "layer", "name", "why", "op", "routing",
            ):  # fmt: skip
                tree[key] = NASTY
            elif isinstance(value, dict | list):
                rename(value)

    files = []
    for name in (
        "simulation",
        "plan",
        "replay-systems",
        "trace-statistics",
        "validation-reference",
        "scoreboard",
    ):
        raw = document(printed_kinds[name])
        rename(raw)
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(raw))
    path = write_page(read_documents(files, title=NASTY), tmp_path / "all.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert text.count("<script") == 1
    assert "img" not in {
        tag for tag, attributes in page.tags if not (attributes.get("src") or "").startswith("data:")
    }
    assert " ".join(NASTY.split()) in page.words


def test_a_kind_without_a_page_is_told_with_those_that_have_one(tmp_path):
    done = run_here("model", "list", "--json", cwd=tmp_path)
    (tmp_path / "models.json").write_text(done.stdout)
    told = run_here("report", "models.json", "-o", "x.html", cwd=tmp_path)
    assert told.returncode == 2
    for words in ("models.json", "has no page (got 'models')", *KINDS, "moesim predict, place, simulate"):
        assert words in told.stderr, words


def test_what_a_file_is_of_stays_the_kind_of_trace_info(tmp_path):
    done = run_here("trace", "info", TRACE, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["kind"] == "routing_trace"


def test_infeasible_answers_are_told_as_such(tmp_path):
    done = run_here("train", "mixtral-8x7b", "--hardware", "h100-sxm-8", "--json", cwd=tmp_path)
    assert done.returncode == 1
    (tmp_path / "no.json").write_text(done.stdout)
    assert document(tmp_path / "no.json")["kind"] == "training"
    with pytest.raises(ConfigError, match="says that the configuration is infeasible"):
        read_documents([tmp_path / "no.json"])


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.just("x" * 3000), st.just([]), st.just({}),
    st.sampled_from([0, 1, -1, 0.5, 1e-300]),
)  # fmt: skip


def _places(tree, path=()):
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:2]) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(data=st.data())
def test_any_change_is_refused_by_name_or_shown(data, raw_kinds):
    """Untrusted documents never end in another error than the one that names the fault."""
    raw = copy.deepcopy(raw_kinds[data.draw(st.sampled_from(NAMES))])
    path = data.draw(st.sampled_from(sorted(_places(raw), key=str)))
    parent = raw
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = data.draw(_VALUES)
    try:
        kind = kind_of(raw)
        found = checked(KINDS[kind], raw, "file") if kind in KINDS else None
        if found is not None:
            whole = checked(ReportDocument, {"results": [found.model_dump()]}, "report")
    except ConfigError:
        return
    for section in sections(whole) if found is not None else ():
        assert section.answer.lead
        assert all(len(row) == len(table.columns) for table in section.tables for row in table.rows)
        assert all(figure.facts and figure.csv() for figure in section.figures)


@pytest.fixture(scope="module")
def raw_kinds(printed_kinds):
    """What was printed, long lists of rows cut."""
    found = {name: document(printed_kinds[name]) for name in NAMES}
    for raw in found.values():
        if isinstance(raw.get("rows"), list):
            raw["rows"] = raw["rows"][:5]
    return found


def test_results_in_python_have_the_same_documents(printed_kinds, predictions, trace, tmp_path):
    from moesim.policy import Residency, token_steps
    from moesim.requests import generate_requests
    from moesim.requests.arrivals import Gamma
    from moesim.residency import curve, replay

    model, hardware = ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")
    requests = generate_requests(100, Gamma(40.0), 256, 32, seed=0)
    results = {
        "prediction": predictions[0],
        "simulation": ms.simulate(model, hardware, ms.Parallelism(dp=8, ep=8), requests, seed=3),
        "trace-statistics": ms.statistics(trace, families=("load",)),
        "replay": replay(trace, Residency("lru"), 8),
        "replay-curve": curve(token_steps(trace), Residency("lru")),
    }
    found = documents_of(list(results.values()))
    assert [one.kind for one in found] == list(results)
    assert found[1].completed == 100
    assert found[1].provenance.seed == 3
    assert found[2].loads == trace.load_counts().totals.tolist()
    whole = document(printed_kinds["replay"])
    assert document_of(results["replay"]).hit_ratio == whole["policies"][0]["hit_ratio"]
    page = Page(report(list(results.values()), tmp_path / "all.html").read_text(encoding="utf-8"))
    assert [one["kind"] for one in page.data["results"]] == list(results)
    assert page.data["hardware"][0]["name"] == "h100-sxm-8"


def test_a_plan_in_python_has_the_document_of_the_command(printed_kinds):
    from moesim.planning import Slo, Space, make_traffic

    raw = document(printed_kinds["plan"])
    result = ms.plan(
        [ms.load_model("gpt-oss-20b")],
        [ms.load_hardware("h100-sxm-8")],
        make_traffic(request_rate=20.0, input_len="1024", output_len="64", requests=200),
        Slo({"ttft_s": 0.5, "tpot_s": 0.03}),
        space=Space(most_devices=8, tp=(1, 2), pp=(1,)),
        confirm=1,
    )
    found = document_of(result)
    assert found.kind == "plan"
    assert found.plan.usd_per_hour == raw["plan"]["usd_per_hour"]
    assert str(found.plan) == str(read(printed_kinds["plan"]).plan)
    assert found.plan.metrics["ttft_p99_s"] == pytest.approx(raw["plan"]["metrics"]["ttft_p99_s"])


def test_other_objects_are_refused_by_type():
    with pytest.raises(ConfigError) as told:
        documents_of([3, ms.load_model("gpt-oss-20b")])
    assert [fault.where for fault in told.value.faults] == ["results.0", "results.1"]
    assert [fault.value for fault in told.value.faults] == ["int", "Model"]
    assert "simulate" in told.value.faults[0].allowed
    with pytest.raises(ConfigError, match="at least one result"):
        documents_of([])


def test_folders_of_files_stay_at_home():
    provenance = {"inputs": {"/home/ann/a.json": "1", "b\\a.json": "2", "other/a.json": "1"}}
    found = checked(Provenance, provenance)
    assert found.inputs == {"a.json": "1", "a.json (2)": "2"}
