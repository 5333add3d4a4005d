"""Traces that come over the network: read within limits, named as text, forgotten in the end."""

from __future__ import annotations

import io
import json
import pickle
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from moesim.files import data_dir
from moesim.ui import traces, uploads
from moesim.ui.app import Server
from moesim.ui.library import Library
from moesim.ui.security import Rules
from tests.ui.conftest import ADDRESS, SMALL

pytestmark = pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")


@pytest.fixture
def own():
    """A server whose uploads are this test's alone."""
    server = Server(Library(), Rules())
    with TestClient(server.app(), base_url=ADDRESS, headers={"x-moesim": server.rules.page_token}) as client:
        yield server, client
        assert set(server.inbox.folder.iterdir()) == {row.path for row in server.library.traces.uploads}
    assert not server.inbox.folder.exists()


@pytest.fixture
def untried(monkeypatch):
    """Files are read here at once: what the process beside does is another test's."""

    async def nothing(_):
        return None

    monkeypatch.setattr("moesim.ui.app.tried", nothing)


def npz(tokens=64, seed=0, **metadata):
    ids = np.random.default_rng(seed).integers(0, 32, (tokens, 24, 4), dtype=np.uint8)
    ids.sort(axis=2)
    ids += np.arange(4, dtype=np.uint8)
    out = io.BytesIO()
    np.savez_compressed(out, topk_ids=ids % 32, **metadata)
    return out.getvalue()


def send(client, content, name="trace.npz"):
    return client.post("/api/traces", params={"name": name}, content=content)


def test_an_upload_is_offered_and_answers(own, moesim, tmp_path, monkeypatch):
    server, client = own
    content = (data_dir("traces") / "gpt-oss-20b-synthetic.npz").read_bytes()
    found = send(client, content, "../../../tmp/mine.npz")
    assert found.status_code == 200, found.text
    row = found.json()
    assert (row["name"], row["model"], row["tokens"], row["origin"]) == (
        "mine.npz",
        "gpt-oss-20b",
        3320,
        "upload",
    )
    assert "path" not in row
    assert row in client.get("/api/catalogue").json()["traces"]
    one = client.post("/api/answer", json=SMALL | {"trace": row["id"]}).json()
    other = client.post("/api/answer", json=SMALL | {"trace": "gpt-oss-20b-synthetic"}).json()
    assert one["prediction"]["tpot_s"] == other["prediction"]["tpot_s"]
    assert one["command"].endswith(" --trace mine.npz")
    assert str(server.inbox.folder) not in json.dumps(one)
    # The same in a terminal, where the file is.
    monkeypatch.chdir(tmp_path)
    Path("mine.npz").write_bytes(content)
    code, out, _ = moesim(*shlex.split(one["command"])[1:], "--json")
    assert code == 0
    assert one["prediction"] == {"kind": "prediction", **json.loads(out)}
    again = send(client, content, "other name").json()
    assert (again["id"], again["name"]) == (row["id"], "mine.npz")
    wrong = client.post("/api/answer", json=SMALL | {"model": "mixtral-8x7b", "trace": row["id"]})
    assert wrong.status_code == 422
    assert "mine.npz is not of mixtral-8x7b" in wrong.text
    assert str(uploads.tempfile.gettempdir()) not in wrong.text


