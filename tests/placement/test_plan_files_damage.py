"""Any damage to a plan file gives a sound plan or a ConfigError that says why not, and nothing else."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from plan_samples import MODEL, RANKS, content, file_name

from moesim.errors import ConfigError
from moesim.placement import FORMATS, check_plan

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "trace"))
from mutations import damaged_file

CASES = 400


def outcome(path):
    try:
        checked = check_plan(path, MODEL, RANKS)
    except ConfigError as error:
        faults, kind = error.faults, "refused"
    else:
        faults, kind = checked.faults, "plan" if checked.ok else "failed"
    if kind != "plan":
        assert faults
        assert all(fault.message for fault in faults)
        assert len(str(ConfigError(faults))) < 20_000
        return kind
    table = checked.expert_map.physical_to_logical
    assert table.shape[0] == len(MODEL.moe_layer_ids)
    for row in table:
        assert set(row) == set(range(MODEL.num_experts))
        for rank in np.split(row, RANKS):
            assert len(set(rank)) == len(rank)
    return kind


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, tmp_path):
    data = content(name)
    path = tmp_path / file_name(name)
    found = {"plan": 0, "failed": 0, "refused": 0}
    for seed in range(CASES):
        path.write_bytes(damaged_file(data, random.Random(f"{name} {seed}")))
        found[outcome(path)] += 1
    assert found["failed"] > CASES / 50
    assert found["refused"] > CASES / 50
