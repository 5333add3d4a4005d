"""Files of runs: what is written is read, and what strangers write is checked."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.validate.reference import Described, described, read_runs, scored, write_runs


@pytest.fixture(scope="session")
def kept(runs_of, tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "runs.json"
    runs = runs_of()
    write_runs(runs, path)
    return runs, path


def test_scores_are_the_same_from_the_file(kept, machine):
    runs, path = kept
    read = read_runs(path)
    assert read.device == "cpu"
    assert read.hardware_text == runs.hardware_text
    assert np.allclose(read.seconds, runs.seconds, rtol=1e-8)
    assert [work.case for work in read.works] == [work.case for work in runs.works]
    assert [work.loads for work in read.works] == [work.loads for work in runs.works]
    here = described(read)
    assert here.quiet
    assert here.copy_residual == 0.03
    again, first = scored(read, here)["summary"], scored(runs, Described(machine))["summary"]
    assert again["verdict"] == first["verdict"] == "passed"
    assert again["median_abs_error"] == pytest.approx(0.0, abs=1e-7)
    assert again["roofline"]["median_abs_error"] == pytest.approx(first["roofline"]["median_abs_error"])


def test_all_faults_at_once(kept, tmp_path):
    document = json.loads(kept[1].read_text())
    document["device"] = "abacus"
    document["cases"][0]["routing"] = "zipf:x"
    document["cases"][1]["tokens"] = -3
    document["seconds"][2][3] = "fast"
    document["extra"] = 1
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        read_runs(path)
    text = str(caught.value)
    for where in ("device", "cases.0.routing", "cases.1.tokens", "seconds.2.3", "extra"):
        assert where in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["seconds"][1].pop(), "seconds is no table"),
        (lambda d: d["parts"]["experts"].pop(), "experts is no table"),
        (lambda d: d["cases"][0]["counts"].pop(), "case 0: 7 counts for 8 experts"),
        (lambda d: d["cases"][2]["counts"].__setitem__(0, 700), "case 2: counts are not those"),
        (lambda d: d["cases"][0]["turns"][0]["runs"].pop(), "case 0: its turns do not run"),
        (
            lambda d: d["cases"][0]["turns"][0].update(copied=[4095], waits=[-1]),
            "case 0: a turn copies what it does not",
        ),
        (lambda d: d["cases"][0]["turns"][0]["waits"].append(0), "case 0: a copy waits"),
        (lambda d: d["shapes"].pop(0), "no shape is called few"),
        (lambda d: d["shapes"].append(d["shapes"][0]), "two shapes have the same name"),
        (lambda d: [row.update(anchor_s=1.0) for row in d["cases"]], "there is no held-out case"),
        (lambda d: d.update(hardware_sha256="x"), "hardware_sha256"),
        (lambda d: d.update(hardware=d["hardware"] + " "), "hardware_sha256 is not the hash"),
    ],
    ids="short-round short-part experts tokens idle copied waits shape twice anchors hash edited".split(),
)
def test_what_does_not_fit_together(kept, tmp_path, change, message):
    document = json.loads(kept[1].read_text())
    change(document)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=message):
        read_runs(path)


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "{}", "NaN", "[" * 100_000, '{"seconds": [NaN]}'])
def test_what_is_no_file_of_runs(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_runs(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_runs(tmp_path / "nothing.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_runs(tmp_path)


def _places(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*at, key))


@settings(max_examples=40)
@given(st.data())
def test_any_change_is_read_or_refused(kept, tmp_path_factory, data):
    document = json.loads(kept[1].read_text())
    document["seconds"] = document["seconds"][:2]
    document["wall_s"] = None
    document["parts"] = {}
    places = list(_places({k: v for k, v in document.items() if k != "seconds"}))[1:]
    *at, last = data.draw(st.sampled_from(places))
    inner = document
    for key in at:
        inner = inner[key]
    inner[last] = data.draw(st.sampled_from([None, -1, 0, 10**30, 1e400, "", "x" * 100, [], {}, [[]], True]))
    path = tmp_path_factory.getbasetemp() / "changed.json"
    path.write_text(json.dumps(document).replace("Infinity", "1e400"))
    before = copy.deepcopy(document)
    try:
        runs = read_runs(path)
        here = described(runs)
    except ConfigError:
        return
    summary = scored(runs, here)["summary"]
    assert summary["n"] >= 1, before
