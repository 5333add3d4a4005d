"""What a box did, task by task: each resource one thing at a time, as long as the replay says it was busy."""

from __future__ import annotations

import pytest
from timeline_checker import check

import moesim as ms
from moesim.errors import ConfigError
from moesim.files import data_dir
from moesim.offload import Box, run, write_timeline
from moesim.offload.clocks import RESOURCES
from moesim.policy import Composition, Executor, Residency, Transfer, taken
from moesim.policy.predictors import NoisyOracle, oracle

LRU = Residency("lru", lookup="token_batch")
CASES = {
    "on demand": Composition(LRU),
    "ahead, broken off": Composition(
        LRU, Transfer(width=4, preemptible=True), predictor=NoisyOracle(0.5, 0.3)
    ),
    "written back": Composition(LRU, Transfer(width=2, write_back=True), predictor=oracle(1)),
    "misses on the CPU": Composition(LRU, executor=Executor("cheapest")),
}


@pytest.fixture(scope="module")
def trace():
    return taken(ms.load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz"), slice(60))


@pytest.fixture(scope="module")
def box():
    return Box.of(ms.load_hardware("rtx-3060-desktop"), ms.load_model("gpt-oss-20b"))


@pytest.mark.parametrize("case", CASES)
def test_tasks_fill_the_time_that_resources_were_busy(case, trace, box, tmp_path):
    plain = run(CASES[case], trace, box, slots=192)
    timed = run(CASES[case], trace, box, slots=192, spans=100_000)
    # Looking changes nothing.
    assert timed.ends.tolist() == plain.ends.tolist()
    assert timed.busy == plain.busy
    assert not len(plain.spans)
    assert (timed.total("aborted") > 0) == ("broken off" in case)
    assert write_timeline(timed, tmp_path / "t.json.gz") == len(timed.spans)
    checked = check(tmp_path / "t.json.gz")
    for name in RESOURCES:
        drawn = sum(s.end - s.start for s in checked.tracks.get(("box", name), []))
        assert drawn / 1e9 == pytest.approx(timed.busy[name], rel=1e-6, abs=1e-6), name
    steps = checked.of("box", "steps")
    assert len(steps) == len(timed.ends)
    assert steps[-1].end / 1e9 == pytest.approx(timed.seconds)
    assert max(s.end for s in checked.of("box", "gpu")) <= steps[-1].end
    experts = [s for s in checked.of("box", "gpu") if s.name.startswith("expert")]
    assert {s.facts["layer"] for s in experts} <= set(range(24))


def test_as_much_is_kept_as_was_asked_for(trace, box, tmp_path):
    timed = run(CASES["on demand"], trace, box, slots=192, spans=50)
    assert len(timed.spans) == 50
    write_timeline(timed, tmp_path / "t.json")
    assert check(tmp_path / "t.json").about["tasks"] == 50
    with pytest.raises(ConfigError, match="kept nothing"):
        write_timeline(run(CASES["on demand"], trace, box, slots=192), tmp_path / "x.json")


def test_the_program_writes_one_system(moesim, tmp_path):
    trace = str(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
    run_ = ["replay", trace, "--hardware", "rtx-3060-desktop", "--tokens", "40", "--system"]
    path = tmp_path / "t.json.gz"
    code, _, _ = moesim(*run_, "lru", "--timeline", str(path))
    assert code == 0
    assert {"gpu", "to_device", "steps"} <= {track for _, track in check(path).tracks}
    for wrong in (["lru,on-demand", "--timeline", str(path)], ["lru", "--timeline", str(tmp_path / "t.txt")]):
        code, _, err = moesim(*run_, *wrong)
        assert code == 2
        assert "--timeline" in err
    code, _, err = moesim("replay", trace, "--timeline", str(path))
    assert code == 2
    assert "--timeline" in err
