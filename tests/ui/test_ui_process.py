"""The real program: where it listens, what it prints, how it stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from moesim.errors import ConfigError
from moesim.ui.serve import address_of, listen, rules_for
from tests.ui.conftest import SMALL

TCP = Path("/proc/net/tcp")


@contextmanager
def running(*words, folder):
    """The program, once it has printed its address; ended at the end if it has not been."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moesim", "ui", "--port", "0", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder)},
    )  # fmt: skip
    try:
        yield process, process.stdout.readline().strip()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def listening(pid):
    """Addresses at which a process accepts connections, as /proc has them."""
    sockets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = []
    for table in (TCP, TCP.with_name("tcp6")):
        for row in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, state, *_ = row.split()
            if state == "0A" and f"socket:[{row.split()[9]}]" in sockets:
                found.append(local)
    return found


@pytest.mark.skipif(not TCP.exists(), reason="sockets are looked up in /proc, which Linux has")
def test_it_listens_on_this_machine_alone_answers_and_stops_when_asked(tmp_path):
    with running(folder=tmp_path) as (process, address):
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)[1])
        assert listening(process.pid) == [f"0100007F:{port:04X}"]
        assert [path.name.startswith("moesim-ui-") for path in tmp_path.iterdir()] == [True]
        with httpx2.Client(base_url=address, timeout=120) as client:
            token = re.search(r'name="moesim-token" content="([\w-]+)"', client.get("/").text)[1]
            found = client.post("/api/answer", json=SMALL, headers={"x-moesim": token})
            assert found.json()["feasible"]
            assert "server" not in found.headers
            # A connection that is kept must not keep the program.
            process.send_signal(signal.SIGINT)
            assert process.wait(90) == 0
        assert process.stderr.read() == "Ctrl-C stops it\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not TCP.exists(), reason="signals are those of Unix")
def test_what_is_being_computed_does_not_keep_it(tmp_path):
    wide = {"trace": "deepseek-v3-synthetic", "nodes": 32, "dp": 256, "ep": 256, "redundant": 4096}
    with (
        running(folder=tmp_path) as (process, address),
        httpx2.Client(base_url=address, timeout=120) as client,
    ):
        token = re.search(r'name="moesim-token" content="([\w-]+)"', client.get("/").text)[1]
        # The first questions and a plan of thousands of experts take seconds: it is in the middle of them.
        words = {"json": {"scenario": wide}, "headers": {"x-moesim": token}, "timeout": 2.0}
        with pytest.raises(httpx2.TimeoutException):
            client.post("/api/export/plan", **words)
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    assert list(tmp_path.iterdir()) == []


def test_beyond_this_machine_it_prints_a_token_once_and_a_warning(tmp_path):
    with running("--host", "0.0.0.0", folder=tmp_path) as (process, address):
        port, token = re.fullmatch(r"http://[^:/]+:(\d+)/\?token=([\w-]{32})", address).groups()
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            assert client.get("/").status_code == 401
            assert client.get(f"/?token={token}", follow_redirects=True).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
        err = process.stderr.read()
        assert "note: whoever has this address may ask" in err
        assert token not in err


def test_a_port_that_is_taken_is_named(moesim):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = moesim("ui", "--port", port)
    assert (code, out) == (2, "")
    assert f"--port: is taken by another program (got {port})" in err


def test_every_fault_of_the_command_is_told_at_once(moesim, tmp_path):
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"nothing")
    words = [
        "--host",
        "no.such.host.invalid",
        "--trace",
        bad,
        "--model",
        "no-such-model",
        "--hardware",
        "no-such.yaml",
    ]
    code, _, err = moesim("ui", "--port", 0, *words)
    assert code == 2
    for option in ("--host", "--trace", "--model", "--hardware"):
        assert f"  {option}: " in err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_loopback_needs_no_token_unless_one_is_asked_for(host):
    with listen(host, 0) as listener:
        rules = rules_for(listener, host)
        assert rules.access_token is None
        assert not rules.any_address
        assert rules.known_host(f"{host}:1")
        asked = rules_for(listener, host, token=True)
        assert asked.access_token
        assert address_of(listener, host, asked).endswith(f"?token={asked.access_token}")


def test_any_address_asks_for_a_token_and_knows_addresses_but_no_names():
    with listen("0.0.0.0", 0) as listener:
        rules = rules_for(listener, "0.0.0.0", ["box.example"])
        assert rules.access_token
        assert rules.known_host("192.168.1.7:80")
        assert rules.known_host("BOX.example")
        assert rules.known_host(socket.gethostname())
        assert not rules.known_host("evil.example")


def test_an_address_that_is_not_ours_is_refused():
    with pytest.raises(ConfigError, match="--host"):
        listen("192.0.2.1", 0)
