"""Configuration hashes: what a result depends on, all of it, and nothing else."""

from __future__ import annotations

import random
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.files import data_dir
from moesim.studies import load_study
from moesim.studies.contents import forget, hardware_digest
from moesim.studies.key import key_of, task_of

_SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=5)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def _shuffled(value, rng):
    if isinstance(value, dict):
        items = [(k, _shuffled(v, rng)) for k, v in value.items()]
        rng.shuffle(items)
        return dict(items)
    return [_shuffled(v, rng) for v in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=4), _TREES, max_size=5), st.integers(0, 99))
def test_order_of_keys_does_not_matter(tree, seed):
    assert key_of(tree) == key_of(_shuffled(tree, random.Random(seed)))


@given(st.dictionaries(st.text(max_size=4), _TREES, min_size=1, max_size=5), st.data())
def test_every_value_matters(tree, data):
    name = data.draw(st.sampled_from(sorted(tree)))
    assert key_of(tree) != key_of({**tree, name: [tree[name], "more"]})


def _keys(path):
    forget()
    grid = load_study(path)
    return [key_of(task_of(grid.kind, grid.configuration(n))["identity"]) for n in grid.numbers()]


REST = "grid:\n  layout.tp: [1, 2]\n  workload.concurrency: [8, 16]\n"


@given(order=st.permutations(range(4)), flip=st.booleans())
def test_order_in_the_file_and_the_name_do_not_matter(tmp_path_factory, order, flip):
    parts = [
        "model: gpt-oss-20b",
        "hardware: h100-sxm-8",
        "layout: {ep: 8, dp: 8}" if flip else "layout: {dp: 8, ep: 8}",
        "workload: {output_len: 128, input_len: 1024}"
        if flip
        else "workload: {input_len: 1024, output_len: 128}",
    ]
    axes = ["  layout.tp: [1, 2]\n", "  workload.concurrency: [8, 16]\n"]
    text = "".join(f"  {parts[i]}\n" for i in order)
    folder = tmp_path_factory.mktemp("order")
    other = folder / "other.yaml"
    other.write_text(
        f"name: {'b' if flip else 'a'}\ngrid:\n{''.join(axes[:: -1 if flip else 1])}"
        f"schema_version: 1\nbase:\n{text}"
    )
    keys = _keys(other)
    assert len(set(keys)) == 4
    assert set(keys) == _expected(tmp_path_factory)


_EXPECTED: list[set[str]] = []


def _expected(factory):
    if not _EXPECTED:
        path = factory.mktemp("expected") / "study.yaml"
        path.write_text(
            "schema_version: 1\nname: x\nbase:\n  model: gpt-oss-20b\n  hardware: h100-sxm-8\n"
            "  layout: {dp: 8, ep: 8}\n  workload: {input_len: 1024, output_len: 128}\n" + REST
        )
        _EXPECTED.append(set(_keys(path)))
    return _EXPECTED[0]


def test_saying_what_is_usual_and_other_spellings_are_the_same(study):
    plain = study(REST, "plain")
    said = study(
        "  engine: {backend: vllm, max_num_seqs: 1024}\n  nodes:\n  seed: 0\n" + REST,
        "said",
        base=plain.read_text().split("  layout:")[0].replace("{", "{{").replace("h100-sxm-8", "H100_SXM")
        + "  layout: {{pp: 1, ep: 8, dp: 8}}\n  workload: {{output_len: 128.0, input_len: 1.024e3}}\n",
    )
    assert _keys(plain) == _keys(said)


@pytest.mark.parametrize(
    "line",
    ["  seed: 1\n", "  nodes: 2\n", "  redundant: 8\n", "  calibration: none\n", "  engine: {dtype: fp8}\n"],
)
def test_every_setting_is_part_of_it(study, line):
    assert not set(_keys(study(REST, "one"))) & set(_keys(study(line + REST, "two")))


def test_contents_of_files_count_and_their_names_do_not(study, tmp_path):
    first = study("  trace: a.json\n" + REST, "one")
    second = study("  trace: b.json\n" + REST, "two")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("{}")
    assert _keys(first) == _keys(second)
    (tmp_path / "b.json").write_text("{ }")
    assert not set(_keys(first)) & set(_keys(second))


def test_a_machine_is_its_file_with_the_curves_and_kernels_that_it_names(tmp_path):
    own = data_dir("hardware")
    shutil.copy(own / "h100-sxm-8.yaml", tmp_path / "mine.yaml")
    before = hardware_digest(tmp_path / "mine.yaml")
    (tmp_path / "efficiency").mkdir()
    (tmp_path / "efficiency" / "unrelated-curves.yaml").write_text("a: 1\n")
    assert hardware_digest(tmp_path / "mine.yaml") == before
    (tmp_path / "efficiency" / "hopper.yaml").write_text(
        (own / "efficiency" / "hopper.yaml").read_text() + "\n# x\n"
    )
    assert hardware_digest(tmp_path / "mine.yaml") != before
