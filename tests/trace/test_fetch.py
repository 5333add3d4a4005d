"""Fetching public traces: mirror, network, resumption, checksums. Nothing outside this machine is asked."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from moesim.errors import ConfigError, UnknownNameError
from moesim.files import data_dir
from moesim.model import names
from moesim.trace.fetch import MIRROR, PublicTrace, RemoteFile, fetch, find, registry

CONTENT = bytes(range(256)) * 4096
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """One file over HTTP, with ranges, and with faults on demand."""

    def __init__(self):
        self.content, self.etag, self.requests = CONTENT, '"one"', []
        self.ranges, self.break_after, self.status = True, None, None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.bin"

    def answer(self, handler):
        wanted = handler.headers.get("Range")
        self.requests.append((wanted, handler.headers.get("If-Range")))
        if self.status is not None:
            handler.send_error(self.status)
            return
        body, total = self.content, len(self.content)
        tag = handler.headers.get("If-Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if wanted and self.ranges and tag in (None, self.etag):
            if start >= total:
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{total}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            body = body[start:]
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        handler.wfile.write(body if self.break_after is None else body[: self.break_after])


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch):
    monkeypatch.delenv(MIRROR, raising=False)


def trace_of(url, sha256=HASH, size=None, path="file.bin"):
    return PublicTrace(
        "one", "t", "", "routing_trace", "f", "MIT", "s", "n", (RemoteFile(path, url, size, sha256),)
    )


def left(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_download(server, tmp_path):
    seen = []
    (got,) = fetch(trace_of(server.url), tmp_path / "new", progress=lambda *a: seen.append(a))
    assert got.path.read_bytes() == CONTENT
    assert (got.sha256, got.verified, got.origin) == (HASH, True, "network")
    assert left(tmp_path) == ["file.bin"]
    assert seen[0] == ("file.bin", 0, len(CONTENT))
    assert seen[-1] == ("file.bin", len(CONTENT), len(CONTENT))


def test_what_is_there_is_not_downloaded_again(server, tmp_path):
    fetch(trace_of(server.url), tmp_path)
    (got,) = fetch(trace_of(server.url), tmp_path)
    assert (got.origin, got.verified, len(server.requests)) == ("present", True, 1)


def test_a_file_of_another_content_is_replaced(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"old")
    (got,) = fetch(trace_of(server.url), tmp_path)
    assert (got.origin, got.path.read_bytes()) == ("network", CONTENT)


def test_a_broken_download_is_resumed(server, tmp_path):
    server.break_after = 300_000
    with pytest.raises(ConfigError, match=r"broke off after 300,000 of 1,048,576 bytes; run again"):
        fetch(trace_of(server.url), tmp_path)
    assert left(tmp_path) == ["file.bin.part", "file.bin.part.etag"]
    server.break_after = None
    (got,) = fetch(trace_of(server.url), tmp_path)
    assert got.path.read_bytes() == CONTENT
    assert server.requests == [(None, None), ("bytes=300000-", '"one"')]
    assert left(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("sha256", [HASH, None])
def test_a_file_that_changed_meanwhile_is_started_over(server, tmp_path, sha256):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "file.bin.part.etag").write_text('"zero"')
    (got,) = fetch(trace_of(server.url, sha256), tmp_path)
    assert got.path.read_bytes() == CONTENT
    assert server.requests == [("bytes=1000-", '"zero"')]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:5000])
    (got,) = fetch(trace_of(server.url), tmp_path)
    assert got.path.read_bytes() == CONTENT


def test_without_hash_and_tag_nothing_is_continued(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"of some other file")
    (got,) = fetch(trace_of(server.url, None), tmp_path)
    assert got.path.read_bytes() == CONTENT
    assert server.requests == [(None, None)]


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    (got,) = fetch(trace_of(server.url), tmp_path)
    assert got.path.read_bytes() == CONTENT
    assert [r[0] for r in server.requests] == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_wrong_part_is_caught_by_the_hash_and_gone_the_next_time(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(ConfigError, match="nothing of it kept"):
        fetch(trace_of(server.url), tmp_path)
    assert left(tmp_path) == []
    (got,) = fetch(trace_of(server.url), tmp_path)
    assert got.path.read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused(server, tmp_path):
    server.content = b"something else"
    with pytest.raises(ConfigError) as caught:
        fetch(trace_of(server.url), tmp_path)
    assert HASH in str(caught.value)
    assert hashlib.sha256(b"something else").hexdigest() in str(caught.value)
    assert left(tmp_path) == []


def test_an_unknown_hash_is_reported_not_claimed(server, tmp_path):
    (got,) = fetch(trace_of(server.url, None), tmp_path)
    assert (got.sha256, got.verified) == (HASH, False)
    (again,) = fetch(trace_of(server.url, None), tmp_path)
    assert (again.origin, again.sha256, again.verified) == ("present", HASH, False)


def test_a_wrong_size_is_refused_where_the_hash_is_unknown(server, tmp_path):
    with pytest.raises(ConfigError, match=r"has 1,048,576 bytes"):
        fetch(trace_of(server.url, None, 5), tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_the_server_refuses(server, tmp_path, status):
    server.status = status
    with pytest.raises(ConfigError, match=f"HTTP {status}.*{MIRROR}"):
        fetch(trace_of(server.url), tmp_path)
    assert left(tmp_path) == []


def test_no_server(server, tmp_path):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ConfigError, match="cannot be fetched"):
        fetch(trace_of(server.url), tmp_path)


def test_the_mirror_comes_first(server, tmp_path, monkeypatch):
    shelf = tmp_path / "mirror" / "one" / "deep"
    shelf.mkdir(parents=True)
    (shelf / "file.bin").write_bytes(CONTENT)
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    (got,) = fetch(trace_of(server.url, path="deep/file.bin"), tmp_path / "out")
    assert (got.origin, got.path, server.requests) == ("mirror", tmp_path / "out/deep/file.bin", [])
    assert got.path.read_bytes() == CONTENT
    (elsewhere,) = fetch(trace_of(server.url), tmp_path / "other")
    assert elsewhere.origin == "network"


def test_a_wrong_file_in_the_mirror_is_refused_and_left_where_it_is(tmp_path):
    shelf = tmp_path / "mirror" / "one"
    shelf.mkdir(parents=True)
    (shelf / "file.bin").write_bytes(b"wrong")
    with pytest.raises(ConfigError, match="nothing of it kept"):
        fetch(trace_of("https://example.invalid/x"), tmp_path / "out", mirror=tmp_path / "mirror")
    assert left(tmp_path / "out") == []
    assert left(shelf) == ["file.bin"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be made"):
        fetch(trace_of("https://example.invalid/x"), tmp_path / "taken" / "below")


def test_the_registry_is_complete():
    traces = registry()
    assert len(traces) >= 8
    catalogue = set(names())
    for trace in traces.values():
        assert trace.licence
        assert trace.note
        assert trace.source.startswith("https://")
        assert trace.model in catalogue | {""}
        assert trace.kind in ("routing_trace", "load_counts")
        assert len({f.path for f in trace.files}) == len(trace.files) > 0
        for file in trace.files:
            assert file.url.startswith("https://")
            assert (file.size_bytes is None) == (file.sha256 is None)
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    esft = traces["esft-intent"]
    assert [f.path for f in esft.files] == [f"expert_weights_{i}.txt" for i in range(1, 27)]


@pytest.mark.parametrize(
    ("name", "path", "original"),
    [
        ("esft-intent", "expert_weights_1.txt", "esft-deepseek-v2-lite/raw/intent/expert_weights_1.txt"),
        ("esft-intent", "expert_weights_13.txt", "esft-deepseek-v2-lite/raw/intent/expert_weights_13.txt"),
        ("olmoe-counts", "expert_counts/c4.pkl", "olmoe-counts/raw/olmoe_expert_counts_c4.pkl"),
        (
            "olmoe-counts",
            "expert_counts_crosslayer/c4.pkl",
            "olmoe-counts/raw/olmoe_expert_counts_crosslayer_c4.pkl",
        ),
    ],
)
def test_hashes_of_the_registry_are_those_of_the_originals(shared, name, path, original):
    content = shared(f"traces/{original}").read_bytes()
    (file,) = [f for f in find(name).files if f.path == path]
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert file.size_bytes == len(content)


def test_unknown_name():
    with pytest.raises(UnknownNameError) as caught:
        find("esft-intnet")
    assert caught.value.nearest[0] == "esft-intent"


def _listing(base_url="https://x", path="a"):
    texts = dict.fromkeys(("name", "title", "model", "kind", "format", "licence", "source", "note"), "x")
    files = [{"path": path, "bytes": None, "sha256": None}]
    return json.dumps({"traces": [{**texts, "base_url": base_url, "files": files}]})


def test_another_registry(tmp_path):
    (tmp_path / "r.json").write_text(_listing(path="a b/c"))
    assert registry(tmp_path / "r.json")["x"].files[0].url == "https://x/a%20b/c"


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        '{"traces": [{}]}',
        _listing(base_url="ftp://x"),
        _listing(path="../a"),
        _listing(path="/a"),
    ],
)
def test_a_bad_registry_is_refused(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ConfigError, match="no registry of traces"):
        registry(tmp_path / "r.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        registry(tmp_path / "missing.json")


def test_command_list(moesim):
    code, out, _ = moesim("trace", "fetch", "--list")
    assert code == 0
    assert "esft-intent" in out
    assert "Apache-2.0" in out
    code, out, _ = moesim("trace", "fetch", "--list", "--json")
    stored = json.loads((data_dir("traces") / "registry.json").read_text())["traces"]
    assert [t["name"] for t in json.loads(out)["traces"]] == [t["name"] for t in stored]


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    shelf = tmp_path / "mirror" / "gpt-oss-20b-example"
    shelf.mkdir(parents=True)
    (shelf / "False_False_examples.json").write_bytes(CONTENT)
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    monkeypatch.chdir(tmp_path)
    return shelf


@pytest.mark.usefixtures("mirror")
def test_command_shows_the_licence_and_says_what_is_unverified(moesim, tmp_path):
    code, out, err = moesim("trace", "fetch", "gpt-oss-20b-example")
    assert code == 0
    assert out == "gpt-oss-20b-example: 1 file, 0 verified\n"
    assert err.index("licence: Apache-2.0") < err.index("unverified: ")
    assert HASH in err
    assert (tmp_path / "gpt-oss-20b-example" / "False_False_examples.json").read_bytes() == CONTENT


@pytest.mark.usefixtures("mirror")
def test_command_json(moesim, tmp_path):
    code, out, _ = moesim("trace", "fetch", "gpt-oss-20b-example", "-o", tmp_path / "here", "--json")
    (file,) = json.loads(out)["files"]
    assert code == 0
    assert (file["sha256"], file["verified"], file["origin"]) == (HASH, False, "mirror")


@pytest.mark.usefixtures("mirror")
def test_command_refuses_a_wrong_file(moesim, tmp_path):
    shelf = tmp_path / "mirror" / "esft-intent"
    shelf.mkdir()
    (shelf / "expert_weights_1.txt").write_bytes(b"not it")
    code, _, err = moesim("trace", "fetch", "esft-intent", "-o", tmp_path / "out")
    assert (code, "nothing of it kept" in err) == (2, True)
    assert left(tmp_path / "out") == []


def test_command_usage(moesim):
    code, _, err = moesim("trace", "fetch", "esft-intnet")
    assert (code, "nearest: esft-intent" in err) == (2, True)
    assert moesim("trace", "fetch")[0] == 2
    assert moesim("trace", "fetch", "esft-intent", "--list")[0] == 2


@pytest.mark.usefixtures("mirror")
def test_command_shows_progress_on_a_terminal(moesim, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = moesim("trace", "fetch", "gpt-oss-20b-example")
    assert (code, out) == (0, "gpt-oss-20b-example: 1 file, 0 verified\n")
    assert "False_False_examples.json" in err
    assert "1.0/1.0 MB" in err


def test_a_fetched_original_can_be_read(moesim, shared, tmp_path):
    """From the mirror to load counts, as a user without a network would do it."""
    original = shared("traces/olmoe-counts/raw/olmoe_expert_counts_c4.pkl")
    entry = find("olmoe-counts")
    (file,) = [f for f in entry.files if f.path == "expert_counts/c4.pkl"]
    shelf = tmp_path / "mirror" / "olmoe-counts" / "expert_counts"
    shelf.mkdir(parents=True)
    (shelf / "c4.pkl").write_bytes(original.read_bytes())
    one = PublicTrace("olmoe-counts", "", "", "load_counts", "", "", "", "", (file,))
    (got,) = fetch(one, tmp_path / "out", mirror=tmp_path / "mirror")
    assert got.verified
    assert moesim("trace", "check", got.path)[0] == 0