def zip_of(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return out.getvalue()


class Evil:
    def __reduce__(self):
        return print, ("run by an upload",)


def zeros(shape):
    """A compressed array that says it is large, and is."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("topk_ids.npy", "w", force_zip64=True) as member,
    ):
        member.write(head.getvalue())
        for _ in range(int(np.prod(shape)) >> 20):
            member.write(bytes(1 << 20))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\x00" * 1000, "format"),
        (b"PK\x03\x04" + b"\x00" * 100, ""),
        (pickle.dumps(Evil()), ""),
        (zip_of(archive__data_dot_pkl=pickle.dumps(Evil()), archive__version=b"3"), ""),
        (npz()[:-400], ""),
        (b'{"logical_count": ' + b"[" * 100_000, ""),
        (b'{"logical_count": [[1e999, -1]]}', ""),
        (json.dumps({"<b>": "<script>alert(1)</script>"}).encode(), "format"),
    ],
    ids=["empty", "zeros", "broken zip", "pickle", "torch", "cut", "deep", "no numbers", "html"],
)
def test_what_is_no_trace_is_refused_with_a_reason(own, capfd, content, reason):
    server, client = own
    found = send(client, content)
    assert found.status_code == 422, found.text
    assert found.json()["faults"]
    assert reason in found.text
    assert str(server.inbox.folder) not in found.text
    out, err = capfd.readouterr()
    assert "run by an upload" not in out + err
    assert client.get("/api/catalogue").json()["traces"][-1]["origin"] == "bundled"


def test_what_unpacks_to_more_than_an_upload_may_take_is_refused(own):
    _, client = own
    bomb = zeros((12 << 20, 24, 1))
    assert len(bomb) < 2_000_000
    found = send(client, bomb)
    assert found.status_code == 422, found.text
    assert "as no real trace does" in found.text


def test_a_process_that_takes_too_long_or_dies_is_told_apart_from_a_server_that_does(own, monkeypatch):
    server, client = own
    monkeypatch.setattr(uploads, "SECONDS", 0.01)
    late = send(client, npz())
    assert late.status_code == 422
    assert "too long" in late.text
    monkeypatch.setattr(uploads, "SECONDS", 60)
    monkeypatch.setattr(uploads.sys, "executable", "/bin/false")
    dead = send(client, npz())
    assert dead.status_code == 422
    assert "memory" in dead.text
    assert list(server.inbox.folder.iterdir()) == []


def test_what_is_too_large_stops_while_it_comes(own, monkeypatch):
    server, client = own
    monkeypatch.setattr("moesim.ui.app.MAX_BYTES", 1_000_000)
    read = 0

    def endless():
        nonlocal read
        for _ in range(1000):
            read += 100_000
            yield bytes(100_000)

    assert send(client, endless()).status_code == 413
    assert list(server.inbox.folder.iterdir()) == []
    assert send(client, bytes(1_000_001)).status_code == 413


@pytest.mark.usefixtures("untried")
def test_names_and_metadata_are_text(own):
    _, client = own
    html = '<img src=x onerror="alert(1)">'
    found = send(client, npz(), html)
    assert found.headers["content-type"] == "application/json"
    assert found.json()["name"] == html
    for number, (name, shown) in enumerate(
        [
            ("../../x", "x"),
            ("..\\..\\y.npz", "y.npz"),
            ("/", "trace"),
            ("", "trace"),
            ("a\nb\x00c", "a?b?c"),
            ("n" * 500, "n" * 120),
        ]
    ):
        assert send(client, npz(seed=number + 1), name).json()["name"] == shown
    command = client.post("/api/answer", json=SMALL | {"trace": found.json()["id"]}).json()["command"]
    assert command.endswith(f"--trace '{html}'")


def test_what_a_trace_says_of_itself_is_text(own, tmp_path):
    from dataclasses import replace

    from moesim.trace import load_trace, write_trace

    _, client = own
    html = "</script><script>alert(1)</script>"
    trace = load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
    for name in ("evil.parquet", "evil.npz"):
        write_trace(replace(trace, model=html, source=html, licence=html), tmp_path / name)
        found = send(client, (tmp_path / name).read_bytes(), name)
        assert found.status_code == 200, found.text
        assert found.json()["model"] == html
        assert found.headers["content-type"] == "application/json"
        assert found.headers["x-content-type-options"] == "nosniff"
        scenario = SMALL | {"trace": found.json()["id"]}
        assert client.post("/api/answer", json=scenario).status_code == 200
    page = client.post("/api/export/report", json={"scenarios": [scenario], "labels": []})
    assert page.status_code == 200
    assert "<script>alert" not in page.text


@pytest.mark.usefixtures("untried")
def test_the_oldest_upload_makes_room(own, monkeypatch):
    server, client = own
    monkeypatch.setattr(traces, "MOST_UPLOADS", 2)
    rows = [send(client, npz(seed=seed)).json()["id"] for seed in range(3)]
    assert [row.id for row in server.library.traces.uploads] == rows[1:]
    gone = client.post("/api/answer", json=SMALL | {"trace": rows[0]})
    assert gone.status_code == 422
    assert gone.json()["faults"][0]["where"] == "trace"
    assert "upload it again" in gone.text or "nearest" in gone.text


def test_the_folder_of_uploads_is_its_owners_alone(own):
    server, _ = own
    assert server.inbox.folder.stat().st_mode & 0o077 == 0
