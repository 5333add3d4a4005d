"""`moesim report` and the documents it reads, right and wrong."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from page_reader import Page

from moesim.errors import ConfigError
from moesim.reporting import read_documents
from moesim.reporting.documents import PlacementDocument
from moesim.reporting.gather import plain
from moesim.reporting.read import MAX_BYTES
from moesim.reporting.sections import labels_of, placements
from moesim.reporting.sections import predictions as predicted
from tests.program import run_here


def run(*arguments, cwd):
    return run_here("report", *arguments, cwd=cwd)


@pytest.fixture(scope="session")
def printed(predictions, placed):
    """What `predict --json` and `place --json` print."""
    frame = {
        "schema_version": 1,
        "provenance": {"moesim": "1", "python": "3", "seed": 5, "inputs": {"a/b": "0"}},
    }
    return [plain(frame | result.to_dict()) for result in (*predictions[:2], placed)]


@pytest.fixture
def files(printed, tmp_path):
    paths = [tmp_path / f"{name}.json" for name in ("uniform", "real", "plan")]
    for path, document in zip(paths, printed, strict=True):
        path.write_text(json.dumps(document), encoding="utf-8")
    return paths


def test_command_writes_the_page(files, tmp_path):
    done = run(*files, "-o", "out.html", "--title", "Two and a plan", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["report"] == "out.html"
    assert told["results"] == ["prediction", "prediction", "placement"]
    assert told["bytes"] == (tmp_path / "out.html").stat().st_size
    assert len(told["provenance"]["inputs"]) == 3
    page = Page((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert page.words.startswith("Two and a plan Skip to the evidence Two and a plan")
    assert [t for tag, t in page.text if tag == "th" and t in ("uniform", "real")][:2] == ["uniform", "real"]
    # What the printed documents do not hold is left out, and the page says so.
    assert "map of expert load: the data holds no load" in page.words
    assert "the data holds only totals" in page.words
    assert "does not say where the numbers of the hardware come from" in page.words
    assert page.data["provenance"] == {"moesim": "1", "python": "3", "seed": 5, "inputs": {"b": "0"}}


def test_command_names_every_fault(files, tmp_path):
    document = json.loads(files[0].read_text())
    del document["tpot_s"]
    document["layout"]["ep"] = "eight"
    document["breakdown"][1]["seconds"] = None
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    (tmp_path / "cut.json").write_text(files[1].read_text()[:-40])
    done = run("wrong.json", "cut.json", "gone.json", "-o", "no/out.html", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for expected in ("tpot_s: is missing", "layout.ep", "'eight'", "breakdown.1.seconds", "cut.json",
                     "is no JSON", "gone.json", "cannot be read", "--output"):  # fmt: skip
        assert expected in done.stderr, expected
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", "no JSON object"),
        ('{"a": 1}', "no document that has a page"),
        (
            '{"kind": "rebalancing"}',
            "kind: has no page .got 'rebalancing'.; allowed: prediction, placement, simulation",
        ),
        ('{"tpot_s": 1, "tpot_s": 2}', "key 'tpot_s' twice"),
        ('{"schema_version": 9, "tpot_s": 1}', "another version"),
        ('{"feasible": false, "reason": "too big"}', r"infeasible \(too big\)"),
        ('{"tpot_s": NaN}', "NaN is no number"),
        ("[" * 100_000, "nested too deeply|no JSON"),
        ('{"tpot_s": ' + "9" * 5000 + "}", "no JSON"),
        ('{"kind": "report", "results": []}', "at least 1 item"),
        ('{"kind": "report", "results": [{"kind": "else"}]}', "results"),
    ],
)
def test_other_documents_are_refused(text, expected, tmp_path):
    path = tmp_path / "in.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        read_documents([path])


def test_big_and_binary_files_are_refused(tmp_path):
    big, binary = tmp_path / "big.json", tmp_path / "binary.json"
    with big.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"(?s)too big.*no UTF-8.*is no file"):
        read_documents([big, binary, tmp_path])


def test_inconsistent_placement(printed, tmp_path):
    document = copy.deepcopy(printed[2])
    document["lower_bound"]["per_layer"].pop()
    path = tmp_path / "in.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"24 layers, but lower_bound\.per_layer has 23"):
        read_documents([path])
    document = copy.deepcopy(printed[2])
    del document["load_imbalance"]["plan"]
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="has no 'plan'"):
        read_documents([path])


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.just("x" * 3000), st.just([]), st.just({}),
)  # fmt: skip


def _places(tree, path=()):
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:2]) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_any_change_is_refused_by_name_or_shown(data, printed, tmp_path):
    """Untrusted documents never end in another error than the one that names the fault."""
    document = copy.deepcopy(data.draw(st.sampled_from(printed)))
    path = data.draw(st.sampled_from(sorted(_places(document), key=str)))
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = data.draw(_VALUES)
    file = tmp_path / "in.json"
    file.write_text(json.dumps(document))
    try:
        (found,) = read_documents([file]).results
    except ConfigError:
        return
    if isinstance(found, PlacementDocument):
        assert placements.answer(found).lead
        assert placements.imbalance(found).rows
        assert placements.layers(found).rows
    else:
        assert predicted.answer([found], labels_of([found])).lead
        assert predicted.compared([found], ["a"]).rows
        assert predicted.broken_down([found], ["a"]).columns
