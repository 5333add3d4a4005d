"""The catalogue, its names, and the table that compares it with published figures."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from moesim.errors import UnknownNameError
from moesim.model import load_model, names, params
from moesim.model.load import CATALOGUE
from moesim.model.spellings import SPELLINGS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
TOTAL, ACTIVE = 0.02, 0.03


def table():
    """Rows of the table in docs/models.md, by model."""
    rows = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) in (8, 9) and cells[0] in names():
            rows[cells[0]] = cells + [""] * (9 - len(cells))
    return rows


def test_the_table_has_every_model():
    assert sorted(table()) == names()


@pytest.mark.parametrize("name", names())
def test_recomputed_against_published(name):
    """Within 2 % in total and 3 % in active parameters, or the row says why not - and only then."""
    row = table()[name]
    count = params(load_model(name))
    ours = [count.total, count.active, count.active_without_embedding, count.active_without_vocabulary]
    assert [row[1], row[3], row[4], row[5]] == [f"{n / 1e9:.3f}" for n in ours]
    differs = []
    if abs(count.total / (float(row[2]) * 1e9) - 1) > TOTAL:
        differs.append("total")
    if row[6] != "-":
        way = {"all": 1, "no table": 2, "no vocabulary": 3}[row[7]]
        if abs(ours[way] / (float(row[6]) * 1e9) - 1) > ACTIVE:
            differs.append("active")
    reasons = [part.split(":")[0] for part in row[8].split("; ") if re.match(r"(total|active): ", part)]
    assert reasons == differs


def test_few_exceptions():
    assert sum(bool(row[8]) for row in table().values()) <= 5


def test_enough_models():
    mixtures = [name for name in names() if load_model(name).moe is not None]
    assert len(mixtures) >= 45
    assert len(names()) - len(mixtures) >= 15


@pytest.mark.parametrize("path", sorted(CATALOGUE.glob("*.json")), ids=lambda p: p.stem)
def test_every_file_says_its_source_and_loads_by_name(path):
    assert len(json.loads(path.read_text())["_source"]) > 10
    assert path.stem == path.stem.lower()
    assert load_model(path.stem).name == path.stem
    assert load_model(f"Any-Owner/{path.stem.upper()}") is load_model(path.stem)


def test_spellings_lead_to_entries():
    assert set(SPELLINGS.values()) <= set(names())
    assert not set(SPELLINGS) & set(names())
    assert all(spelling == spelling.lower() for spelling in SPELLINGS)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("anyone/DeepSeek-V3-0324", "deepseek-v3"),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("zai-org/GLM-4.5-Air", "glm-4.5-air"),
        ("  GPT-OSS-20B ", "gpt-oss-20b"),
    ],
)
def test_hugging_face_ids(spelling, name):
    assert load_model(spelling).name == name


def test_unknown_names_suggest():
    with pytest.raises(UnknownNameError) as caught:
        load_model("mixtral-8x7")
    assert "mixtral-8x7b" in caught.value.nearest
    assert "moesim model list" in str(caught.value)
    for name in ("", "a/b/c", "no\0name", "x" * 5000, "owner/../dbrx"):
        with pytest.raises(UnknownNameError):
            load_model(name)


def test_every_shared_config_loads(shared):
    paths = sorted(shared("models").glob("*.json"))
    assert len(paths) > 40
    for path in paths:
        model = load_model(path)
        count = params(model)
        assert count.total > 1e8, path
        assert not [w for w in model.warnings if "vision" not in w], path


def test_catalogue_equals_the_shared_configs(shared):
    """Re-typed entries count what their originals count."""
    checked = 0
    for path in sorted(shared("models").glob("*.json")):
        try:
            ours = load_model(path.stem.split("--")[-1])
        except UnknownNameError:
            continue
        theirs = load_model(path)
        assert ours.layers == theirs.layers, path
        assert ours.mtp_layers == theirs.mtp_layers, path
        if theirs.vision_params:
            assert ours.vision_params == theirs.vision_params, path
        assert dict(ours.weight_dtypes) == dict(theirs.weight_dtypes), path
        assert ours.max_context == theirs.max_context, path
        checked += 1
    assert checked >= 40


def test_shared_fact_table(shared):
    """The research table's own sums and published totals."""
    other = {
        "DeepSeek-V3/R1": "deepseek-v3",
        "MiniMax-M2/M2.5": "minimax-m2",
        "Step3(316B)": "step-3",
        "OpenPangu-Ultra-MoE-718B": "openpangu-ultra-moe-718b",
    }
    compared, absent = 0, []
    with shared("facts/model_facts.csv").open() as stream:
        for row in csv.DictReader(stream):
            name = other.get(row["model"], row["model"])
            try:
                model = load_model(name)
            except UnknownNameError:
                absent.append(row["model"])
                continue
            total = params(model).total / 1e9
            if row["calc_total_B"]:
                # Its sums leave out norms, biases, indexers and vision towers.
                assert total == pytest.approx(float(row["calc_total_B"]), rel=0.01), name
            if name != "Kimi-K2":
                assert total == pytest.approx(float(row["pub_total_B"]), rel=TOTAL), name
            assert model.hidden == int(row["hidden_size"])
            assert model.vocab == int(row["vocab"])
            assert model.num_layers == int(row["num_hidden_layers"])
            assert model.num_experts == int(row["n_routed_experts"])
            compared += 1
    assert compared >= 38
    # No config of theirs is known in full.
    assert absent == ["Switch-C-2048", "GLaM-64B/64E"]
