"""The whole of it on a GPU that the host plays: what is copied is what was decided, and the page is whole."""

from __future__ import annotations

import pytest

from moesim.reference.layer import Case, LayerShape
from moesim.reference.routings import route
from moesim.validate.reference import Anchor, Described, execute, read_runs, scored, write_runs
from moesim.validate.reference.devices import opener

pytestmark = pytest.mark.emulation


def test_runs_of_a_gpu_that_is_played(machine, machine_file, tmp_path):
    shapes = [LayerShape(name, 8, 2, 64, 64) for name in ("one", "two")]
    cases = [Case(shape, 5, "zipf:1.5", away, "bf16") for shape in shapes for away in (0.0, 0.5)]
    anchor = Case(LayerShape("anchor", 8, 2, 64, 64), 3, dtype="bf16")
    runs = execute(
        "cuda",
        cases,
        opener("cuda", emulated=True),
        machine_file,
        anchors=[Anchor(anchor, route(anchor), 1e-3)],
        rounds=2,
    )
    assert runs.groups.tolist() == [0, 0, 0, 1, 1, 1]
    write_runs(runs, tmp_path / "runs.json")
    summary = scored(read_runs(tmp_path / "runs.json"), Described(machine))["summary"]
    assert summary["n"] == 4
    assert summary["loads_as_predicted"] == 4
    assert summary["device"] == "cuda"
