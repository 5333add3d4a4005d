"""Who may ask: other sites, other names of this machine, other methods and paths are refused."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import anyio
import pytest
from starlette.testclient import TestClient

from moesim.ui.app import Server
from moesim.ui.body import MAX_JSON_BYTES
from moesim.ui.security import CSP, Rules
from tests.ui.conftest import ADDRESS, SMALL

pytestmark = pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")
POSTS = ("/api/answer", "/api/alternatives", "/api/traces", "/api/export/report", "/api/export/plan")
HOSTS = (
    "evil.example",
    "evil.example:8765",
    "127.0.0.1.evil.example",
    "localhost.evil.example:8765",
    "192.168.1.7:8765",
    "localhost:8765:8765",
    "localhost:http",
    "localhost@evil.example",
    "[::2]:8765",
    "",
)


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_that_is_not_ours_is_refused(page, host):
    for found in (
        page.get("/", headers={"host": host}),
        page.post("/api/answer", json=SMALL, headers={"host": host}),
    ):
        assert found.status_code == 421
        assert "moesim-token" not in found.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8765", "127.0.0.1:9000", "[::1]:8765"])
def test_our_names_are_known_whatever_port_was_forwarded(page, host):
    headers = {"host": host, "origin": f"http://{host}"}
    assert page.get("/", headers=headers).status_code == 200
    assert page.post("/api/answer", json=SMALL, headers=headers).status_code == 200


@pytest.mark.parametrize("path", POSTS)
def test_a_request_without_the_token_of_the_page_is_refused(bare, path):
    for headers in ({}, {"x-moesim": ""}, {"x-moesim": "x" * 32}, {"x-moesim": b"\xe9"}):
        found = bare.post(path, json=SMALL, headers=headers)
        assert found.status_code == 403, found.text
        assert set(found.json()) == {"error", "faults"}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:8765"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "https://127.0.0.1:8765"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_other_sites_are_refused_even_with_the_token(page, path, headers):
    assert page.post(path, json=SMALL, headers=headers).status_code == 403


def test_other_sites_may_lead_to_the_page_and_to_nothing_else(bare):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert bare.get("/", headers=link).status_code == 200
    assert bare.get("/api/catalogue", headers=link).status_code == 403
    assert bare.get("/", headers=link | {"sec-fetch-mode": "no-cors"}).status_code == 403
    assert bare.get("/static/main.js", headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_every_answer_has_the_headers_that_keep_others_out(page, bare):
    found = [
        bare.get("/"),
        bare.get("/api/catalogue"),
        bare.get("/static/index.html"),
        bare.get("/none"),
        page.post("/api/answer", json=SMALL),
        page.post("/api/answer", json={"tp": 0}),
        bare.get("/", headers={"host": "evil.example"}),
        bare.request("DELETE", "/"),
    ]
    for answer in found:
        assert answer.headers["content-security-policy"] == CSP
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers
    assert "unsafe" not in CSP
    assert "*" not in CSP


def test_the_page_loads_nothing_that_its_policy_forbids(bare):
    text = bare.get("/").text
    assert "<style" not in text
    assert " style=" not in text
    assert " onclick" not in text
    assert text.count("<script") == text.count('src="/static/')
    for name, kind in (
        ("main.js", "text/javascript"),
        ("style.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ):
        assert bare.get(f"/static/{name}").headers["content-type"].partition(";")[0] == kind
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/api/answer", "/static/main.js"])
def test_other_methods_are_refused(page, method, path):
    found = page.request(method, path, headers={"origin": ADDRESS, "access-control-request-method": "POST"})
    assert found.status_code == 405


def test_methods_are_those_of_the_path(page):
    assert page.get("/api/answer").status_code == 405
    assert page.post("/api/catalogue", json={}).status_code == 405
    assert page.post("/", json={}).status_code == 405
    assert page.head("/").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/....//app.py",
        "/static/%00",
        "/static/index.html%00.js",
        "/static/" + "a" * 5000,
        "/static/",
        "/api/../app.py",
        "/moesim/ui/app.py",
        "//etc/passwd",
    ],
)
def test_nothing_outside_the_static_files_is_served(server, path):
    # Straight to the application: a client would tidy the path up before it sends it.
    raw = path.encode()
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": unquote_to_bytes(raw).decode("latin-1"),
        "raw_path": raw,
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1")],
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    anyio.run(server.app(), scope, receive, send)
    assert sent[0]["status"] in (404, 405)
    body = b"".join(message.get("body", b"") for message in sent)
    assert b"import" not in body
    assert b"root:" not in body


def test_bodies_are_bounded_while_they_come_whatever_their_length_says(page):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 50_000_000:
            sent += 65_536
            yield b" " * 65_536

    headers = {"content-type": "application/json"}
    assert page.post("/api/answer", content=b" " * (MAX_JSON_BYTES + 1), headers=headers).status_code == 413
    assert page.post("/api/answer", content=endless(), headers=headers).status_code == 413
    lied = page.post("/api/answer", content=b"{}", headers=headers | {"content-length": "9" * 30})
    assert lied.status_code == 413


def test_a_fault_of_ours_tells_nothing_of_the_machine(page, monkeypatch):
    def broken(*_):
        raise RuntimeError("/home/somebody/secret")

    monkeypatch.setattr("moesim.ui.app.answer", broken)
    found = page.post("/api/answer", json=SMALL)
    assert found.status_code == 500
    assert "secret" not in found.text
    assert "Traceback" not in found.text
    assert set(found.json()) == {"error", "faults"}


@pytest.fixture
def far(library):
    """A server that others on the network reach."""
    rules = Rules({"example.org"}, any_address=True, access_token="the-token")
    with TestClient(Server(library, rules).app(), base_url="http://10.1.2.3:8765") as client:
        yield client, rules


def test_beyond_this_machine_nothing_is_shown_without_the_token(far):
    client, rules = far
    page_token = {"x-moesim": rules.page_token}
    for path in (
        "/",
        "/?token=",
        "/?token=wrong",
        "/?token=the-token2",
        "/api/catalogue?token=the-token",
        "/static/main.js",
    ):
        found = client.get(path, follow_redirects=False)
        assert found.status_code == 401, path
        assert rules.page_token not in found.text
    assert client.post("/?token=the-token", json={}).status_code == 401
    assert client.post("/api/answer", json=SMALL, headers=page_token).status_code == 401
    assert client.get("/", headers={"cookie": f"{rules.cookie}=wrong"}).status_code == 401
    assert client.get("/", headers={"cookie": "=;;;\x01"}).status_code == 401


def test_the_token_is_shown_once_and_kept_where_no_script_sees_it(far):
    client, rules = far
    first = client.get("/?token=the-token", follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "domain" not in cookie
    assert rules.cookie != Rules(access_token="another").cookie
    assert client.get("/").status_code == 200
    assert client.post("/api/answer", json=SMALL).status_code == 403
    assert client.post("/api/answer", json=SMALL, headers={"x-moesim": rules.page_token}).status_code == 200
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"host": "example.org"}).status_code == 200


def test_tokens_are_not_in_what_a_program_prints_of_its_rules():
    rules = Rules(access_token="the-token")
    assert "the-token" not in repr(rules)
    assert rules.page_token not in repr(rules)
    assert Rules().page_token != rules.page_token
    assert len(rules.page_token) >= 32
