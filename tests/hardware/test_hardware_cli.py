"""`moesim hardware`, as a user meets it."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import warnings
from typing import NamedTuple

import pytest

from moesim.cli.app import main
from moesim.hardware import KINDS, names


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch):
    """Call the program as its entry point does, without the start of another interpreter."""

    def call(*arguments, cwd=None):
        monkeypatch.setattr(sys, "argv", ["moesim", "hardware", *map(str, arguments)])
        if cwd is not None:
            monkeypatch.chdir(cwd)
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            pytest.raises(SystemExit) as stopped,
        ):
            main()
        return Done(stopped.value.code, out.getvalue(), err.getvalue())

    return call


def test_list(run):
    done = run("list", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert document["schema_version"] == 1
    assert [machine["name"] for machine in document["machines"]] == names()
    h200 = next(machine for machine in document["machines"] if machine["name"] == "h200-sxm-8")
    assert "h200" in h200["aliases"]
    assert h200["memory_bandwidth_bytes_per_s"] == 4.8e12
    assert len(document["provenance"]["inputs"]) == len(names())


def test_list_is_by_kind(run):
    document = json.loads(run("list", "--json").stdout)
    groups = {group["kind"]: group for group in document["groups"]}
    shown = [kind for kind in KINDS if kind != "cpu"]  # calibrated where they stand, not shipped
    assert list(groups) == shown
    assert sorted(name for group in groups.values() for name in group["machines"]) == names()
    kinds = {machine["name"]: machine["kind"] for machine in document["machines"]}
    assert all(kinds[name] == kind for kind, group in groups.items() for name in group["machines"])
    lines = run("list").stdout.splitlines()
    heads = [f"{title} ({len(groups[kind]['machines'])})" for kind, title in KINDS.items() if kind in shown]
    assert [line for line in lines if line in heads] == heads
    assert sum(line.split()[:1] == ["dojo-wafer"] for line in lines) == 1


def test_all_faults_of_a_file_come_in_one_go(run, tmp_path):
    text = run("show", "a800-pcie-2", "--yaml").stdout
    fabric = (
        "fabric:\n  topology: tree\n  switches: [leaf]\n  links:\n"
        '    - {ends: ["device:0", leaf], bandwidth: -1 GB/s, latency: 1 us}\n'
        '    - {ends: ["device:1", leav], bandwidth: 1 GB/s, latency: 1 us}\n'
        '    - {ends: ["device:0", "device:1"], bandwidth: 1 parsec/s, latency: 1 us}\n'
    )
    (tmp_path / "x.yaml").write_text(
        text.replace("value: 300 W, source: aic", "value: 300 W, source: iac") + fabric
    )
    done = run("check", "x.yaml", "--json", cwd=tmp_path)
    (file,) = json.loads(done.stdout)["files"]
    assert done.returncode == 2
    assert [fault.split(":")[0] for fault in file["faults"]] == [
        "fabric.links.0.bandwidth",
        "fabric.links.2.bandwidth",
        "fabric.links.1.ends.1",
        "fabric.links.2.ends",
    ]
    assert any(
        "'iac' is not explained" in warning and "nearest: aic" in warning for warning in file["warnings"]
    )


def test_show_says_where_each_number_comes_from(run):
    done = run("show", "h200_sxm", "--nodes", 4, "--json")
    document = json.loads(done.stdout)
    assert (document["num_devices"], document["domain"], document["nodes"]) == (32, 8, 4)
    numbers = {number["path"]: number for number in document["numbers"]}
    memory = numbers["devices.h200-sxm.memories.hbm.bandwidth"]
    assert memory["value"] == 4.8e12
    assert memory["status"] == "seen"
    assert "ml-engineering" in memory["source"]
    assert all(number["source"] for number in document["numbers"])
    text = run("show", "h200").stdout
    assert "8 share a scale-up domain" in text
    assert "4.8 TB/s" in text


def test_the_file_can_be_printed_edited_and_checked(tmp_path, run):
    text = run("show", "h200", "--yaml").stdout
    (tmp_path / "mine.yaml").write_text(text.replace("bandwidth: 4.8 TB/s", "bandwidth: 9.6 TB/s"))
    good = run("check", "mine.yaml", cwd=tmp_path)
    assert (good.returncode, good.stdout.split()[0]) == (0, "ok")
    shown = json.loads(run("show", "mine.yaml", "--json", cwd=tmp_path).stdout)
    assert shown["device"]["memories"][0]["bandwidth_bytes_per_s"] == 9.6e12

    wrong = text.replace("bandwidth: 4.8 TB/s", "bandwith: 4.8 TB/s").replace("cores: 132", "cores: many")
    (tmp_path / "wrong.yaml").write_text(wrong)
    bad = run("check", "mine.yaml", "wrong.yaml", "--json", cwd=tmp_path)
    document = json.loads(bad.stdout)
    assert bad.returncode == 2
    assert [file["ok"] for file in document["files"]] == [True, False]
    assert len(document["files"][1]["faults"]) == 3
    assert "Traceback" not in bad.stderr


def test_the_whole_catalogue_checks_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "moesim", "hardware", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert "FAULTY" not in done.stdout


def test_schema_accepts_a_shipped_file_s_keys(run):
    schema = json.loads(run("schema").stdout)
    assert {"schema_version", "devices", "node"} <= set(schema["required"])
    assert schema["additionalProperties"] is False
    wrapped = json.loads(run("schema", "--json").stdout)
    assert wrapped["schema"] == schema


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("show", "h400"), "nearest: h"),
        (("show", "none.yaml"), "no such file"),
        (("show", "h200", "--nodes", 0), "--nodes"),
        (("show", "cloudmatrix", "--nodes", 49), "at most 48"),
        (("show", "rtx-4090", "--nodes", 2), "no network between nodes"),
        (("show", "h200", "--yaml", "--json"), "excludes --json"),
        (("check", "none.yaml"), "no such file"),
    ],
)
def test_wrong_things_are_two_lines_and_exit_code_two(arguments, expected, tmp_path, run):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
