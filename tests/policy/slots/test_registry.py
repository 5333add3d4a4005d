"""Slots by name: what ships, what other packages bring, and what is wrong with a name."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap

import numpy as np
import pytest

from moesim.errors import ConfigError, UnknownNameError
from moesim.policy import AsRouted, Constant, Executor, Residency, token_steps
from moesim.policy.keyed import Keyed
from moesim.policy.predictors import Markov, NextGate, NoisyOracle
from moesim.policy.registry import BUILT_IN, GROUPS, build, construct, names

#: The least that each choice must be told.
NEEDED = {
    "fewer-experts": "active=1",
    "admission-mask": "experts=4",
    "popular": "width=2",
    "markov": "width=2",
    "next-token": "width=2",
    "activation-matrices": "width=2",
    "expert-maps": "width=2",
    "recent-scores": "width=2",
    "next-gate": "width=2",
    "oracle": "window=2",
    "path": "flip=0.1,layers=4",
}


@pytest.mark.parametrize(("slot", "name"), [(s, n) for s in GROUPS for n in names(s)])
def test_what_ships_is_built_by_name(slot, name):
    needs = name in NEEDED and slot in ("gate", "predictor")
    made = build(slot, f"{name}:{NEEDED[name]}" if needs else name)
    from moesim.policy.registry import _METHODS

    if slot != "residency":  # a rule that ships is compiled, and told by its name
        assert all(hasattr(made, method) for method in _METHODS[slot])


def test_values_are_read():
    markov = build("predictor", "markov:width=4, distance=2")
    assert isinstance(markov, Markov)
    assert (markov.width, markov.distance, markov.order) == (4, 2, 1)
    assert build("predictor", "next-gate:width=2,recall=[0.5,0.9,0.7]") == NextGate(2, (0.5, 0.9, 0.7))
    assert build("predictor", "noisy-oracle:recall=0.8,wrap=true") == NoisyOracle(0.8, wrap=True)
    assert build("precision", "constant:bits=4.5") == Constant(4.5)
    assert build("residency", "mrs:alpha=0.3") == Residency("mrs", parameters={"alpha": 0.3})
    assert build("executor", "defer:deferred=2") == Executor("defer", {"deferred": 2})
    assert isinstance(build("gate", "as-routed"), AsRouted)


@pytest.mark.parametrize(
    ("slot", "text", "message"),
    [
        ("predictor", "markof:width=4", "unknown predictor 'markof'; nearest: markov"),
        ("residency", "lur", "nearest: lru"),
        ("executor", "three-clok", "nearest: three-clock"),
        ("predictor", "markov:widht=4", "widht: is unknown"),
        ("predictor", "markov", "width: is missing"),
        ("predictor", "markov:width", "is no name=value"),
        ("predictor", "markov:width=2,width=3", "is given twice"),
        ("predictor", "markov:width=0", "is too small"),
        ("predictor", "markov:width=wide", "wide"),
        ("gate", "fewer-experts:active=[1", "active"),
    ],
)
def test_what_is_wrong_is_told(slot, text, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        build(slot, text)


def test_every_fault_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        build("predictor", "markov:widht=4,far=2")
    assert len(caught.value.faults) == 3  # two unknown, one missing


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a distribution with entry points, as pip leaves one behind."""

    def install(code, points, name="moesim_plugged"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[{group}]\n{entry} = {name}:{value}\n" for group, entry, value in points]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    yield install
    sys.modules.pop("moesim_plugged", None)


PREDICTOR = """
    from moesim.policy import Guesses

    class Silent:
        def __init__(self, width=1):
            self.width = width
        def fit(self, train):
            return self
        def guess(self, steps):
            return Guesses.none(steps.num_steps * steps.layers)
"""


def test_an_installed_package_brings_a_predictor(package, random_trace):
    before = names("predictor")
    package(PREDICTOR, [("moesim.predictors", "silent", "Silent")])
    assert names("predictor") == (*before, "silent")
    made = build("predictor", "silent:width=7")
    assert made.width == 7
    steps = token_steps(random_trace(0))
    assert len(made.guess(steps).experts) == 0
    with pytest.raises(UnknownNameError, match="nearest: silent"):
        build("predictor", "silnt")
    with pytest.raises(ConfigError, match="is unknown"):
        build("predictor", "silent:depth=1")


def test_every_slot_takes_plug_ins(package):
    code = "class Nothing:\n    pass\n"
    package(code, [(group, "nothing", "Nothing") for group in GROUPS.values()])
    for slot in GROUPS:
        assert "nothing" in names(slot)
        with pytest.raises(ConfigError, match=f"is no {slot}: it lacks"):
            construct(slot, "nothing", {})


def test_a_broken_plug_in_is_no_traceback(package):
    package("import a_module_that_is_not_there\n", [("moesim.gates", "broken", "Gate")])
    with pytest.raises(ConfigError, match="plug-in broken: does not load"):
        build("gate", "broken")
    build("gate", "as-routed")  # the others are there all the same


def test_a_plug_in_may_not_hide_what_ships(package):
    package(PREDICTOR, [("moesim.predictors", "markov", "Silent")])
    with pytest.raises(ConfigError, match="takes the name of what ships"):
        names("predictor")


RULE = """
    class Oldest:
        def __init__(self):
            self.reset()
        def reset(self):
            self.when, self.clock = {}, 0
        def touched(self, layer, expert, step, hit, weight):
            self.clock += 1
            self.when[layer, expert] = self.clock
        def loaded(self, layer, expert, step):
            pass
        def key(self, layer, expert):
            return self.when[layer, expert]
"""


def test_a_plugged_rule_is_replayed(package, random_trace):
    from moesim.residency import replay
    from moesim.residency.plugged import replay_keyed

    package(RULE, [("moesim.residencies", "oldest", "Oldest")])
    rule = construct("residency", "oldest", {})
    assert isinstance(rule, Keyed)
    steps, slots = token_steps(random_trace(1, tokens=300)), np.full(4, 3, np.int64)
    found, compiled = replay_keyed(steps, rule, slots), replay(steps, Residency("lru"), slots)
    assert np.array_equal(found.hits, compiled.hits)
    assert 0 < found.hit_ratio < 1
    by_name = replay(steps, build("residency", "oldest"), 3, expert_bytes=2.0)
    assert np.array_equal(by_name.hits, compiled.hits)
    assert by_name.bytes_moved == 2.0 * compiled.misses.sum()
    with pytest.raises(ConfigError, match="nearest: oldest"):
        Residency("oldset")


def test_a_plugged_rule_is_replayed_by_the_command(package, moesim):
    package(RULE, [("moesim.residencies", "oldest", "Oldest")])
    found = {}
    for rule in ("oldest", "lru"):
        code, out, _ = moesim("replay", "traces/gpt-oss-20b-synthetic.npz", "--policy", rule, "--json")
        assert code == 0
        found[rule] = json.loads(out)
    assert found["oldest"]["policy"] == "oldest"
    assert found["oldest"]["hits"] == found["lru"]["hits"] > 0


def test_tables_name_what_exists():
    for slot, table in BUILT_IN.items():
        assert slot in GROUPS
        for path in table.values():
            module, _, attribute = path.partition(":")
            assert hasattr(importlib.import_module(module), attribute)


def test_a_plugged_predictor_is_replayed_with_time(package, moesim):
    package(PREDICTOR, [("moesim.predictors", "silent", "Silent")])
    slots = ("--slot", "predictor=silent", "--slot", "transfer=fetch:width=4")
    code, out, err = moesim("replay", "traces/gpt-oss-20b-synthetic.npz", *slots, "--tokens", 30, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["prefetched"] == 0
    assert found["hits"] > 0
