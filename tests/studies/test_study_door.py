"""Study files: what they mean, and everything that is wrong with one at once."""

from __future__ import annotations

import itertools

import pytest

from moesim.errors import ConfigError
from moesim.studies import load_study


def _faults(path) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    return {fault.where: str(fault) for fault in caught.value.faults}


def test_axes_are_crossed_pairs_go_together_and_replications_count_seeds(study):
    grid = load_study(
        study(
            """
grid:
  layout.tp: [1, 2]
  workload.concurrency: [8, 16, 32]
zip:
  - {hardware: [h100-sxm-8, h200-sxm-8], nodes: [1, 2]}
replications: 2
"""
        )
    )
    found = [grid.configuration(n) for n in grid.numbers()]
    seen = [
        (c["layout"]["tp"], c["workload"]["concurrency"], c["hardware"], c["nodes"], c["seed"]) for c in found
    ]
    pairs = [("h100-sxm-8", 1), ("h200-sxm-8", 2)]
    crossed = itertools.product([1, 2], [8.0, 16.0, 32.0], pairs, [0, 1])
    assert seen == [(tp, c, *pair, seed) for tp, c, pair, seed in crossed]
    # What is not said has its usual value.
    assert found[0]["layout"]["dp"] == 8
    assert found[0]["engine"]["max_num_batched_tokens"] == 8192


def test_whole_layouts_as_values(study):
    grid = load_study(study("grid:\n  layout: [{tp: 8}, {dp: 8, ep: 4}]\n  workload.concurrency: [1]\n"))
    layouts = [grid.configuration(n)["layout"] for n in grid.numbers()]
    assert [(x["tp"], x["dp"], x["ep"]) for x in layouts] == [(8, 1, 1), (1, 8, 4)]


def test_rules_leave_out(study):
    rest = """
grid:
  layout.tp: [1, 2, 4]
  workload.concurrency: [8, 16, 32]
exclude:
  - {layout.tp: [2, 4], workload.concurrency: "> 8"}
  - {layout.tp: 1, workload.concurrency: 16}
"""
    grid = load_study(study(rest))
    left = [grid.configuration(n) for n in grid.numbers()]
    assert len(grid) == 9
    assert {(c["layout"]["tp"], c["workload"]["concurrency"]) for c in left} == {
        (1, 8),
        (1, 32),
        (2, 8),
        (4, 8),
    }


def test_rules_about_devices_count_both_pools(study):
    rest = """
grid:
  layout:
    - {tp: 2, dp: 4}
    - {tp: 2, dp: 4, prefill_workers: 2}
    - {tp: 2, dp: 4, prefill_workers: 2, prefill_dp: 1, decode_workers: 3}
  workload.concurrency: [1]
exclude:
  - {layout.world: ">= 28"}
  - {layout.world: 8}
"""
    # 8; 8 + 2 x 8; 3 x 8 + 2 x 2.
    left = load_study(study(rest))
    assert list(left.numbers()) == [1]


def test_every_fault_with_its_line(study):
    base = """schema_version: 1
name: {name}
base:
  model: deepseek-v33
  hardware: h200_sxn
  layout: {{tp: 1, dq: 16}}
  workload: {{input_len: 4096, output_len: 0}}
  engine: {{dtype: fp9}}
  trace: nowhere.parquet
"""
    rest = """grid:
  layout.ep: [1, 16, 0]
  engine.backend: [vllm, sglangg]
  workload.concurrency: [256, many,
     -3]
  layuot.tp: [1, 2]
zip:
  - {nodes: [1, 2], engine.overlap: [none]}
  - {layout.ep: [1]}
exclude:
  - {layout.epp: 1}
"""
    found = _faults(study(rest, base=base))
    assert set(found) == {
        "base.model (line 4)",
        "base.hardware (line 5)",
        "base.layout.dq (line 6)",
        "base.workload.output_len (line 7)",
        "base.engine.dtype (line 8)",
        "base.trace (line 9)",
        "grid.layout.ep[2] (line 11)",
        "grid.engine.backend[1] (line 12)",
        "grid.workload.concurrency[1] (line 13)",
        "grid.workload.concurrency[2] (line 14)",
        "grid.layuot.tp (line 15)",
        "zip[0] (line 17)",
        "zip[1].layout.ep (line 18)",
        "exclude[0].layout.epp (line 20)",
    }
    assert "deepseek-v3" in found["base.model (line 4)"]
    assert "h200-sxm" in found["base.hardware (line 5)"]
    assert "layout.ep" in found["exclude[0].layout.epp (line 20)"]
    assert "layout?" in found["grid.layuot.tp (line 15)"]


def test_faults_of_the_file_itself(study):
    found = _faults(study("gird: {}\nreplications: 0\n"))
    assert set(found) == {"gird (line 10)", "replications (line 11)"}
    assert "grid?" in found["gird (line 10)"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("- 1\n- 2\n", "a list"),
        ("a: [1,\n", "no YAML"),
        ("schema_version: 2\nname: x\nbase: {}\n", "schema_version"),
    ],
    ids=["empty", "list", "no-yaml", "future"],
)
def test_files_that_are_no_study(tmp_path, text, words):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_study(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_study(tmp_path / "none.yaml")


def test_absurd_sizes_are_refused_before_anything_runs_unless_the_file_says_so(study):
    axes = "".join(f"  {name}: [{', '.join(map(str, range(1, 201)))}]\n" for name in ("seed", "redundant"))
    rest = "grid:\n  workload.concurrency: [1, 2, 3]\n" + axes
    found = _faults(study(rest))
    assert list(found) == ["grid (line 10)"]
    assert "120000" in found["grid (line 10)"]
    assert len(load_study(study(rest + "max_configurations: 120000\n"))) == 120_000
    # Counted, not made: this would fill the memory of any machine.
    more = "".join(
        f"  engine.{n}: [{', '.join(['1'] * 1000)}]\n" for n in ("max_num_seqs", "acceptance_rate")
    )
    assert "120000000000" in _faults(study(rest + more))["grid (line 10)"]


def test_replications_and_an_axis_of_seeds_are_one_too_many(study):
    rest = "grid: {seed: [1, 2], workload.concurrency: [1]}\nreplications: 2\n"
    assert "replications vary the seed" in str(_faults(study(rest)))


def test_paths_are_relative_to_the_file(study, tmp_path, monkeypatch):
    (tmp_path / "counts.json").write_text("{}")
    monkeypatch.chdir("/")
    path = study("  trace: counts.json\ngrid: {workload.concurrency: [1]}\n")
    assert load_study(path).configuration(0)["trace"] == str((tmp_path / "counts.json").resolve())


SIMULATE = """schema_version: 1
name: {name}
kind: simulate
base:
  model: gpt-oss-20b
  hardware: h100-sxm-8
  layout: {{dp: 8, ep: 8}}
"""


def test_requests_slo_and_scheduler_of_simulations(study):
    rest = """  requests: {count: 10, arrivals: "poisson:10", input_len: 100}
  slo: {ttft: 500 parsecs}
  scheduler: {order: last-come}
  fleet: {router: nobody}
  workload: {}
"""
    found = _faults(study(rest, base=SIMULATE))
    assert set(found) == {
        "base.requests.output_len (line 8)",
        "base.slo.ttft (line 9)",
        "base.scheduler.order (line 10)",
        "base.fleet.router (line 11)",
        "base.workload (line 12)",
    }
